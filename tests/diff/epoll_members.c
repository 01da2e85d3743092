/* epoll: what happens to members that change, are copied or closed; many members; turns and time-outs. */
#include "diff.h"
#include "epoll.h"

CASE(epoll_fresh_then_connected)
{
    int ep = new_set(), fd = tcp_socket(), port = peer_number("listen");
    nonblocking(fd);
    add(ep, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 5);
    report("fresh", ep, 8, 0);
    struct addr a = peer_addr(port);
    connect(fd, &a.sa, a.len);
    wait_events(fd, POLLOUT);
    report("connected", ep, 8, 2000);
    peer_ok("accept");
    peer_ok("text a");
    wait_bytes(fd, 1);
    report("data", ep, 8, 0);
    say_ret("MOD", ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN, 6));
    report("changed", ep, 8, 0);
    say_ret("ADD", ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 6));
    say_ret("DEL", epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
    report("gone", ep, 8, 0);
}

CASE(epoll_refused)
{
    int ep = new_set(), fd = tcp_socket();
    nonblocking(fd);
    add(ep, fd, EPOLLOUT | EPOLLET, 5);
    report("fresh", ep, 8, 0);
    struct addr a = peer_addr(1);
    connect(fd, &a.sa, a.len);
    wait_events(fd, POLLOUT);
    report("refused", ep, 8, 2000);
    report("again", ep, 8, 0);
}

CASE(epoll_listener)
{
    int ep = new_set(), l = bound(tcp_socket());
    add(ep, l, EPOLLIN, 1);
    report("bound", ep, 8, 0);
    listen(l, 5);
    report("listening", ep, 8, 0);
    peer_ok("connect %d", port_of(l));
    report("queued", ep, 8, 2000);
    int fd = accept(l, NULL, NULL);
    report("taken", ep, 8, 0);
    add(ep, fd, EPOLLIN | EPOLLOUT, 2);
    report("child", ep, 8, 0);
    say_ret("close", close(l));
    say_ret("close", close(fd));
    report("closed", ep, 8, 0);
}

CASE(epoll_closed_member)
{
    int ep = new_set(), fd = active_pair();
    add(ep, fd, EPOLLIN | EPOLLOUT, 1);
    report("open", ep, 8, 0);
    close(fd);
    report("closed", ep, 8, 0);
    int again = active_pair();
    say("same number: %d", again == fd);
    report("another one", ep, 8, 0);
    say_ret("MOD", ctl(ep, EPOLL_CTL_MOD, again, EPOLLIN, 2));
    say_ret("ADD", ctl(ep, EPOLL_CTL_ADD, again, EPOLLOUT, 3));
    report("added", ep, 8, 0);
}

CASE(epoll_dup_member)
{
    int ep = new_set(), fd = active_pair(), copy = dup(fd);
    add(ep, fd, EPOLLIN, 1);
    add(ep, copy, EPOLLOUT, 2);
    report("both", ep, 8, 0);
    close(copy);
    report("copy closed: still reported", ep, 8, 0);
    peer_ok("text a");
    wait_bytes(fd, 1);
    report("data", ep, 8, 0);
    say_ret("DEL of the closed number", epoll_ctl(ep, EPOLL_CTL_DEL, copy, NULL));
    int new = dup(fd);
    say("same number: %d", new == copy);
    say_ret("ADD again", ctl(ep, EPOLL_CTL_ADD, new, EPOLLIN, 3));
    say_ret("DEL", epoll_ctl(ep, EPOLL_CTL_DEL, new, NULL));
    report("one", ep, 8, 0);
}

CASE(epoll_dup_set)
{
    int ep = new_set(), copy = dup(ep), fd = active_pair();
    add(ep, fd, EPOLLOUT, 1);
    report("copy", copy, 8, 0);
    close(ep);
    report("copy alone", copy, 8, 0);
    say_ret("MOD", ctl(copy, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT, 2));
    int p[2];
    if (pipe(p))
        give_up("pipe");
    add(copy, p[1], EPOLLOUT, 9);
    report("with a pipe", copy, 8, 0);
}

CASE(epoll_in_several_sets)
{
    int a = new_set(), b = new_set(), fd = active_pair();
    add(a, fd, EPOLLIN, 1);
    add(b, fd, EPOLLIN | EPOLLOUT | EPOLLET, 2);
    report("b", b, 8, 0);
    peer_ok("text a");
    wait_bytes(fd, 1);
    report("a", a, 8, 0);
    report("b", b, 8, 0);
    report("b again", b, 8, 0);
    close(a);
    peer_ok("text b");
    wait_bytes(fd, 2);
    report("b", b, 8, 0);
}

