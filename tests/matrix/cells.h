/*
 * What a cell is about: kinds of object, states they are in, and using them in that state. The numbers of the agents'
 * descriptors are the coordinator's to remember; it never prints them.
 */
enum kind { CLIENT, ACCEPTED, LISTENER, UDP_CONNECTED, UDP_UNCONNECTED, EPOLL, KINDS };
enum state { IDLE, MID, FULL, HALF_OUT, HALF_IN, UNREAD, STATES };

static const char *const kind_names[] = {"client", "accepted", "listener", "udp_connected", "udp_unconnected", "epoll"};
static const char *const state_names[] = {"idle", "mid", "full", "half_out", "half_in", "unread"};

/* Bytes each way of a transfer that is interrupted, and of one turn of it. */
enum { WHOLE = 300000, TURN = 60000, LATER = 3000 };

static struct {
    enum kind kind;
    enum state state;
    int fd, epfd, port, peer_port, peer_udp;
    char cookie[20];           /* name of the kernel socket, as `flyover ss` prints it */
    int pending;               /* connections or datagrams that wait since before the event */
    unsigned long out, in;     /* bytes of ours so far */
    unsigned long out_left, in_left;
    int peer_reads;            /* a full window is open again */
    int leaves;                /* the kernel gets it: its send buffer takes more or less than the stack's */
} cell;

static pid_t pids[AGENTS];

static int is_tcp(void) { return cell.kind == CLIENT || cell.kind == ACCEPTED || cell.kind == EPOLL; }
static int is_udp(void) { return cell.kind == UDP_CONNECTED || cell.kind == UDP_UNCONNECTED; }

/* ---- talking to agents ------------------------------------------------------------------------------------------- */

/* What an agent says next; "silent" after ten seconds. */
static const char *hear(int agent)
{
    static char replies[4][512];
    static int turn;
    char *reply = replies[turn++ % 4];
    struct pollfd p = {.fd = COORDINATOR + agent, .events = POLLIN};
    if (poll(&p, 1, 10000) != 1)
        return "silent";
    long n = recv(COORDINATOR + agent, reply, 511, 0);
    reply[n > 0 ? n : 0] = 0;
    return reply;
}

static void tell(int agent, const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (send(COORDINATOR + agent, line, n, MSG_NOSIGNAL) != n)
        give_up("agent %d is gone", agent);
}

#define order(AGENT, ...) (tell(AGENT, __VA_ARGS__), hear(AGENT))

/* A new agent reports. */
static void greet(int agent)
{
    const char *text = hear(agent);
    int pid = 0;
    if (sscanf(text, "hello %d", &pid) != 1)
        give_up("agent %d says %s", agent, text);
    pids[agent] = pid;
}

static void must(const char *what, const char *reply)
{
    if (strcmp(reply, "ok"))
        give_up("%s: %s", what, reply);
}

static char last_cookie[20];

/* The second number of "fd N M" goes to `other`. */
static int descriptor(const char *what, const char *reply, int *other)
{
    int fd = -1, more = -1;
    if (sscanf(reply, "fd %d %d %19s", &fd, &more, last_cookie) < 1)
        give_up("%s: %s", what, reply);
    if (other)
        *other = more;
    return fd;
}

/* ---- opening ------------------------------------------------------------------------------------------------------- */

static void open_object(int a)
{
    int listener;
    cell.epfd = -1;
    switch (cell.kind) {
    case CLIENT:
    case EPOLL:
        cell.peer_port = peer_number("listen");
        cell.fd = descriptor("client", order(a, "open client %d", cell.peer_port), &cell.port);
        peer_ok("accept");
        break;
    case ACCEPTED:
        listener = descriptor("listener", order(a, "open listener"), &cell.port);
        peer_ok("connect %d", cell.port);
        cell.fd = descriptor("accept", order(a, "open accept %d", listener), NULL);
        must("close", order(a, "close %d", listener));
        break;
    case LISTENER:
        cell.fd = descriptor("listener", order(a, "open listener"), &cell.port);
        break;
    default:
        cell.peer_udp = peer_number("udp");
        cell.fd = descriptor("udp",
            order(a, "open %s %d", cell.kind == UDP_CONNECTED ? "udpc" : "udp", cell.peer_udp), &cell.port);
    }
    strcpy(cell.cookie, last_cookie);
    if (cell.kind == EPOLL)
        cell.epfd = descriptor("epoll", order(a, "open epoll %d", cell.fd), NULL);
}

