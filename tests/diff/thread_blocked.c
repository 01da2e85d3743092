/* Threads that block in calls on one socket, while others use, close or replace it. */
#include "thread_job.h"

CASE(thread_close_while_recv)
{
    int fd = active_pair();
    struct job j = {0};
    start(&j, fd, RECV);
    settle();
    say_ret("close", close(fd));
    settle();
    say("still blocked: %d", !j.done);
    say_peer("state");
    peer_ok("text hello");
    finish("recv", &j);
    settle();
    say_peer("state");
}

CASE(thread_close_while_recv_then_fin)
{
    int fd = passive_pair();
    struct job j = {0};
    start(&j, fd, RECV);
    settle();
    say_ret("close", close(fd));
    settle();
    say_peer("state");
    peer_ok("shutdown w");
    finish("recv", &j);
}

/* poll and select hold the socket while they sleep; woken, they look the number up anew. */
static void close_below(int fd, int how)
{
    struct job j = {0};
    start(&j, fd, how);
    settle();
    say_ret("close", close(fd));
    settle();
    say("still blocked: %d", !j.done);
    say_peer("state");
    peer_ok("text hello");
    finish("woken", &j);
    settle();
    say_peer("state");
}

CASE(thread_close_while_poll) { close_below(active_pair(), POLL); }
CASE(thread_close_while_poll_passive) { close_below(passive_pair(), POLL); }
CASE(thread_close_while_select) { close_below(active_pair(), SELECT); }

CASE(thread_close_while_two_poll)
{
    int fd = active_pair();
    struct job jobs[3] = {0};
    for (int i = 0; i < 3; i++)
        start(&jobs[i], fd, i == 2 ? RECV : POLL);
    settle();
    say_ret("close", close(fd));
    settle();
    say_peer("state");
    peer_ok("text hello");
    for (int i = 0; i < 3; i++)
        finish("woken", &jobs[i]);
    settle();
    say_peer("state");
}

CASE(thread_close_while_poll_times_out)
{
    int fd = active_pair();
    struct job j = {0};
    j.ms = 300;
    start(&j, fd, POLL);
    settle();
    say_ret("close", close(fd));
    settle();
    say_peer("state");
    finish("over", &j);
    settle();
    say_peer("state");
}

CASE(thread_dup2_while_poll)
{
    int fd = active_pair(), p[2];
    struct job j = {.ms = 500};
    if (pipe(p))
        give_up("pipe");
    start(&j, fd, POLL);
    settle();
    say("dup2 %d", dup2(p[0], fd) == fd);
    settle();
    say_peer("state");
    peer_ok("text hello");
    finish("over", &j);
    settle();
    say_peer("state");
}

CASE(thread_shutdown_while_recv)
{
    int fd = active_pair();
    struct job j = {0};
    start(&j, fd, RECV);
    settle();
    say_ret("shutdown", shutdown(fd, SHUT_RD));
    finish("recv", &j);
}

CASE(thread_reset_while_recv)
{
    int fd = active_pair();
    struct job jobs[4] = {0};
    for (int i = 0; i < 4; i++)
        start(&jobs[i], fd, RECV);
    settle();
    peer_ok("shutdown w");
    for (int i = 0; i < 4; i++)
        finish("recv", &jobs[i]);
}

static void *one_byte(void *p)
{
    struct job *j = p;
    j->ret = recv(j->fd, j->data, 1, 0);
    return NULL;
}

CASE(thread_many_recv)
{
    enum { N = 16 };
    int fd = active_pair();
    struct job jobs[N] = {0};
    for (int i = 0; i < N; i++) {
        jobs[i].fd = fd;
        pthread_create(&jobs[i].thread, NULL, one_byte, &jobs[i]);
    }
    settle();
    long sum = 0;
    for (int i = 0; i < N; i++) {
        peer_ok("text x");
        usleep(5000);
    }
    for (int i = 0; i < N; i++) {
        pthread_join(jobs[i].thread, NULL);
        sum += jobs[i].ret;
    }
    say("received %ld", sum);
}