CASE(epoll_many_ready)
{
    enum { N = 200 };
    int ep = new_set(), l = listening(), fds[N];
    for (int i = 0; i < N; i++) {
        peer_ok("connect %d", port_of(l));
        fds[i] = accept(l, NULL, NULL);
        add(ep, fds[i], EPOLLOUT, i);
    }
    report("all", ep, 256, 0);
    report("some", ep, 10, 0);
    char seen[N] = {0};
    int different = 0;
    for (int round = 0; round < N / 10; round++) {
        struct epoll_event got[10];
        int n = epoll_wait(ep, got, 10, 0);
        for (int i = 0; i < n; i++)
            different += !seen[got[i].data.u64]++;
    }
    say("in turn: %d", different);
}

CASE(epoll_turns_with_pipes)
{
    int ep = new_set(), fd = active_pair(), p[2], counts[2] = {0};
    if (pipe(p) || write(p[1], "x", 1) != 1)
        give_up("pipe");
    add(ep, fd, EPOLLOUT, 0);
    add(ep, p[0], EPOLLIN, 1);
    report("both", ep, 8, 0);
    for (int i = 0; i < 100; i++) {
        struct epoll_event got[1];
        if (epoll_wait(ep, got, 1, 0) == 1)
            counts[got[0].data.u64]++;
    }
    say("one at a time: %d %d", counts[0], counts[1]);
    for (int i = 0; i < 20; i++) {
        char b;
        if (read(p[0], &b, 1) != 1 || write(p[1], "x", 1) != 1)
            give_up("pipe");
        struct epoll_event got[4];
        if (epoll_wait(ep, got, 4, 0) != 2)
            say("round %d: not both", i);
    }
}

CASE(epoll_turns_many_pipes)
{
    enum { N = 20 };
    int ep = new_set(), fd = active_pair();
    add(ep, fd, EPOLLOUT, 100);
    for (int i = 0; i < N; i++) {
        int p[2];
        if (pipe(p) || write(p[1], "x", 1) != 1)
            give_up("pipe");
        add(ep, p[0], EPOLLIN, i);
    }
    report("all", ep, 64, 0);
    char seen[101] = {0};
    int different = 0;
    for (int round = 0; round < 12; round++) {
        struct epoll_event got[8];
        int n = epoll_wait(ep, got, 8, 0);
        for (int i = 0; i < n; i++)
            different += !seen[got[i].data.u64]++;
    }
    say("in turn: %d", different);
}

/* Sockets and pipes, all ready all the time: whatever the room, each is told of before others have come three times. */
static void take_turns(int sockets, int pipes, int room)
{
    enum { MOST = 16 };
    int ep = new_set(), n = sockets + pipes, seen[MOST] = {0}, calls = 0, left = n, worst = 0;
    for (int i = 0; i < n; i++) {
        int p[2];
        if (i < sockets) {
            add(ep, active_pair(), EPOLLOUT, i);
            continue;
        }
        if (pipe(p) || write(p[1], "x", 1) != 1)
            give_up("pipe");
        add(ep, p[0], EPOLLIN, i);
    }
    while (left && calls++ < 100) {
        struct epoll_event got[MOST];
        int k = epoll_wait(ep, got, room, 0), twice = 0;
        char now[MOST] = {0};
        for (int i = 0; i < k; i++) {
            left -= !seen[got[i].data.u64]++;
            twice += now[got[i].data.u64]++;
        }
        if (k != (room < n ? room : n) || twice)
            say("%d of %d, %d of them twice", k, room, twice);
    }
    for (int i = 0; i < n; i++)
        worst = seen[i] > worst ? seen[i] : worst;
    if (left || worst > 3)
        say("%d sockets, %d pipes, room for %d: %d never came, one %d times", sockets, pipes, room, left, worst);
}

CASE(epoll_nobody_waits_long)
{
    for (int room = 1; room < 5; room++) {
        take_turns(1, 1, room);
        take_turns(2, 2, room);
        take_turns(3, 2, room);
        take_turns(2, 3, room);
    }
    take_turns(3, 6, 3);
    take_turns(6, 3, 3);
    say("done");
}

