/* epoll: masks and modes, errors of epoll_ctl. */
#include "diff.h"
#include "epoll.h"

CASE(epoll_level)
{
    int fd = active_pair(), ep = new_set();
    add(ep, fd, EPOLLIN, 0xfeedfacecafebeefULL);
    report("idle", ep, 8, 0);
    peer_ok("text ab");
    report("data", ep, 8, 2000);
    report("again", ep, 8, 0);
    char b;
    recv(fd, &b, 1, 0);
    report("one left", ep, 8, 0);
    recv(fd, &b, 1, 0);
    report("none left", ep, 8, 0);
}

CASE(epoll_edge)
{
    int fd = active_pair(), ep = new_set();
    add(ep, fd, EPOLLIN | EPOLLET, 1);
    peer_ok("text a");
    report("data", ep, 8, 2000);
    report("again", ep, 8, 0);
    peer_ok("text b");
    wait_bytes(fd, 2);
    report("more while some is unread", ep, 8, 2000);
    report("again", ep, 8, 0);
    drain(fd);
    report("read", ep, 8, 0);
    peer_ok("text c");
    report("after that", ep, 8, 2000);
    peer_ok("shutdown w");
    wait_events(fd, POLLRDHUP);
    report("FIN", ep, 8, 2000);
    report("again", ep, 8, 0);
}

CASE(epoll_edge_in_and_out)
{
    int fd = active_pair(), ep = new_set();
    add(ep, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 1);
    report("at once", ep, 8, 2000);
    report("again", ep, 8, 0);
    peer_ok("text a");
    report("data", ep, 8, 2000);
    send(fd, "x", 1, 0);
    wait_sent(fd);
    report("sent", ep, 8, 0);
    peer_ok("shutdown w");
    report("FIN", ep, 8, 2000);
    peer_ok("rst");
    wait_events(fd, POLLERR);
    report("reset", ep, 8, 2000);
    report("again", ep, 8, 0);
}

CASE(epoll_edge_only_out_hears_of_fin)
{
    int fd = active_pair(), ep = new_set();
    add(ep, fd, EPOLLOUT | EPOLLET, 1);
    report("at once", ep, 8, 2000);
    peer_ok("text a");
    wait_bytes(fd, 1);
    report("data", ep, 8, 0);
    peer_ok("shutdown w");
    wait_events(fd, POLLRDHUP);
    report("FIN", ep, 8, 0);
}

CASE(epoll_oneshot)
{
    int fd = active_pair(), ep = new_set();
    add(ep, fd, EPOLLIN | EPOLLONESHOT, 1);
    peer_ok("text a");
    report("data", ep, 8, 2000);
    peer_ok("text b");
    wait_bytes(fd, 2);
    report("disarmed", ep, 8, 0);
    say_ret("MOD", ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT, 2));
    report("armed", ep, 8, 0);
    peer_ok("rst");
    wait_events(fd, POLLERR);
    report("disarmed: not even an error", ep, 8, 0);
    say_ret("MOD", ctl(ep, EPOLL_CTL_MOD, fd, EPOLLONESHOT, 3));
    report("armed for nothing", ep, 8, 0);
}

CASE(epoll_rdhup)
{
    int fd = active_pair(), ep = new_set();
    add(ep, fd, EPOLLRDHUP, 1);
    peer_ok("text a");
    wait_bytes(fd, 1);
    report("data", ep, 8, 0);
    peer_ok("shutdown w");
    report("FIN", ep, 8, 2000);
    shutdown(fd, SHUT_WR);
    wait_state(fd, "CLOSE");
    report("closed", ep, 8, 0);
}

CASE(epoll_pri)
{
    int fd = active_pair(), ep = new_set();
    add(ep, fd, EPOLLPRI, 1);
    peer_ok("text a");
    wait_bytes(fd, 1);
    report("data", ep, 8, 0);
    peer_ok("oob b");
    report("urgent", ep, 8, 2000);
    char b;
    recv(fd, &b, 1, MSG_OOB);
    report("taken", ep, 8, 0);
}

CASE(epoll_band_bits)
{
    int fd = active_pair(), ep = new_set();
    add(ep, fd, EPOLLRDNORM | EPOLLWRNORM | EPOLLRDBAND | EPOLLWRBAND | EPOLLMSG, 1);
    peer_ok("text a");
    wait_bytes(fd, 1);
    report("data", ep, 8, 0);
}

CASE(epoll_wakeup_flag)
{
    int fd = active_pair(), ep = new_set();
    add(ep, fd, EPOLLIN | EPOLLWAKEUP, 1);
    peer_ok("text a");
    report("data", ep, 8, 2000);
}

