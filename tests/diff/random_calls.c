/*
 * Random sequences of calls. Case `seed_N` makes the sequence that follows from N, on up to six descriptors, with the
 * peer at the other end of their connections. The environment says how many seeds (DIFF_SEEDS) from which on
 * (DIFF_FIRST_SEED) and how many steps each (DIFF_STEPS). Nothing blocks, and after every step that the network takes
 * part in the program waits until all is quiet: so what happens depends on the seed alone.
 */
#define DIFF_MORE_CASES
#include "diff.h"

enum { SLOTS = 6, NOBODY = -1 };

enum kind { NONE, TCP, UDP, SET };

struct slot {
    enum kind kind;
    int fd;
    int peer;     /* the peer's handle, or NOBODY */
    int accepted; /* made by accept */
    int aliased;  /* has, or had, another descriptor */
    int shut;     /* shutdown was called */
    int tried;    /* was in a connection that this program opened: its address stays, see docs/differences.md */
};

static struct slot slots[SLOTS];
static int handles;      /* the peer has made so many */
static int server_port;  /* the peer listens here */
static int server;       /* on this handle */
static uint64_t state;
static char buf[70000];

static unsigned below(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 20) % n;
}

static int one_in(unsigned n) { return below(n) == 0; }

/* How much to send or receive: mostly little. */
static int some(void)
{
    static const int sizes[] = {0, 1, 2, 3, 10, 100, 1000, 4096, 5000, 20000};
    return sizes[below(10)];
}

/* ---- quiet -------------------------------------------------------------------------------------------------------- */

static int is_moving(const char *s)
{
    return !strcmp(s, "FIN_WAIT1") || !strcmp(s, "CLOSING") || !strcmp(s, "LAST_ACK") || !strcmp(s, "SYN_RECV");
}

/* Until both ends have nothing more to say. */
static void settle(struct slot *s)
{
    if (s->kind != TCP || s->peer == NOBODY)
        return;
    peer("use %d", s->peer);
    if (strcmp(peer("quiet"), "ok"))
        say("the peer is not quiet");
    for (int i = 0; i < 4000; i++) {
        int left = 0;
        const char *now = tcp_state(s->fd);
        ioctl(s->fd, SIOCOUTQ, &left);
        if (!strcmp(now, "CLOSE") || (left == 0 && !is_moving(now)))
            return;
        usleep(500);
    }
    say("not quiet: %s", tcp_state(s->fd));
}

/* A FIN or RST of the peer is under way: nothing tells when it is here. */
static void let_it_arrive(struct slot *s)
{
    usleep(25000);
    wait_events_ms(s->fd, POLLIN, 0);
    settle(s);
}

/* ---- steps -------------------------------------------------------------------------------------------------------- */

static struct slot *free_slot(void)
{
    struct slot *s = &slots[below(SLOTS)];
    if (s->kind != NONE)
        close(s->fd);
    *s = (struct slot){.kind = NONE, .fd = -1, .peer = NOBODY};
    return s;
}

static void make(void)
{
    struct slot *s = free_slot();
    s->kind = one_in(4) ? UDP : TCP;
    s->fd = socket(family, (s->kind == UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_NONBLOCK, 0);
    say("  %s in %d", s->kind == UDP ? "udp" : "tcp", (int)(s - slots));
}

static void do_bind(struct slot *s)
{
    struct addr a = one_in(8) ? addr_of("192.0.2.7", 0) : one_in(3) ? any_addr(0) : my_addr(0);
    say_ret("  bind", bind(s->fd, &a.sa, a.len));
}

static void do_listen(struct slot *s) { say_ret("  listen", listen(s->fd, 8)); }

static void do_connect(struct slot *s)
{
    int refused = one_in(5);
    int port = s->kind == UDP ? peer_number("udp") : refused ? 9 : server_port;
    if (s->kind == UDP)
        handles++;
    s->tried = 1;
    struct addr a = peer_addr(port);
    long ret = say_ret("  connect", connect(s->fd, &a.sa, a.len));
    if (s->kind == UDP) {
        s->peer = handles - 1;
        return;
    }
    if (ret == 0 || errno != EINPROGRESS) {
        /* It told that the connection before had failed: the socket is as if it had never been made. */
        if (ret < 0 && errno != EISCONN && errno != EALREADY && errno != EINVAL)
            s->peer = NOBODY;
        return;
    }
    for (int i = 0; i < 4000 && !strcmp(tcp_state(s->fd), "SYN_SENT"); i++)
        usleep(500);
    say("  events %s", events_name(wait_events(s->fd, POLLOUT)));
    if (!one_in(3))
        say_ret("  connect again", connect(s->fd, &a.sa, a.len));
    if (!refused) {
        peer("use %d", server);
        say("  peer accept: %s", peer("accept"));
        s->peer = handles++;
        s->accepted = 0;
    } else
        s->peer = NOBODY;
}

static void do_dissolve(struct slot *s)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    /* Of an accepted socket the name differs afterwards, see docs/differences.md. */
    if (s->accepted || s->aliased || s->kind == UDP)
        return;
    say_ret("  connect AF_UNSPEC", connect(s->fd, &none, sizeof none));
    usleep(10000);
    s->peer = NOBODY;
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &len);
    say("  error %s", errno_name(error));
}

