/* At the limits of descriptors nothing is lost; high numbers; busy descriptors under load. */
#include "diff.h"
#include <sys/resource.h>

static void limit_to(int n)
{
    struct rlimit l;
    getrlimit(RLIMIT_NOFILE, &l);
    l.rlim_cur = n;
    if (setrlimit(RLIMIT_NOFILE, &l))
        give_up("setrlimit");
}

/* Takes all numbers below the limit. */
static int fill(int *taken, int max)
{
    int n = 0, fd;
    while (n < max && (fd = open("/dev/null", O_RDONLY)) >= 0)
        taken[n++] = fd;
    return n;
}

CASE(limits_accept_without_numbers)
{
    static int taken[2048];
    int l = listening();
    peer_ok("connect %d", port_of(l));
    peer_ok("text hello");
    wait_events(l, POLLIN);
    limit_to(1000);
    int n = fill(taken, 2048);
    say_fd("accept", accept(l, NULL, NULL));
    nonblocking(l);
    say_fd("accept, not blocking", accept(l, NULL, NULL));
    say("still there: %s", events_name(wait_events(l, POLLIN)));
    say_fd("socket", socket(family, SOCK_STREAM, 0));
    say_fd("epoll_create1", epoll_create1(0));
    close(taken[n - 1]);
    int fd = accept(l, NULL, NULL);
    say("accept: %d", fd >= 0);
    wait_bytes(fd, 5);
    char b[8];
    say_data("recv", recv(fd, b, 8, 0), b);
    send(fd, "back", 4, 0);
    say_peer("recv 4");
}

CASE(limits_blocking_without_numbers)
{
    static int taken[2048];
    int fd = active_pair(), ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN}, got;
    limit_to(1000);
    fill(taken, 2048);
    say_ret("ADD", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    peer_ok("after 50 text a");
    say_ret("epoll_wait", epoll_wait(ep, &got, 1, 5000));
    char b[8];
    say_data("recv", recv(fd, b, 8, 0), b);
    peer_ok("after 50 text b");
    say_data("recv", recv(fd, b, 8, 0), b);
    peer_ok("after 50 text c");
    struct pollfd p = {.fd = fd, .events = POLLIN};
    say_ret("poll", poll(&p, 1, 5000));
    say_ret("close", close(fd));
    say_peer("recvall");
}

/* The library needs descriptors for its first connection: without any the kernel makes it. */
CASE_KERNEL(limits_connect_without_numbers)
{
    static int taken[2048];
    int port = peer_number("listen"), fd = tcp_socket();
    limit_to(1000);
    fill(taken, 2048);
    struct addr a = peer_addr(port);
    say_ret("connect", connect(fd, &a.sa, a.len));
    peer_ok("accept");
    send(fd, "x", 1, 0);
    say_peer("recv 1");
}

CASE(limits_high_number)
{
    limit_to(20000);
    int fd = active_pair(), high = dup2(fd, 19999);
    say("dup2: %d", high == 19999);
    close(fd);
    peer_ok("text x");
    char b[4];
    say_data("recv", recv(high, b, 4, 0), b);
    struct pollfd p = {.fd = high, .events = POLLOUT};
    say_ret("poll", poll(&p, 1, 0));
    int ep = dup2(epoll_create1(0), 19998);
    struct epoll_event e = {.events = EPOLLOUT, .data.u64 = 5}, got;
    say_ret("ADD", epoll_ctl(ep, EPOLL_CTL_ADD, high, &e));
    say("epoll_wait %d, %llu", epoll_wait(ep, &got, 1, 0), (unsigned long long)got.data.u64);
}

CASE(limits_many_sets)
{
    enum { SETS = 1500 };
    static int sets[SETS];
    limit_to(20000);
    int fd = active_pair(), ready = 0;
    struct epoll_event e = {.events = EPOLLIN}, got;
    for (int i = 0; i < SETS; i++) {
        sets[i] = epoll_create1(0);
        if (epoll_ctl(sets[i], EPOLL_CTL_ADD, fd, &e))
            give_up("set %d", i);
    }
    peer_ok("text x");
    wait_bytes(fd, 1);
    /* The byte can be counted before the last of so many sets has heard of it, on the kernel too. */
    usleep(100 * 1000);
    for (int i = 0; i < SETS; i++)
        ready += epoll_wait(sets[i], &got, 1, 0);
    say("ready: %d", ready);
    for (int i = 0; i < SETS; i++)
        close(sets[i]);
    int ep = epoll_create1(0);
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    say_ret("one more", epoll_wait(ep, &got, 1, 0));
}

static volatile int stop;

static void *churn(void *p)
{
    int ep = *(int *)p;
    struct epoll_event got[8];
    while (!stop)
        epoll_wait(ep, got, 8, 1);
    return NULL;
}

CASE(limits_add_and_close_while_threads_wait)
{
    int ep = epoll_create1(0), l = listening(), bad = 0;
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, churn, &ep);
    for (int i = 0; i < 100; i++) {
        peer_ok("connect %d", port_of(l));
        int fd = accept(l, NULL, NULL);
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | (i & 1 ? EPOLLET : 0)};
        bad += epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) != 0;
        e.events = EPOLLIN;
        bad += epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e) != 0;
        if (i % 3 == 0)
            bad += epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL) != 0;
        peer("text x");
        close(fd);
        peer("close");
    }
    stop = 1;
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    say("bad: %d", bad);
}
