/* The masks of poll, select and epoll in every state of a TCP and a UDP socket. */
#include "diff.h"

enum { ALL = POLLIN | POLLPRI | POLLOUT | POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND | POLLRDHUP };

/* What the three calls say of the socket, asked at once for everything. */
static void masks(const char *when, int fd)
{
    struct pollfd p = {.fd = fd, .events = ALL};
    int n = poll(&p, 1, 0);
    say("%s: poll = %d %s", when, n, events_name(p.revents));
    p.events = 0;
    n = poll(&p, 1, 0);
    say("%s: poll for nothing = %d %s", when, n, events_name(p.revents));
    int ep = epoll_create1(0);
    struct epoll_event e = {.events = ALL, .data.u64 = 7};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e))
        say_ret("epoll_ctl", -1);
    struct epoll_event got[4] = {{0}};
    n = epoll_wait(ep, got, 4, 0);
    say("%s: epoll = %d %s", when, n, n > 0 ? events_name(got[0].events) : "0");
    close(ep);
    fd_set r, w, x;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_ZERO(&x);
    FD_SET(fd, &r);
    FD_SET(fd, &w);
    FD_SET(fd, &x);
    struct timeval no = {0, 0};
    n = select(fd + 1, &r, &w, &x, &no);
    say("%s: select = %d r%d w%d x%d", when, n, !!FD_ISSET(fd, &r), !!FD_ISSET(fd, &w), !!FD_ISSET(fd, &x));
}

CASE_KERNEL(poll_tcp_fresh) { masks("fresh", tcp_socket()); }

CASE_KERNEL(poll_tcp_bound) { masks("bound", bound(tcp_socket())); }

CASE_KERNEL(poll_udp_fresh) { masks("fresh", udp_socket()); }

CASE_KERNEL(poll_udp_bound) { masks("bound", bound(udp_socket())); }

CASE(poll_tcp_connecting)
{
    /* Nobody answers: the peer's address on a port that is dropped does not exist here, so an unused neighbour. */
    int fd = tcp_socket();
    struct addr a = peer_addr(peer_number("listen"));
    nonblocking(fd);
    int r = connect(fd, &a.sa, a.len);
    say("connect %s", r == 0 || errno == EINPROGRESS ? "begins" : errno_name(errno));
    say("then %s", events_name(wait_events(fd, POLLOUT)));
    masks("connected", fd);
}

CASE(poll_tcp_refused)
{
    int fd = tcp_socket();
    struct addr a = peer_addr(1);
    nonblocking(fd);
    connect(fd, &a.sa, a.len);
    wait_events(fd, POLLOUT);
    masks("refused", fd);
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    say("SO_ERROR %s", errno_name(error));
    masks("error taken", fd);
}

CASE(poll_tcp_refused_blocking)
{
    int fd = tcp_socket();
    struct addr a = peer_addr(1);
    say_ret("connect", connect(fd, &a.sa, a.len));
    masks("refused", fd);
}

CASE(poll_tcp_connected)
{
    int fd = active_pair();
    masks("connected", fd);
}

CASE(poll_tcp_accepted)
{
    int fd = passive_pair();
    masks("accepted", fd);
}

CASE(poll_tcp_data)
{
    int fd = active_pair();
    peer_ok("text hello");
    wait_bytes(fd, 5);
    masks("data", fd);
    char b[8];
    say_ret("recv", recv(fd, b, 2, 0));
    masks("some left", fd);
    say_ret("recv", recv(fd, b, 8, 0));
    masks("none left", fd);
}

CASE(poll_listener)
{
    int l = listening();
    masks("idle", l);
    peer_ok("connect %d", port_of(l));
    wait_events(l, POLLIN);
    masks("queued", l);
    int fd = accept(l, NULL, NULL);
    say("accepted %d", fd >= 0);
    masks("taken", l);
    masks("child", fd);
}