static void do_accept(struct slot *s)
{
    int value = 0;
    socklen_t len = sizeof value;
    getsockopt(s->fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &len);
    if (s->kind != TCP || !value) {
        say_fd("  accept", accept(s->fd, NULL, NULL));
        return;
    }
    int listener = s->fd;
    if (!one_in(4)) {
        say("  peer connect: %s", peer("connect %d", port_of(listener)));
        handles++;
        wait_events(listener, POLLIN);
        int fd = say_fd("  accept", accept4(listener, NULL, NULL, SOCK_NONBLOCK));
        if (fd < 0)
            return;
        struct slot *n = free_slot();
        *n = (struct slot){.kind = TCP, .fd = fd, .peer = handles - 1, .accepted = 1};
        say("  in %d", (int)(n - slots));
        /* Its listener may have been shut down before it listened: then a FIN is on its way. */
        settle(n);
    } else
        say_fd("  accept", accept(listener, NULL, NULL));
}

static void do_send(struct slot *s)
{
    static const int flags[] = {0, MSG_DONTWAIT, MSG_CONFIRM, MSG_OOB, MSG_EOR};
    int n = some(), f = flags[below(s->kind == UDP ? 3 : 5)] | MSG_NOSIGNAL;
    int half = n / 2;
    struct iovec iov[3] = {{buf, half}, {NULL, 0}, {buf + half, n - half}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 3};
    fill_pattern(buf, 0, n);
    if (s->kind == UDP && n > 1400)
        n = 1400;
    int how = below(5);
    say("  call %d, %d bytes, flags %x", how, n, f);
    switch (how) {
    case 0: say_ret("  send", send(s->fd, buf, n, f)); break;
    case 1: say_ret("  write", write(s->fd, buf, n)); break;
    case 2: say_ret("  writev", writev(s->fd, iov, 3)); break;
    case 3: say_ret("  sendto", sendto(s->fd, buf, n, f, NULL, 0)); break;
    case 4: say_ret("  sendmsg", sendmsg(s->fd, &m, f)); break;
    }
    if (s->kind == UDP && s->peer != NOBODY && n > 0 && n <= 1400) {
        peer("use %d", s->peer);
        usleep(3000);
        /* Take all of them: only the sender of the last one counts. */
        while (atoi(peer("inq")) > 0)
            say("  peer recvfrom: %s", peer("recvfrom"));
    }
    settle(s);
}

static void do_recv(struct slot *s)
{
    static const int flags[] = {0, MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL, MSG_TRUNC, MSG_OOB, MSG_PEEK | MSG_TRUNC};
    int n = some(), f = flags[below(7)], half = n / 2;
    struct iovec iov[3] = {{buf, half}, {NULL, 0}, {buf + half, n - half}};
    struct addr a = {.len = sizeof a.storage};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 3, .msg_name = &a.storage, .msg_namelen = sizeof a.storage};
    long ret;
    memset(buf, '.', n);
    int how = below(5);
    say("  call %d, %d bytes, flags %x", how, n, f);
    switch (how) {
    case 0: ret = recv(s->fd, buf, n, f); break;
    case 1: ret = read(s->fd, buf, n); break;
    case 2: ret = readv(s->fd, iov, 3); break;
    case 3: ret = recvfrom(s->fd, buf, n, f, &a.sa, &a.len); break;
    default:
        ret = recvmsg(s->fd, &m, f);
        if (ret >= 0)
            say("  flags %x name %u", m.msg_flags, m.msg_namelen);
    }
    say_data("  receive", ret, buf);
    settle(s);
}