CASE(thread_many_recv_one_send)
{
    enum { N = 16 };
    int fd = active_pair();
    struct job jobs[N] = {0};
    for (int i = 0; i < N; i++) {
        jobs[i].fd = fd;
        pthread_create(&jobs[i].thread, NULL, one_byte, &jobs[i]);
    }
    settle();
    peer_ok("text 0123456789abcdef");
    long sum = 0;
    for (int i = 0; i < N; i++) {
        pthread_join(jobs[i].thread, NULL);
        sum += jobs[i].ret;
    }
    say("received %ld", sum);
}

CASE(thread_accept_by_64)
{
    enum { N = 64 };
    int l = listening();
    struct job jobs[N] = {0};
    for (int i = 0; i < N; i++)
        start(&jobs[i], l, ACCEPT);
    settle();
    int got = 0;
    for (int i = 0; i < N; i++)
        peer_ok("connect %d", port_of(l));
    for (int i = 0; i < N; i++) {
        pthread_join(jobs[i].thread, NULL);
        got += jobs[i].ret >= 0;
    }
    say("accepted %d", got);
}

CASE(thread_accept_shutdown)
{
    int l = listening();
    struct job jobs[8] = {0};
    for (int i = 0; i < 8; i++)
        start(&jobs[i], l, ACCEPT);
    settle();
    say_ret("shutdown", shutdown(l, SHUT_RD));
    for (int i = 0; i < 8; i++)
        finish("accept", &jobs[i]);
}

CASE(thread_accept_close)
{
    int l = listening(), port = port_of(l);
    struct job j = {0};
    start(&j, l, ACCEPT);
    settle();
    say_ret("close", close(l));
    settle();
    say("still blocked: %d", !j.done);
    say_peer("connect %d", port);
    finish("accept", &j);
    settle();
    say_peer("connect %d", port);
}

CASE(thread_dup2_over_busy)
{
    int fd = active_pair(), p[2];
    if (pipe(p))
        give_up("pipe");
    struct job j = {0};
    start(&j, fd, RECV);
    settle();
    say("dup2 %d", dup2(p[0], fd) == fd);
    settle();
    say("still blocked: %d", !j.done);
    say_peer("state");
    say_ret("write", write(p[1], "pipe", 4));
    char b[8] = "";
    say_data("read", read(fd, b, 8), b);
    peer_ok("text sock");
    finish("recv", &j);
}

CASE(thread_close_other_copy)
{
    int fd = active_pair(), copy = dup(fd);
    struct job j = {0};
    start(&j, copy, RECV);
    settle();
    close(fd);
    close(copy);
    settle();
    say("still blocked: %d", !j.done);
    say_peer("state");
    peer_ok("text x");
    finish("recv", &j);
    for (int i = 0; i < 100 && strcmp(peer("state"), "CLOSE_WAIT"); i++)
        usleep(10000);
    say_peer("state");
}

CASE(thread_poll_wakes)
{
    int fd = active_pair();
    struct job jobs[8] = {0};
    for (int i = 0; i < 8; i++)
        start(&jobs[i], fd, POLL);
    settle();
    peer_ok("text x");
    for (int i = 0; i < 8; i++)
        finish("poll", &jobs[i]);
}

CASE(thread_epoll_each_event_one)
{
    enum { N = 8 };
    int ep = epoll_create1(0), fds[N];
    struct job jobs[N] = {0};
    for (int i = 0; i < N; i++) {
        fds[i] = active_pair();
        struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT};
        epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &e);
    }
    for (int i = 0; i < N; i++)
        start(&jobs[i], ep, EPOLL);
    settle();
    for (int i = 0; i < N; i++) {
        peer("use %d", i * 2 + 1);
        peer("text x");
    }
    long sum = 0;
    for (int i = 0; i < N; i++) {
        pthread_join(jobs[i].thread, NULL);
        sum += jobs[i].ret;
    }
    say("events %ld", sum);
}