CASE(poll_listener_shut_down)
{
    int l = listening();
    peer_ok("connect %d", port_of(l));
    close(accept(l, NULL, NULL));
    say_ret("shutdown", shutdown(l, SHUT_RD));
    masks("shut down", l);
}

CASE(poll_half_closed_by_peer)
{
    int fd = active_pair();
    peer_ok("text bye");
    peer_ok("shutdown w");
    wait_events(fd, POLLRDHUP);
    masks("data and FIN", fd);
    char b[8];
    say_ret("recv", recv(fd, b, 8, 0));
    masks("FIN", fd);
    say_ret("recv", recv(fd, b, 8, 0));
    masks("FIN seen", fd);
}

CASE(poll_half_closed_by_us)
{
    int fd = active_pair();
    say_ret("shutdown", shutdown(fd, SHUT_WR));
    wait_state(fd, "FIN_WAIT2");
    masks("we closed", fd);
    peer_ok("text x");
    wait_bytes(fd, 1);
    masks("data after that", fd);
}

CASE(poll_shut_for_reading)
{
    int fd = active_pair();
    say_ret("shutdown", shutdown(fd, SHUT_RD));
    masks("no reading", fd);
}

CASE(poll_shut_both)
{
    int fd = active_pair();
    say_ret("shutdown", shutdown(fd, SHUT_RDWR));
    wait_state(fd, "FIN_WAIT2");
    masks("both", fd);
}

CASE(poll_closed_by_both)
{
    int fd = active_pair();
    peer_ok("shutdown w");
    wait_events(fd, POLLRDHUP);
    shutdown(fd, SHUT_WR);
    wait_state(fd, "CLOSE");
    masks("closed", fd);
}

CASE(poll_reset)
{
    int fd = active_pair();
    peer_ok("rst");
    wait_events(fd, POLLERR);
    masks("reset", fd);
    char b[4];
    say_ret("recv", recv(fd, b, 4, 0));
    masks("error taken", fd);
    say_ret("recv", recv(fd, b, 4, 0));
}

CASE(poll_reset_with_data)
{
    int fd = active_pair();
    peer_ok("text data");
    wait_bytes(fd, 4);
    peer_ok("rst");
    wait_events(fd, POLLERR);
    masks("reset", fd);
}

CASE(poll_oob)
{
    int fd = active_pair();
    peer_ok("oob x");
    wait_events(fd, POLLPRI);
    masks("urgent", fd);
    char b;
    say_ret("recv OOB", recv(fd, &b, 1, MSG_OOB));
    masks("taken", fd);
}

CASE(poll_oob_behind_data)
{
    int fd = active_pair();
    peer_ok("text ab");
    peer_ok("oob c");
    wait_events(fd, POLLPRI);
    wait_bytes(fd, 2);
    masks("data and urgent", fd);
    char b[8];
    say_ret("recv", recv(fd, b, 8, 0));
    masks("at the mark", fd);
    peer_ok("text d");
    wait_events(fd, POLLIN);
    masks("data behind", fd);
    say_ret("recv", recv(fd, b, 8, 0));
    masks("read past", fd);
}

CASE(poll_oob_inline)
{
    int fd = active_pair(), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
    peer_ok("oob x");
    wait_events(fd, POLLPRI);
    masks("urgent in line", fd);
    char b[4];
    say_ret("recv", recv(fd, b, 4, 0));
    masks("read", fd);
}

CASE(poll_send_buffer)
{
    int fd = active_pair(), small = 8192;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    nonblocking(fd);
    static char block[65536];
    for (int i = 0; i < 4096; i++)
        if (send(fd, block, sizeof block, 0) < 0 && wait_events_ms(fd, POLLOUT, 300) == 0)
            break;
    masks("full", fd);
    say("the peer reads %s", atoi(peer("recvall 100000")) ? "something" : "nothing");
    for (int i = 0; i < 200 && !(wait_events_ms(fd, POLLOUT, 10) & POLLOUT); i++)
        peer("recvall 100000");
    masks("drained", fd);
}

