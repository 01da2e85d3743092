/* epoll sets in epoll sets, in poll and in select. */
#include "diff.h"

static void add(int ep, int fd, unsigned events, uint64_t data)
{
    struct epoll_event e = {.events = events, .data.u64 = data};
    say_ret("ADD", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
}

static void report(const char *when, int ep, int ms)
{
    struct epoll_event got[16];
    int n = epoll_wait(ep, got, 16, ms);
    say("%s: %d", when, n);
    for (int i = 0; i < n; i++)
        say("  %llu %s", (unsigned long long)got[i].data.u64, events_name(got[i].events));
}

static void drain(int fd)
{
    char b[4096];
    while (recv(fd, b, sizeof b, MSG_DONTWAIT) > 0)
        ;
}

CASE(nested_level)
{
    int outer = epoll_create1(0), inner = epoll_create1(0), fd = active_pair();
    add(inner, fd, EPOLLIN, 1);
    add(outer, inner, EPOLLIN, 2);
    report("idle", outer, 0);
    peer_ok("text x");
    report("outer", outer, 2000);
    report("outer again", outer, 0);
    report("inner", inner, 0);
    report("outer", outer, 0);
    drain(fd);
    report("outer after a read", outer, 0);
    report("inner after a read", inner, 0);
    peer_ok("text y");
    report("outer", outer, 2000);
}

CASE(nested_before_the_socket)
{
    int outer = epoll_create1(0), inner = epoll_create1(0);
    add(outer, inner, EPOLLIN, 2);
    report("empty", outer, 0);
    int fd = active_pair();
    add(inner, fd, EPOLLIN | EPOLLET, 1);
    report("idle", outer, 0);
    peer_ok("after 50 text x");
    report("outer", outer, 2000);
    report("inner", inner, 0);
    report("outer, edge taken", outer, 0);
    peer_ok("text y");
    report("outer", outer, 2000);
}

CASE(nested_edge)
{
    int outer = epoll_create1(0), inner = epoll_create1(0), fd = active_pair();
    add(inner, fd, EPOLLIN, 1);
    add(outer, inner, EPOLLIN | EPOLLET, 2);
    peer_ok("text x");
    report("outer", outer, 2000);
    report("outer again", outer, 0);
    peer_ok("text y");
    wait_bytes(fd, 2);
    report("outer, more", outer, 0);
    drain(fd);
    report("outer, read", outer, 0);
    peer_ok("text z");
    report("outer", outer, 2000);
}

CASE(nested_five_deep)
{
    int sets[5], fd = active_pair();
    for (int i = 0; i < 5; i++)
        sets[i] = epoll_create1(0);
    for (int i = 0; i < 4; i++)
        add(sets[i], sets[i + 1], EPOLLIN, i);
    add(sets[4], fd, EPOLLIN, 9);
    report("idle", sets[0], 0);
    peer_ok("after 30 text x");
    report("outermost", sets[0], 2000);
    report("innermost", sets[4], 0);
    drain(fd);
    report("outermost", sets[0], 0);
    peer_ok("text x");
    report("middle", sets[2], 2000);
    int sixth = epoll_create1(0);
    add(sixth, sets[0], EPOLLIN, 6);
    add(sets[4], sets[0], EPOLLIN, 6);
}

CASE(nested_in_poll)
{
    int ep = epoll_create1(0), fd = active_pair();
    add(ep, fd, EPOLLIN, 1);
    struct pollfd p[2] = {{.fd = ep, .events = POLLIN | POLLOUT | POLLRDNORM}, {.fd = fd, .events = POLLPRI}};
    say_ret("poll", poll(p, 1, 0));
    peer_ok("after 30 text x");
    int n = poll(p, 1, 2000);
    say("poll %d %s", n, events_name(p[0].revents));
    n = poll(p, 2, 2000);
    say("poll %d %s %s", n, events_name(p[0].revents), events_name(p[1].revents));
    report("set", ep, 0);
    n = poll(p, 1, 0);
    say("poll %d %s", n, events_name(p[0].revents));
    drain(fd);
    n = poll(p, 1, 0);
    say("poll %d %s", n, events_name(p[0].revents));
    peer_ok("after 30 text x");
    n = poll(p, 1, -1);
    say("poll %d %s", n, events_name(p[0].revents));
}

CASE(nested_in_select)
{
    int ep = epoll_create1(0), fd = active_pair();
    add(ep, fd, EPOLLIN, 1);
    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(ep, &r);
    FD_SET(ep, &w);
    say_ret("select", select(ep + 1, &r, &w, NULL, &(struct timeval){0, 0}));
    FD_SET(ep, &r);
    FD_SET(ep, &w);
    peer_ok("after 30 text x");
    say_ret("select", select(ep + 1, &r, &w, NULL, &(struct timeval){2, 0}));
    say("%d %d", !!FD_ISSET(ep, &r), !!FD_ISSET(ep, &w));
}

CASE(nested_with_pipe)
{
    int outer = epoll_create1(0), inner = epoll_create1(0), fd = active_pair(), p[2];
    if (pipe(p))
        give_up("pipe");
    add(inner, fd, EPOLLIN, 1);
    add(inner, p[0], EPOLLIN, 2);
    add(outer, inner, EPOLLIN, 3);
    add(outer, fd, EPOLLIN, 4);
    say_ret("write", write(p[1], "x", 1));
    report("outer", outer, 1000);
    report("inner", inner, 0);
    char b;
    say_ret("read", read(p[0], &b, 1));
    report("outer", outer, 0);
    peer_ok("text x");
    wait_bytes(fd, 1);
    struct epoll_event got[4];
    say_ret("outer has both", epoll_wait(outer, got, 4, 1000));
}

CASE(nested_member_leaves)
{
    int outer = epoll_create1(0), inner = epoll_create1(0), fd = active_pair();
    add(inner, fd, EPOLLOUT, 1);
    add(outer, inner, EPOLLIN, 2);
    report("outer", outer, 1000);
    say_ret("DEL", epoll_ctl(inner, EPOLL_CTL_DEL, fd, NULL));
    report("outer", outer, 0);
    add(inner, fd, EPOLLOUT, 3);
    report("outer", outer, 1000);
    close(fd);
    report("outer, closed", outer, 0);
    say_ret("close", close(inner));
    report("outer, inner closed", outer, 0);
}

CASE(nested_set_taken_out)
{
    int outer = epoll_create1(0), inner = epoll_create1(0), fd = active_pair();
    add(inner, fd, EPOLLOUT, 1);
    add(outer, inner, EPOLLIN | EPOLLONESHOT, 2);
    report("outer", outer, 1000);
    report("outer, one shot", outer, 0);
    say_ret("DEL", epoll_ctl(outer, EPOLL_CTL_DEL, inner, NULL));
    say_ret("DEL", epoll_ctl(outer, EPOLL_CTL_DEL, inner, NULL));
    report("inner", inner, 0);
    struct epoll_event e = {.events = EPOLLIN | EPOLLEXCLUSIVE};
    say_ret("ADD exclusive", epoll_ctl(outer, EPOLL_CTL_ADD, inner, &e));
}

static void *wait_on(void *p)
{
    struct epoll_event got[4];
    return (void *)(long)epoll_wait(*(int *)p, got, 4, 3000);
}

CASE(nested_while_a_thread_waits)
{
    int outer = epoll_create1(0), inner = epoll_create1(0), fd = active_pair();
    add(outer, inner, EPOLLIN, 2);
    pthread_t t;
    void *r;
    pthread_create(&t, NULL, wait_on, &outer);
    usleep(50000);
    add(inner, fd, EPOLLIN, 1);
    usleep(50000);
    peer_ok("text x");
    pthread_join(t, &r);
    say("the thread has %ld", (long)r);
}

CASE(nested_edge_is_not_repeated)
{
    int outer = epoll_create1(0), inner = epoll_create1(0), fd = active_pair();
    add(inner, fd, EPOLLOUT, 1);
    add(outer, inner, EPOLLIN | EPOLLET, 2);
    report("outer", outer, 1000);
    report("outer", outer, 0);
    report("inner", inner, 0);
    report("outer after the inner one", outer, 0);
    struct pollfd p = {.fd = inner, .events = POLLIN};
    say_ret("poll", poll(&p, 1, 0));
    report("outer after poll", outer, 0);
    int other = active_pair();
    add(inner, other, EPOLLIN, 3);
    report("outer after a member that is not ready", outer, 0);
    struct epoll_event e = {.events = EPOLLOUT, .data.u64 = 4};
    say_ret("MOD", epoll_ctl(inner, EPOLL_CTL_MOD, other, &e));
    report("outer after one that is", outer, 0);
    report("outer", outer, 0);
    struct pollfd both[2] = {{.fd = inner, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
    say_ret("poll", poll(both, 2, 0));
    report("outer after poll", outer, 0);
    int third = epoll_create1(0);
    add(third, inner, EPOLLIN | EPOLLOUT, 5);
    report("third", third, 0);
    report("outer after that", outer, 0);
}

/* A change of a member that waits to be read already is no news for the sets around. */
CASE(nested_edge_and_mod)
{
    int fd = active_pair(), inner = epoll_create1(0), outer = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLOUT}, got[4];
    say_ret("add", epoll_ctl(inner, EPOLL_CTL_ADD, fd, &e));
    e.events = EPOLLIN | EPOLLET;
    say_ret("add the set", epoll_ctl(outer, EPOLL_CTL_ADD, inner, &e));
    say_ret("outer", epoll_wait(outer, got, 4, 1000));
    say_ret("outer again", epoll_wait(outer, got, 4, 0));
    e.events = EPOLLOUT | EPOLLRDHUP;
    say_ret("mod", epoll_ctl(inner, EPOLL_CTL_MOD, fd, &e));
    say_ret("outer", epoll_wait(outer, got, 4, 0));
    say_ret("inner", epoll_wait(inner, got, 4, 0));
    e.events = EPOLLIN;
    say_ret("mod to what is not there", epoll_ctl(inner, EPOLL_CTL_MOD, fd, &e));
    say_ret("inner", epoll_wait(inner, got, 4, 0));
    e.events = EPOLLOUT;
    say_ret("mod to what is", epoll_ctl(inner, EPOLL_CTL_MOD, fd, &e));
    say_ret("outer", epoll_wait(outer, got, 4, 1000));
}

/* Every event is an edge for the sets around, however many came before and were not read. */
CASE(nested_edge_every_time)
{
    int fd = active_pair(), inner = epoll_create1(0), outer = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN}, got[4];
    say_ret("add", epoll_ctl(inner, EPOLL_CTL_ADD, fd, &e));
    e.events = EPOLLIN | EPOLLET;
    say_ret("add the set", epoll_ctl(outer, EPOLL_CTL_ADD, inner, &e));
    for (int i = 0; i < 25; i++) {
        peer_ok("text z");
        wait_bytes(fd, i + 1);
        say_ret("outer", epoll_wait(outer, got, 4, 1000));
        say_ret("outer again", epoll_wait(outer, got, 4, 0));
    }
}

/* A set whose event was taken meanwhile is no event for the sets around its new set. */
CASE(nested_set_added_when_read)
{
    int fd = active_pair(), inner = epoll_create1(0), mid = epoll_create1(0), outer = epoll_create1(0), p[2];
    struct epoll_event got[4];
    if (pipe(p) || write(p[1], "x", 1) != 1)
        give_up("pipe");
    add(mid, p[0], EPOLLIN, 1);
    add(outer, mid, EPOLLIN | EPOLLET, 2);
    say_ret("outer", epoll_wait(outer, got, 4, 1000));
    say_ret("outer again", epoll_wait(outer, got, 4, 0));
    struct pollfd look = {.fd = inner, .events = POLLIN};
    say_ret("poll of the empty set", poll(&look, 1, 0));
    add(inner, fd, EPOLLIN | EPOLLOUT | EPOLLET, 3);
    say_ret("poll of the set", poll(&look, 1, 1000));
    say_ret("inner", epoll_wait(inner, got, 4, 0));
    add(mid, inner, EPOLLIN | EPOLLOUT, 4);
    say_ret("outer, no event", epoll_wait(outer, got, 4, 0));
    peer_ok("text z");
    wait_bytes(fd, 1);
    say_ret("outer, an event", epoll_wait(outer, got, 4, 1000));
}
