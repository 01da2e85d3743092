/*
 * Addresses, sockets, waiting, and memory that faults; part of diff.h.
 */
/* ---- addresses ------------------------------------------------------------------------------------------------ */

struct addr {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_storage storage;
    };
    socklen_t len;
};

DIFF_HELPER struct addr addr_of(const char *text, int port)
{
    struct addr a;
    memset(&a, 0, sizeof a);
    if (strchr(text, ':')) {
        a.in6.sin6_family = AF_INET6;
        a.in6.sin6_port = htons(port);
        inet_pton(AF_INET6, text, &a.in6.sin6_addr);
        a.len = sizeof a.in6;
    } else {
        a.in.sin_family = AF_INET;
        a.in.sin_port = htons(port);
        inet_pton(AF_INET, text, &a.in.sin_addr);
        a.len = sizeof a.in;
    }
    return a;
}

/* The peer's address, this program's own on the same wire, the wildcard and the loopback, in the family of this run. */
DIFF_HELPER struct addr peer_addr(int port) { return addr_of(diff_env("DIFF_PEER_ADDR", "127.0.0.1"), port); }
DIFF_HELPER struct addr my_addr(int port) { return addr_of(diff_env("DIFF_MY_ADDR", "127.0.0.1"), port); }
DIFF_HELPER struct addr any_addr(int port) { return addr_of(family == AF_INET6 ? "::" : "0.0.0.0", port); }
DIFF_HELPER struct addr loopback_addr(int port) { return addr_of(family == AF_INET6 ? "::1" : "127.0.0.1", port); }

/* The local port of a socket, in host order. */
DIFF_HELPER int port_of(int fd)
{
    struct addr a = {.len = sizeof a.storage};
    if (getsockname(fd, &a.sa, &a.len))
        return -1;
    return ntohs(family == AF_INET6 ? a.in6.sin6_port : a.in.sin_port);
}

/* An address for printing: who, not where: "mine", "peer", "any", "loopback", with its port if that is `known`. */
DIFF_HELPER const char *addr_name(const struct sockaddr *sa, socklen_t len)
{
    static char texts[4][96];
    static int turn;
    char *text = texts[turn++ % 4];
    char host[64] = "?";
    if (len >= sizeof(struct sockaddr_in) && sa->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, host, sizeof host);
    else if (len >= sizeof(struct sockaddr_in6) && sa->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)sa)->sin6_addr, host, sizeof host);
    const char *name = !strcmp(host, diff_env("DIFF_PEER_ADDR", "127.0.0.1")) ? "peer"
        : !strcmp(host, diff_env("DIFF_MY_ADDR", "-"))                        ? "mine"
                                                                              : host;
    const char *kind = sa->sa_family == AF_INET ? "inet" : sa->sa_family == AF_INET6 ? "inet6" : "other";
    snprintf(text, 96, "%s %s len %u", kind, name, len);
    return text;
}

/* ---- sockets -------------------------------------------------------------------------------------------------- */

DIFF_HELPER int tcp_socket(void)
{
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd < 0)
        give_up("socket");
    return fd;
}

DIFF_HELPER int udp_socket(void)
{
    int fd = socket(family, SOCK_DGRAM, 0);
    if (fd < 0)
        give_up("socket");
    return fd;
}

/* A socket that is bound to this host's address on the wire. */
DIFF_HELPER int bound(int fd)
{
    struct addr a = my_addr(0);
    if (bind(fd, &a.sa, a.len))
        give_up("bind");
    return fd;
}

/* A listening TCP socket on this host's address; its port by port_of(). */
DIFF_HELPER int listening(void)
{
    int fd = bound(tcp_socket());
    if (listen(fd, 16))
        give_up("listen");
    return fd;
}

/* Connects to a port of the peer. */
DIFF_HELPER int connected_to(int port)
{
    int fd = tcp_socket();
    struct addr a = peer_addr(port);
    if (connect(fd, &a.sa, a.len))
        give_up("connect");
    return fd;
}