static void do_shutdown(struct slot *s)
{
    int how = below(3);
    say("  how %d", how);
    say_ret("  shutdown", shutdown(s->fd, how));
    for (int i = 0; i < SLOTS; i++)
        slots[i].shut |= s->peer != NOBODY && slots[i].peer == s->peer;
    s->shut = 1;
    settle(s);
}

static void do_ask(struct slot *s)
{
    struct addr a = {.len = sizeof a.storage};
    int n = -1, ret = getsockname(s->fd, &a.sa, &a.len);
    if (!s->tried || s->peer != NOBODY)
        say("  getsockname %s", ret ? errno_name(errno) : addr_name(&a.sa, a.len));
    a.len = sizeof a.storage;
    ret = getpeername(s->fd, &a.sa, &a.len);
    say("  getpeername %s", ret ? errno_name(errno) : addr_name(&a.sa, a.len));
    if (s->kind == TCP) {
        ret = ioctl(s->fd, FIONREAD, &n);
        say("  FIONREAD %d %d", ret, ret ? errno : n);
        say_ret("  sockatmark", sockatmark(s->fd));
        say("  state %s", tcp_state(s->fd));
    }
    say("  events %s", events_name(wait_events_ms(s->fd, POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM, 0)));
}

static void do_option(struct slot *s)
{
    static const struct {
        int level, name, value;
    } options[] = {{SOL_SOCKET, SO_KEEPALIVE, 1}, {SOL_SOCKET, SO_OOBINLINE, 1}, {SOL_SOCKET, SO_ERROR, 0},
        {IPPROTO_TCP, TCP_NODELAY, 1}, {SOL_SOCKET, SO_REUSEADDR, 1}, {SOL_SOCKET, SO_TYPE, 0},
        {SOL_SOCKET, SO_RCVLOWAT, 5}, {IPPROTO_TCP, TCP_KEEPIDLE, 77}, {SOL_SOCKET, SO_ACCEPTCONN, 0}};
    int i = below(9), value = options[i].value;
    socklen_t len = sizeof value;
    if (one_in(2))
        say_ret("  setsockopt", setsockopt(s->fd, options[i].level, options[i].name, &value, len));
    value = -1;
    say_ret("  getsockopt", getsockopt(s->fd, options[i].level, options[i].name, &value, &len));
    say("  option %d is %d", options[i].name, value);
}

static void do_linger(struct slot *s)
{
    struct linger at_once = {.l_onoff = 1};
    say_ret("  SO_LINGER", setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
}

static void do_close(struct slot *s)
{
    int who = s->peer;
    enum kind kind = s->kind;
    say_ret("  close", close(s->fd));
    *s = (struct slot){.kind = NONE, .fd = -1, .peer = NOBODY};
    if (kind != TCP || who == NOBODY)
        return;
    usleep(25000);
    peer("use %d", who);
    say("  peer is %s", peer("state"));
}

static void do_dup(struct slot *s)
{
    /* Only of connections: what a socket was before its connection failed is known to one descriptor. */
    if (s->peer == NOBODY)
        return;
    s->aliased = 1;
    struct slot old = *s;
    int fd = dup(s->fd);
    say_fd("  dup", fd);
    struct slot *n = free_slot();
    *n = old;
    n->fd = fd;
    say("  in %d", (int)(n - slots));
}

static void do_bad(struct slot *s)
{
    socklen_t len = 4;
    switch (below(6)) {
    case 0: say_ret("  recv bad", recv(s->fd, bad_memory(), 10, MSG_DONTWAIT | MSG_PEEK)); break;
    case 1: say_ret("  send bad", send(s->fd, bad_memory(), 10, MSG_NOSIGNAL)); break;
    case 2: say_ret("  getsockname bad", getsockname(s->fd, bad_memory(), &len)); break;
    case 3: say_ret("  connect bad", connect(s->fd, bad_memory(), 16)); break;
    case 4: say_ret("  sendmsg bad", sendmsg(s->fd, bad_memory(), MSG_NOSIGNAL)); break;
    case 5: say_ret("  shutdown bad", shutdown(s->fd, 9)); break;
    }
}

/* ---- what the peer does --------------------------------------------------------------------------------------------- */

static void peer_acts(struct slot *s)
{
    if (s->peer == NOBODY)
        return;
    peer("use %d", s->peer);
    if (s->kind == UDP) {
        if (peer("from")[0] == '0' || !strncmp(peer("from"), "::", 2) || strstr(peer("from"), "null"))
            return;
        /* Only the first one in the queue can be waited for. */
        if (wait_events_ms(s->fd, POLLIN, 0) & POLLIN && !s->shut)
            return;
        say("  peer reply: %s", peer("reply %d", 1 + below(900)));
        wait_events_ms(s->fd, POLLIN, 300);
        if (s->shut)
            usleep(20000);
        return;
    }
    int n;
    switch (below(8)) {
    case 0:
    case 1:
    case 2: say("  peer send: %s", peer("send %d", 1 + some())); break;
    case 3:
        n = below(26);
        if (!strcmp(tcp_state(s->fd), "ESTABLISHED"))
            say("  peer oob: %s", peer("oob %c", 'A' + n));
        break;
    case 4:
    case 5:
        n = atoi(peer("inq"));
        if (n > 0)
            say("  peer recv: %s", peer("recv %d", n));
        break;
    case 6:
        say("  peer shutdown: %s", peer("shutdown w"));
        let_it_arrive(s);
        break;
    case 7:
        if (!one_in(3))
            break;
        say("  peer %s", one_in(2) ? peer("rst") : peer("close"));
        let_it_arrive(s);
        break;
    }
    settle(s);
}

/* ---- all of them at once ---------------------------------------------------------------------------------------------- */

static void do_poll_all(void)
{
    struct pollfd p[SLOTS];
    int set = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP}, got[SLOTS];
    unsigned found[SLOTS] = {0};
    for (int i = 0; i < SLOTS; i++) {
        p[i] = (struct pollfd){.fd = slots[i].fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP};
        e.data.u32 = i;
        if (slots[i].fd >= 0 && epoll_ctl(set, EPOLL_CTL_ADD, slots[i].fd, &e))
            say_ret("  epoll_ctl", -1);
    }
    say_ret("  poll", poll(p, SLOTS, 0));
    int n = epoll_wait(set, got, SLOTS, 0);
    say_ret("  epoll_wait", n);
    for (int i = 0; i < n; i++)
        found[got[i].data.u32 % SLOTS] = got[i].events;
    for (int i = 0; i < SLOTS; i++)
        say("  %d: poll %s, epoll %s", i, events_name(p[i].revents), events_name(found[i]));
    close(set);
}