/* An edge of a pipe comes once, and soon, beside sockets that are ready all the time, and the other way round. */
CASE(epoll_edge_in_a_crowd)
{
    int ep = new_set(), fd, p[2];
    struct epoll_event got[2];
    for (int i = 0; i < 4; i++)
        add(ep, active_pair(), EPOLLOUT, i);
    fd = active_pair();
    if (pipe(p))
        give_up("pipe");
    add(ep, p[0], EPOLLIN | EPOLLET, 100);
    add(ep, fd, EPOLLIN | EPOLLET, 101);
    for (int room = 1; room < 3; room++) {
        int pipes = 0, socks = 0;
        if (write(p[1], "x", 1) != 1)
            give_up("pipe");
        peer_ok("send 1");
        wait_bytes(fd, room);
        for (int i = 0; i < 24; i++) {
            int n = epoll_wait(ep, got, room, 0);
            for (int k = 0; k < n; k++) {
                pipes += got[k].data.u64 == 100;
                socks += got[k].data.u64 == 101;
            }
        }
        say("room for %d: the pipe %d, the socket %d", room, pipes, socks);
    }
}

CASE(epoll_timeouts)
{
    int ep = new_set(), fd = active_pair();
    add(ep, fd, EPOLLIN, 1);
    struct timespec a, b, t = {0, 20000000};
    struct epoll_event got[2];
    clock_gettime(CLOCK_MONOTONIC, &a);
    say_ret("epoll_wait", epoll_wait(ep, got, 2, 30));
    clock_gettime(CLOCK_MONOTONIC, &b);
    say("not before: %d", (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec >= 30000000);
    a = b;
    say_ret("epoll_pwait2", epoll_pwait2(ep, got, 2, &t, NULL));
    clock_gettime(CLOCK_MONOTONIC, &b);
    say("not before: %d", (b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec >= 20000000);
    t = (struct timespec){0, 1};
    say_ret("epoll_pwait2, a nanosecond", epoll_pwait2(ep, got, 2, &t, NULL));
    peer_ok("after 50 text x");
    say_ret("for ever", epoll_wait(ep, got, 2, -1));
    say_ret("for ever", epoll_pwait2(ep, got, 2, NULL, NULL));
}

CASE(epoll_udp_input)
{
    int ep = epoll_create1(0), fd = udp_pair();
    add(ep, fd, EPOLLIN | EPOLLET, 1);
    send(fd, "x", 1, 0);
    say_peer("recvfrom");
    report("nothing", ep, 8, 0);
    peer("reply 3");
    wait_events(fd, POLLIN);
    report("data", ep, 8, 1000);
    peer("reply 3");
    wait_bytes(fd, 3);
    usleep(20000);
    report("more", ep, 8, 1000);
    drain(fd);
    report("read", ep, 8, 0);
}

CASE(epoll_udp_output)
{
    int ep = new_set(), fd = udp_pair();
    add(ep, fd, EPOLLIN | EPOLLOUT | EPOLLET, 1);
    report("at once", ep, 8, 0);
    send(fd, "x", 1, 0);
    say_peer("recvfrom");
    report("nothing new", ep, 8, 0);
    peer("reply 3");
    wait_events(fd, POLLIN);
    report("data", ep, 8, 1000);
    report("again", ep, 8, 0);
    drain(fd);
    peer("reply 3");
    wait_events(fd, POLLIN);
    report("more", ep, 8, 1000);
}

CASE(epoll_modify_adds_interest)
{
    int ep = new_set(), fd = active_pair();
    add(ep, fd, 0, 1);
    peer_ok("text x");
    wait_bytes(fd, 1);
    report("nothing asked", ep, 8, 0);
    say_ret("MOD", ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET, 2));
    report("asked", ep, 8, 0);
    say_ret("MOD", ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLET, 3));
    report("asked again", ep, 8, 0);
    say_ret("MOD", ctl(ep, EPOLL_CTL_MOD, fd, 0, 3));
    report("not asked", ep, 8, 0);
    peer_ok("rst");
    wait_events(fd, POLLERR);
    report("errors always", ep, 8, 0);
}

CASE(epoll_shutdown_by_us)
{
    int ep = new_set(), fd = active_pair();
    add(ep, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, 1);
    report("idle", ep, 8, 0);
    shutdown(fd, SHUT_RD);
    report("no reading", ep, 8, 0);
    shutdown(fd, SHUT_WR);
    report("nor writing", ep, 8, 0);
}

CASE(epoll_empties_at_close)
{
    int ep = new_set(), fd = active_pair();
    add(ep, fd, EPOLLOUT, 1);
    close(ep);
    ep = new_set();
    report("new set", ep, 8, 0);
    add(ep, fd, EPOLLOUT, 2);
    report("added", ep, 8, 0);
}

CASE(epoll_after_fork)
{
    int ep = new_set(), fd = active_pair();
    add(ep, fd, EPOLLIN, 1);
    pid_t child = fork();
    if (child == 0) {
        peer_ok("text x");
        report("child", ep, 8, 2000);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    report("parent", ep, 8, 2000);
    drain(fd);
    report("parent, read", ep, 8, 0);
}