CASE(poll_rcvlowat)
{
    int fd = active_pair(), low = 10;
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low);
    peer_ok("text 123456789");
    wait_bytes(fd, 9);
    masks("below", fd);
    peer_ok("text 0");
    wait_bytes(fd, 10);
    masks("reached", fd);
    char b[4];
    recv(fd, b, 1, 0);
    masks("below again", fd);
    peer_ok("shutdown w");
    wait_events(fd, POLLRDHUP);
    masks("end", fd);
}

CASE(poll_udp_data)
{
    int fd = udp_pair();
    masks("idle", fd);
    send(fd, "x", 1, 0);
    say_peer("recvfrom");
    peer("reply 3");
    wait_events(fd, POLLIN);
    masks("data", fd);
    char b[8];
    say_ret("recv", recv(fd, b, 8, 0));
    masks("read", fd);
}

CASE(poll_udp_refused)
{
    int fd = udp_socket();
    struct addr a = peer_addr(9);
    connect(fd, &a.sa, a.len);
    send(fd, "x", 1, 0);
    wait_events(fd, POLLERR);
    masks("refused", fd);
    char b[4];
    say_ret("recv", recv(fd, b, 4, 0));
    masks("error taken", fd);
}

CASE(poll_udp_shut_down)
{
    int fd = udp_pair();
    say_ret("shutdown", shutdown(fd, SHUT_RD));
    masks("no reading", fd);
    say_ret("shutdown", shutdown(fd, SHUT_RDWR));
    masks("both", fd);
}

CASE(poll_only_what_is_asked)
{
    int fd = active_pair();
    peer_ok("text x");
    wait_bytes(fd, 1);
    static const short asked[] = {POLLIN, POLLOUT, POLLPRI, POLLRDNORM, POLLRDHUP, POLLWRBAND, 0};
    for (unsigned i = 0; i < sizeof asked / sizeof *asked; i++) {
        struct pollfd p = {.fd = fd, .events = asked[i]};
        int n = poll(&p, 1, 0);
        say("%s: %d %s", events_name(asked[i]), n, events_name(p.revents));
    }
}

CASE(poll_mixed_with_pipe)
{
    int fd = active_pair(), pipes[2];
    if (pipe(pipes))
        give_up("pipe");
    struct pollfd p[4] = {{.fd = fd, .events = POLLIN}, {.fd = pipes[0], .events = POLLIN},
        {.fd = -1, .events = POLLIN, .revents = 77}, {.fd = 800, .events = POLLIN}};
    say_ret("poll", poll(p, 3, 0));
    say_ret("write", write(pipes[1], "x", 1));
    int n = poll(p, 4, 1000);
    say("poll %d: %s %s %d %s", n, events_name(p[0].revents), events_name(p[1].revents), p[2].revents,
        events_name(p[3].revents));
    peer_ok("text x");
    wait_bytes(fd, 1);
    n = poll(p, 3, 1000);
    say("poll %d: %s %s", n, events_name(p[0].revents), events_name(p[1].revents));
    close(pipes[1]);
    n = poll(p, 3, 1000);
    say("poll %d: %s %s", n, events_name(p[0].revents), events_name(p[1].revents));
}