static void step(int number)
{
    static const struct {
        const char *name;
        void (*run)(struct slot *s);
        int weight;
    } steps[] = {{"connect", do_connect, 5}, {"send", do_send, 8}, {"recv", do_recv, 9}, {"peer", peer_acts, 12},
        {"accept", do_accept, 4}, {"bind", do_bind, 1}, {"listen", do_listen, 3}, {"shutdown", do_shutdown, 2},
        {"ask", do_ask, 5}, {"option", do_option, 3}, {"close", do_close, 2}, {"dup", do_dup, 1},
        {"bad", do_bad, 3}, {"dissolve", do_dissolve, 1}, {"linger", do_linger, 1}};
    int total = 0, i = 0;
    struct slot *s = &slots[below(SLOTS)];
    if (s->kind == NONE) {
        say("%d: make", number);
        make();
        return;
    }
    if (one_in(15)) {
        say("%d: poll", number);
        do_poll_all();
        return;
    }
    for (size_t k = 0; k < sizeof steps / sizeof *steps; k++)
        total += steps[k].weight;
    for (int at = below(total); at >= steps[i].weight; i++)
        at -= steps[i].weight;
    say("%d: %s on %d", number, steps[i].name, (int)(s - slots));
    steps[i].run(s);
}

static int number_of(const char *name, int otherwise) { return atoi(diff_env(name, "0")) ?: otherwise; }

static void list_more_cases(void)
{
    int first = number_of("DIFF_FIRST_SEED", 1);
    for (int i = 0; i < number_of("DIFF_SEEDS", 24); i++)
        printf("seed_%d\t0\t\n", first + i);
}

static int run_more_cases(const char *name)
{
    int seed = 0;
    if (sscanf(name, "seed_%d", &seed) != 1)
        return 0;
    state = 0x9e3779b97f4a7c15UL * (seed + 1);
    for (int i = 0; i < SLOTS; i++)
        slots[i] = (struct slot){.fd = -1, .peer = NOBODY};
    signal(SIGPIPE, SIG_IGN);
    server_port = peer_number("listen");
    server = handles++;
    for (int i = 0; i < number_of("DIFF_STEPS", 60); i++)
        step(i);
    return 1;
}

CASE(deterministic)
{
    state = 42;
    unsigned a = below(1000), b = below(1000);
    say("%u %u", a, b);
}