/* A TCP connection that this program opened; the peer's end is the peer's current handle. */
DIFF_HELPER int active_pair(void)
{
    int fd = connected_to(peer_number("listen"));
    peer_ok("accept");
    return fd;
}

/* A TCP connection that this program accepted; the peer's end is the peer's current handle. */
DIFF_HELPER int passive_pair(void)
{
    int l = listening();
    peer_ok("connect %d", port_of(l));
    int fd = accept(l, NULL, NULL);
    if (fd < 0)
        give_up("accept");
    close(l);
    return fd;
}

/* A UDP socket of this program that is connected to one of the peer's, and the other way round. */
DIFF_HELPER int udp_pair(void)
{
    int fd = bound(udp_socket());
    struct addr a = peer_addr(peer_number("udp"));
    if (connect(fd, &a.sa, a.len))
        give_up("connect");
    return fd;
}

DIFF_HELPER void nonblocking(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

/* ---- waiting: never by time where an event will do ------------------------------------------------------------- */

/* Waits up to `ms` for these events; the events that are there, 0 when none came, -1 for an error. */
DIFF_HELPER int wait_events_ms(int fd, short events, int ms)
{
    struct pollfd p = {.fd = fd, .events = events};
    int n = poll(&p, 1, ms);
    return n > 0 ? p.revents : n;
}

/* Waits for these events, five seconds at the most. */
DIFF_HELPER int wait_events(int fd, short events) { return wait_events_ms(fd, events, 5000); }
DIFF_HELPER int wait_readable(int fd, int ms) { return wait_events_ms(fd, POLLIN, ms); }

/* Waits until at least `n` bytes can be read. */
DIFF_HELPER void wait_bytes(int fd, int n)
{
    int there = 0;
    for (int i = 0; i < 5000; i++) {
        if (ioctl(fd, FIONREAD, &there) == 0 && there >= n)
            return;
        usleep(1000);
    }
    give_up("%d bytes wait, not %d", there, n);
}

/* Waits until everything that was sent has been acknowledged. */
DIFF_HELPER void wait_sent(int fd)
{
    int left = 0;
    for (int i = 0; i < 5000; i++) {
        if (ioctl(fd, SIOCOUTQ, &left) == 0 && left == 0)
            return;
        usleep(1000);
    }
    give_up("%d bytes are not acknowledged", left);
}

DIFF_HELPER const char *tcp_state(int fd)
{
    static const char *const names[] = {"?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",
        "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"};
    struct tcp_info info;
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) || info.tcpi_state >= 12)
        return "?";
    return names[info.tcpi_state];
}

/* Waits until the connection is in this state, as TCP_INFO tells. */
DIFF_HELPER void wait_state(int fd, const char *state)
{
    for (int i = 0; i < 5000; i++) {
        if (!strcmp(tcp_state(fd), state))
            return;
        usleep(1000);
    }
    give_up("state is %s, not %s", tcp_state(fd), state);
}

/* Byte number `n` of what the peer's `send` sends. */
DIFF_HELPER char pattern(unsigned long n) { return "abcdefghijklmnopqrstuvwxyz0123456789"[n % 35]; }

DIFF_HELPER void fill_pattern(char *data, unsigned long from, unsigned long n)
{
    for (unsigned long i = 0; i < n; i++)
        data[i] = pattern(from + i);
}

/* Memory that faults when it is touched. */
DIFF_HELPER void *bad_memory(void)
{
    static void *p;
    if (!p)
        p = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p;
}

/* `n` bytes of which the next byte faults: for lengths that are too long. */
DIFF_HELPER void *edge(size_t n)
{
    size_t page = 4096, pages = (n + page - 1) / page;
    char *p = mmap(NULL, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(p + pages * page, page, PROT_NONE);
    return p + pages * page - n;
}