CASE(poll_same_socket_twice)
{
    int fd = active_pair(), again = dup(fd);
    peer_ok("text x");
    wait_bytes(fd, 1);
    struct pollfd p[3] = {{.fd = fd, .events = POLLIN}, {.fd = fd, .events = POLLOUT}, {.fd = again, .events = POLLIN}};
    int n = poll(p, 3, 1000);
    say("poll %d: %s %s %s", n, events_name(p[0].revents), events_name(p[1].revents), events_name(p[2].revents));
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

CASE(poll_timeouts)
{
    int fd = active_pair();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    double from = now_ms();
    say_ret("poll", poll(&p, 1, 50));
    say("not before: %d", now_ms() - from >= 49.9);
    struct timespec t = {0, 30000000};
    from = now_ms();
    say_ret("ppoll", ppoll(&p, 1, &t, NULL));
    say("not before: %d, kept: %ld", now_ms() - from >= 29.9, t.tv_nsec);
    t = (struct timespec){0, 1000000000};
    say_ret("ppoll with a bad time", ppoll(&p, 1, &t, NULL));
    t = (struct timespec){-1, 0};
    say_ret("ppoll with a negative time", ppoll(&p, 1, &t, NULL));
    peer_ok("text x");
    say_ret("poll for ever", poll(&p, 1, -1));
    say_ret("poll for ever", poll(&p, 1, -77));
}

CASE(select_timeouts)
{
    int fd = active_pair();
    fd_set r;
    FD_ZERO(&r);
    FD_SET(fd, &r);
    struct timeval t = {0, 40000};
    double from = now_ms();
    say_ret("select", select(fd + 1, &r, NULL, NULL, &t));
    say("not before: %d, left: %ld.%06ld, set %d", now_ms() - from >= 39.9, (long)t.tv_sec, (long)t.tv_usec,
        !!FD_ISSET(fd, &r));
    FD_SET(fd, &r);
    t = (struct timeval){-1, 0};
    say_ret("select with a negative time", select(fd + 1, &r, NULL, NULL, &t));
    say("set %d", !!FD_ISSET(fd, &r));
    peer_ok("text x");
    t = (struct timeval){10, 0};
    say_ret("select", select(fd + 1, &r, NULL, NULL, &t));
    say("less: %d", t.tv_sec < 10);
    struct timespec s = {10, 0};
    say_ret("pselect", pselect(fd + 1, &r, NULL, NULL, &s, NULL));
    say("kept %ld.%09ld", (long)s.tv_sec, s.tv_nsec);
    say_ret("select without numbers", select(0, &r, NULL, NULL, &(struct timeval){0, 0}));
    say_ret("select with a negative number", select(-1, &r, NULL, NULL, &(struct timeval){0, 0}));
}

CASE(select_except_only)
{
    int fd = active_pair();
    fd_set x;
    FD_ZERO(&x);
    FD_SET(fd, &x);
    struct timeval t = {0, 50000};
    peer_ok("shutdown w");
    wait_events(fd, POLLRDHUP);
    shutdown(fd, SHUT_WR);
    wait_state(fd, "CLOSE");
    say_ret("select after a hang-up", select(fd + 1, NULL, NULL, &x, &t));
    say("left %ld, set %d", (long)t.tv_usec, !!FD_ISSET(fd, &x));
}

CASE(select_except_oob)
{
    int fd = active_pair();
    fd_set x;
    FD_ZERO(&x);
    FD_SET(fd, &x);
    peer_ok("oob x");
    say_ret("select", select(fd + 1, NULL, NULL, &x, &(struct timeval){5, 0}));
    say("set %d", !!FD_ISSET(fd, &x));
}

CASE(select_bad_descriptor)
{
    int fd = active_pair(), other = dup(0);
    close(other);
    fd_set r;
    FD_ZERO(&r);
    FD_SET(fd, &r);
    FD_SET(other, &r);
    say_ret("select", select(64, &r, NULL, NULL, &(struct timeval){1, 0}));
    say("sets stay: %d %d", !!FD_ISSET(fd, &r), !!FD_ISSET(other, &r));
}

CASE(select_high_numbers)
{
    struct rlimit {
        unsigned long soft, hard;
    } limit = {4096, 4096};
    syscall(SYS_prlimit64, 0, 7, &limit, NULL);
    int fd = active_pair(), high = fcntl(fd, F_DUPFD, 2000);
    say("high: %d", high >= 2000);
    static unsigned char set[512];
    set[high / 8] |= 1 << high % 8;
    peer_ok("text x");
    wait_bytes(fd, 1);
    say_ret("select", select(high + 1, (fd_set *)set, NULL, NULL, &(struct timeval){1, 0}));
    say("set %d", set[high / 8] >> high % 8 & 1);
}
