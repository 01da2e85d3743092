/* Threads that block in a call. */
#pragma once
#include "diff.h"

struct job {
    int fd, how, ms;
    volatile int tid;
    long ret;
    int error;
    char data[64];
    volatile int done;
    pthread_t thread;
};

enum { RECV, SEND, ACCEPT, CONNECT, POLL, SELECT, EPOLL };

static void *work(void *p)
{
    struct job *j = p;
    j->tid = gettid();
    struct pollfd one = {.fd = j->fd, .events = POLLIN};
    struct epoll_event got[4];
    fd_set readable;
    struct timeval limit = {.tv_sec = j->ms / 1000};
    switch (j->how) {
    case RECV: j->ret = recv(j->fd, j->data, sizeof j->data, 0); break;
    case SEND: j->ret = send(j->fd, j->data, sizeof j->data, MSG_NOSIGNAL); break;
    case ACCEPT: j->ret = accept(j->fd, NULL, NULL); break;
    case POLL: j->ret = poll(&one, 1, j->ms); break;
    case SELECT:
        FD_ZERO(&readable);
        FD_SET(j->fd, &readable);
        j->ret = select(j->fd + 1, &readable, NULL, NULL, &limit);
        break;
    case EPOLL: j->ret = epoll_wait(j->fd, got, 1, j->ms); break;
    }
    j->error = errno;
    j->done = 1;
    return NULL;
}

static void start(struct job *j, int fd, int how)
{
    j->fd = fd;
    j->how = how;
    j->ms = j->ms ? j->ms : 4000;
    pthread_create(&j->thread, NULL, work, j);
}

static void finish(const char *what, struct job *j)
{
    pthread_join(j->thread, NULL);
    if (j->how == ACCEPT)
        say("%s: %s", what, j->ret >= 0 ? "fd" : errno_name(j->error));
    else if (j->ret < 0)
        say("%s: %s", what, errno_name(j->error));
    else
        say("%s: %ld \"%s\"", what, j->ret, j->how == RECV ? show(j->data, j->ret) : "");
}

static void settle(void) { usleep(60000); }