CASE(thread_epoll_first_member_while_waiting)
{
    int ep = epoll_create1(0);
    struct job jobs[4] = {0};
    for (int i = 0; i < 4; i++)
        start(&jobs[i], ep, EPOLL);
    settle();
    int fd = active_pair();
    struct epoll_event e = {.events = EPOLLIN};
    say_ret("ADD", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    settle();
    say("still blocked: %d", !jobs[0].done && !jobs[1].done && !jobs[2].done && !jobs[3].done);
    peer_ok("text x");
    for (int i = 0; i < 4; i++)
        finish("epoll_wait", &jobs[i]);
}

CASE(thread_epoll_change_while_waiting)
{
    int ep = epoll_create1(0), fd = active_pair(), p[2];
    if (pipe(p))
        give_up("pipe");
    struct epoll_event e = {.events = EPOLLIN};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    struct job j = {0};
    start(&j, ep, EPOLL);
    settle();
    e.events = EPOLLOUT;
    say_ret("MOD", epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e));
    finish("epoll_wait", &j);
    e.events = EPOLLIN;
    epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
    struct job k = {0};
    start(&k, ep, EPOLL);
    settle();
    say_ret("ADD pipe", epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e));
    say_ret("write", write(p[1], "x", 1));
    finish("epoll_wait", &k);
    epoll_ctl(ep, EPOLL_CTL_DEL, p[0], NULL);
    struct job m = {0};
    start(&m, ep, EPOLL);
    settle();
    say_ret("DEL", epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
    peer_ok("text x");
    settle();
    say("still blocked: %d", !m.done);
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    finish("epoll_wait", &m);
}

CASE(thread_epoll_close_set)
{
    int ep = epoll_create1(0), fd = active_pair();
    struct epoll_event e = {.events = EPOLLIN};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    struct job j = {0};
    j.fd = ep;
    j.how = EPOLL;
    j.ms = 300;
    pthread_create(&j.thread, NULL, work, &j);
    settle();
    say_ret("close", close(ep));
    finish("epoll_wait", &j);
}

CASE(thread_epoll_kernel_member_one_of_many)
{
    int ep = epoll_create1(0), fd = active_pair(), p[2];
    if (pipe(p))
        give_up("pipe");
    struct epoll_event e = {.events = EPOLLIN};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    e.events = EPOLLIN | EPOLLET;
    epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e);
    struct job jobs[8] = {0};
    for (int i = 0; i < 8; i++)
        start(&jobs[i], ep, EPOLL);
    settle();
    for (int i = 0; i < 8; i++) {
        if (write(p[1], "x", 1) != 1)
            give_up("write");
        usleep(30000);
        int done = 0;
        for (int k = 0; k < 8; k++)
            done += jobs[k].done;
        say("after %d: %d", i + 1, done);
    }
    for (int i = 0; i < 8; i++)
        pthread_join(jobs[i].thread, NULL);
}

enum { LINES = 10 };

static void *writer(void *p)
{
    struct job *j = p;
    char line[100];
    memset(line, 'a' + j->how, 99);
    line[99] = '\n';
    for (int i = 0; i < LINES; i++)
        if (send(j->fd, line, 100, MSG_NOSIGNAL) != 100)
            j->ret = -1;
    return NULL;
}

CASE(thread_small_writes_stay_whole)
{
    enum { N = 8 };
    int fd = active_pair();
    struct job jobs[N] = {0};
    for (int i = 0; i < N; i++) {
        jobs[i].fd = fd;
        jobs[i].how = i;
        pthread_create(&jobs[i].thread, NULL, writer, &jobs[i]);
    }
    /* The peer gives back what it got: 100 bytes at a time must be of one letter. */
    for (int i = 0; i < N; i++)
        pthread_join(jobs[i].thread, NULL);
    int whole = 0;
    for (int i = 0; i < N * LINES * 2; i++) {
        const char *text = strchr(peer("recv 50"), ' ');
        int same = text != NULL;
        for (int k = 1; same && k < 48; k++)
            same = text[1 + k] == text[1];
        whole += same;
    }
    say("whole: %d of %d", whole, N * LINES * 2);
}