CASE(epoll_ctl_errors)
{
    int fd = active_pair(), ep = new_set(), closed = dup(0);
    close(closed);
    struct epoll_event e = {.events = EPOLLIN};
    say_ret("ADD", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    say_ret("ADD twice", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    say_ret("ADD itself", epoll_ctl(ep, EPOLL_CTL_ADD, ep, &e));
    say_ret("ADD a closed one", epoll_ctl(ep, EPOLL_CTL_ADD, closed, &e));
    say_ret("ADD to a closed one", epoll_ctl(closed, EPOLL_CTL_ADD, fd, &e));
    say_ret("ADD to a socket", epoll_ctl(fd, EPOLL_CTL_ADD, ep, &e));
    say_ret("ADD to itself a socket", epoll_ctl(fd, EPOLL_CTL_ADD, fd, &e));
    say_ret("ADD no event", epoll_ctl(ep, EPOLL_CTL_ADD, fd, NULL));
    say_ret("MOD no event", epoll_ctl(ep, EPOLL_CTL_MOD, fd, NULL));
    say_ret("MOD", epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e));
    say_ret("unknown", epoll_ctl(ep, 77, fd, &e));
    say_ret("unknown, no event", epoll_ctl(ep, 77, fd, NULL));
    say_ret("DEL", epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
    say_ret("DEL twice", epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
    say_ret("MOD none", epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e));
    int file = open("/etc/passwd", O_RDONLY);
    say_ret("ADD a file", epoll_ctl(ep, EPOLL_CTL_ADD, file, &e));
    say_ret("negative", epoll_ctl(ep, EPOLL_CTL_ADD, -1, &e));
    say_ret("create 0", epoll_create(0));
    say_ret("create flags", epoll_create1(1));
}

CASE(epoll_wait_errors)
{
    int fd = active_pair(), ep = new_set();
    add(ep, fd, EPOLLIN, 1);
    struct epoll_event got[2];
    say_ret("max 0", epoll_wait(ep, got, 0, 0));
    say_ret("max -1", epoll_wait(ep, got, -1, 0));
    say_ret("max huge", epoll_wait(ep, got, INT32_MAX, 0));
    say_ret("on a socket", epoll_wait(fd, got, 2, 0));
    say_ret("on nothing", epoll_wait(-1, got, 2, 0));
    struct timespec bad = {0, 1000000000};
    say_ret("bad time", epoll_pwait2(ep, got, 2, &bad, NULL));
}

CASE(epoll_exclusive_errors)
{
    int fd = active_pair(), ep = new_set();
    say_ret("ADD with RDHUP", ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP | EPOLLEXCLUSIVE, 1));
    say_ret("ADD with ONESHOT", ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT | EPOLLEXCLUSIVE, 1));
    say_ret("ADD", ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLET | EPOLLEXCLUSIVE, 1));
    say_ret("MOD", ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN, 1));
    say_ret("MOD to it", ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLEXCLUSIVE, 1));
    peer_ok("text a");
    report("data", ep, 8, 2000);
    say_ret("DEL", epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
    say_ret("ADD", ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1));
    say_ret("MOD to it", ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLEXCLUSIVE, 1));
}

CASE(epoll_words_are_kept)
{
    static const uint64_t words[] = {0, 1, ~0ull, 0x8000000000000000ull, 0x464c594f56455221ull, 0x21524556594f4c46ull};
    int fd = active_pair();
    peer_ok("text a");
    wait_bytes(fd, 1);
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++) {
        int ep = new_set(), p[2];
        if (pipe(p) || write(p[1], "x", 1) != 1)
            give_up("pipe");
        add(ep, fd, EPOLLIN, words[i]);
        add(ep, p[0], EPOLLIN, words[i]);
        report("word", ep, 8, 1000);
    }
}

/* Events come in the order in which they happened, also while the connections change their paths. */
CASE(epoll_order)
{
    int ep = new_set(), old = passive_pair(), fresh = passive_pair();
    add(ep, old, EPOLLIN, 'o');
    add(ep, fresh, EPOLLIN, 'f');
    peer_ok("use 0");
    for (int i = 0; i < 4; i++) {
        peer_ok("send 1");
        wait_bytes(old, 1);
        drain(old);
        send(old, "x", 1, 0);
        peer("recv 1");
        struct epoll_event got;
        say_ret("drained", epoll_wait(ep, &got, 1, 0));
    }
    for (int i = 0; i < 8; i++) {
        struct epoll_event got[4];
        peer_ok("use 1");
        peer_ok("send 1");
        peer_ok("use 0");
        peer_ok("send 1");
        wait_bytes(old, 1);
        int n = epoll_wait(ep, got, 4, 1000);
        say("%d: %d, %c %c", i, n, (char)got[0].data.u64, n > 1 ? (char)got[1].data.u64 : '-');
        drain(old);
        drain(fresh);
        say_ret("drained", epoll_wait(ep, got, 4, 0));
        send(fresh, "x", 1, 0);
        peer_ok("use 1");
        peer("recv 1");
    }
}