static const char *pump_of(int a, unsigned long out, unsigned long in)
{
    if (cell.epfd >= 0)
        tell(a, "epump %d %lu %lu %lu %lu", cell.fd | cell.epfd << 16, cell.out, out, cell.in, in);
    else
        tell(a, "pump %d %lu %lu %lu %lu", cell.fd, cell.out, out, cell.in, in);
    cell.out += out;
    cell.in += in;
    return hear(a);
}

/* Brings the object into the state. */
static void prepare(int a)
{
    if (cell.kind == LISTENER) {
        cell.pending = cell.state == IDLE ? 0 : 2;
        for (int i = 0; i < cell.pending; i++) {
            peer_ok("connect %d", cell.port);
            peer_ok("send 10");
            if (cell.state == HALF_IN)
                peer_ok("shutdown w");
            peer_ok("quiet");
        }
        return;
    }
    if (is_udp()) {
        cell.pending = cell.state == MID ? 3 : 0;
        for (int i = 0; i < cell.pending; i++)
            peer_ok("sendto %d %d", cell.port, 50 + 10 * i);
        return;
    }
    switch (cell.state) {
    case MID:
        peer_ok("exchange %d %d", WHOLE, WHOLE);
        must("first turn", pump_of(a, TURN, TURN));
        cell.out_left = cell.in_left = WHOLE - TURN;
        break;
    case FULL:
        cell.out = strtoul(order(a, "fill %d 0", cell.fd), NULL, 10);
        if (cell.out < 65536)
            give_up("only %lu bytes fill the window", cell.out);
        cell.out_left = cell.in_left = LATER;
        break;
    case HALF_OUT:
        must("shutdown", order(a, "shutdown %d", cell.fd));
        if (strcmp(peer("recvall"), "0  eof"))
            give_up("no end of stream at the peer");
        break;
    case HALF_IN:
        peer_ok("shutdown w");
        peer_ok("quiet");
        break;
    case UNREAD:
        peer_ok("send 1000");
        peer_ok("quiet");
        cell.pending = 1;
        break;
    default:
        break;
    }
}

/* ---- using --------------------------------------------------------------------------------------------------------- */

static void use_listener(int a, const char *who)
{
    if (cell.pending > 0)
        peer_ok("use %d", 2 - cell.pending--);
    else {
        say("%s: peer connects: %s", who, peer("connect %d", cell.port));
        peer("send 10");
        if (cell.state == HALF_IN)
            peer("shutdown w");
    }
    say("%s: serves %s", who, order(a, "serve %d %d", cell.fd, cell.state == HALF_IN));
    say("%s: peer gets %s", who, peer("recv 10"));
    say("%s: peer then gets %s", who, peer("recvall"));
}

static void use_udp(int a, const char *who)
{
    if (cell.pending > 0)
        cell.pending--, say("%s: queued datagram of %s", who, order(a, "datagram %d", cell.fd));
    int port = cell.kind == UDP_CONNECTED ? 0 : cell.peer_udp;
    say("%s: sends: %s", who, order(a, "sendto %d 100 %d", cell.fd, port));
    say("%s: peer gets %s", who, peer("recvfrom"));
    if (cell.pending > 0)
        return;
    peer_ok("sendto %d 200", cell.port);
    say("%s: datagram of %s", who, order(a, "datagram %d", cell.fd));
}

static void events_of(int a, const char *who)
{
    if (cell.epfd >= 0)
        say("%s: set: %s", who, order(a, "watch %d 3000", cell.epfd));
}

/* The peer reads what filled its window, and more. */
static void let_peer_read(void)
{
    if (cell.peer_reads)
        return;
    cell.peer_reads = 1;
    peer_ok("exchange %d %lu", LATER, cell.out + LATER);
}

static void turn_of(int a, const char *who, unsigned long out, unsigned long in)
{
    out = out < cell.out_left ? out : cell.out_left;
    in = in < cell.in_left ? in : cell.in_left;
    cell.out_left -= out;
    cell.in_left -= in;
    say("%s: turn: %s", who, pump_of(a, out, in));
}

/* One turn of a holder; as many as one likes. */
static void use(int a, const char *who)
{
    if (cell.kind == LISTENER) {
        use_listener(a, who);
        return;
    }
    if (is_udp()) {
        use_udp(a, who);
        return;
    }
    switch (cell.state) {
    case UNREAD:
    case IDLE:
        if (!cell.pending) {
            peer_ok("send 500");
            peer_ok("quiet");
        }
        events_of(a, who);
        say("%s: receives: %s", who, pump_of(a, 0, cell.pending ? 1000 : 500));
        cell.pending = 0;
        events_of(a, who);
        say("%s: sends: %s", who, pump_of(a, 500, 0));
        say("%s: peer gets %s", who, peer("recv 500"));
        break;
    case MID:
        turn_of(a, who, TURN, TURN);
        break;
    case FULL:
        if (!cell.peer_reads && cell.epfd >= 0 && !cell.leaves)
            say("%s: set: %s", who, order(a, "watch %d 0", cell.epfd));
        let_peer_read();
        turn_of(a, who, 1000, 1000);
        break;
    case HALF_OUT:
        peer_ok("send 500");
        peer_ok("quiet");
        events_of(a, who);
        say("%s: receives: %s", who, pump_of(a, 0, 500));
        say("%s: sends: %s", who, pump_of(a, 1, 0));
        cell.out--;
        break;
    case HALF_IN:
        events_of(a, who);
        say("%s: sends: %s", who, pump_of(a, 500, 0));
        say("%s: peer gets %s", who, peer("recv 500"));
        say("%s: receives: %s", who, pump_of(a, 0, 1));
        cell.in--;
        break;
    default:
        break;
    }
}

/* What was begun is brought to its end. */
static void complete(int a)
{
    if (!is_tcp() || (cell.state != MID && cell.state != FULL))
        return;
    if (cell.state == FULL)
        let_peer_read();
    turn_of(a, "rest", WHOLE, WHOLE);
    say("peer: %s", peer("exchanged"));
}

/* ---- the end -------------------------------------------------------------------------------------------------------- */

/* A local port in a file of /proc/net: is a socket of this host bound to it? */
static int is_bound(const char *file, int port)
{
    char line[512];
    unsigned local;
    int found = 0;
    FILE *f = fopen(file, "r");
    while (f && fgets(line, sizeof line, f))
        found |= sscanf(line, " %*d: %*[0-9A-F]:%x", &local) == 1 && (int)local == port;
    if (f)
        fclose(f);
    return found;
}

static void say_port_is_free(void)
{
    int taken = 1;
    for (int i = 0; i < 2000 && taken; i++) {
        taken = is_bound("/proc/net/udp", cell.port) || is_bound("/proc/net/udp6", cell.port);
        if (taken)
            usleep(1000);
    }
    say("port: %s", taken ? "still bound" : "free");
}

/* Nobody holds the object any more. `complete`: what was begun has been brought to its end before. */
static void say_end(int is_complete)
{
    if (is_udp()) {
        say_port_is_free();
        return;
    }
    if (cell.kind == LISTENER) {
        for (int i = 0; i < cell.pending; i++) {
            peer_ok("use %d", 2 - cell.pending + i);
            say("end: waiting connection: %s", peer("recvall"));
        }
        say("end: peer connects: %s", peer("refused %d", cell.port));
        return;
    }
    switch (cell.state) {
    case MID:
        if (!is_complete) {
            say("end: transfer: %s", peer("exchanged"));
            break;
        }
        say("end: %s", peer("recvall"));
        break;
    case FULL:
        if (!is_complete) {
            peer_ok("exchange 0 %lu", cell.out);
            say("end: what was queued: %s", peer("exchanged"));
        }
        say("end: %s", peer("recvall"));
        break;
    case HALF_OUT:
        say("end: peer goes on sending: %s", peer("unwanted"));
        break;
    default:
        say("end: %s", peer("recvall"));
    }
}

static void close_object(int a)
{
    if (cell.epfd >= 0)
        must("close", order(a, "close %d", cell.epfd));
    must("close", order(a, "close %d", cell.fd));
}
