/* A hundred threads wait for one event: it wakes a few of them, not all. */
#include "diff.h"
#include <dirent.h>

enum { N = 100 };

static int fd_of[N];

static void *accepting(void *p)
{
    int fd = accept(*(int *)p, NULL, NULL);
    if (fd >= 0)
        pause();
    return NULL;
}

static void *receiving(void *p)
{
    char b[8];
    if (recv(*(int *)p, b, sizeof b, 0) > 0)
        pause();
    return NULL;
}

static void *watching(void *p)
{
    struct epoll_event got;
    if (epoll_wait(*(int *)p, &got, 1, -1) > 0)
        pause();
    return NULL;
}

/* How often each thread gave up the processor by itself. */
static int switches(long *into)
{
    DIR *tasks = opendir("/proc/self/task");
    int n = 0;
    for (struct dirent *d; (d = readdir(tasks)) && n < 2 * N;) {
        char path[300], line[200];
        if (d->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/status", d->d_name);
        FILE *f = fopen(path, "r");
        while (f && fgets(line, sizeof line, f))
            if (!strncmp(line, "voluntary_ctxt_switches:", 24))
                into[n++] = atol(line + 24);
        if (f)
            fclose(f);
    }
    closedir(tasks);
    return n;
}

static void start(void *(*work)(void *), int one)
{
    /* The control connection takes its number before the library takes many. */
    peer_ok("sleep 1");
    for (int i = 0; i < N; i++) {
        pthread_t t;
        if (one >= 0)
            fd_of[i] = one;
        pthread_create(&t, NULL, work, &fd_of[i]);
    }
    usleep(300000);
}

static void count(const char *what, const char *order)
{
    static long before[2 * N], after[2 * N];
    int n = switches(before), woken = 0;
    peer("%s", order);
    usleep(30000);
    int m = switches(after);
    /* The first one is this thread itself. */
    for (int i = 1; i < n && i < m; i++)
        woken += after[i] != before[i];
    say("%s: %s", what, woken < 1 ? "nobody woke" : woken <= N / 4 ? "a few woke" : "a crowd woke");
}

CASE(herd_accept)
{
    int l = listening();
    char order[64];
    snprintf(order, sizeof order, "connect %d", port_of(l));
    start(accepting, l);
    for (int i = 0; i < 5; i++)
        count("accept", order);
}

CASE(herd_udp_recv)
{
    int fd = udp_pair();
    send(fd, "x", 1, 0);
    say_peer("recvfrom");
    start(receiving, fd);
    for (int i = 0; i < 5; i++)
        count("recv", "reply 1");
}

CASE_KNOWN_LATE(herd_epoll_exclusive, "what the kernel says of a connection that may be paired wakes every sleeper")
{
    int fd = active_pair();
    for (int i = 0; i < N; i++) {
        struct epoll_event e = {.events = EPOLLIN | EPOLLEXCLUSIVE};
        fd_of[i] = epoll_create1(0);
        epoll_ctl(fd_of[i], EPOLL_CTL_ADD, fd, &e);
    }
    start(watching, -1);
    for (int i = 0; i < 5; i++)
        count("epoll_wait", "text x");
}

CASE(herd_epoll_one_set)
{
    int fd = active_pair(), ep = epoll_create1(0), p[2];
    struct epoll_event e = {.events = EPOLLIN | EPOLLET};
    if (pipe(p))
        give_up("pipe");
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    epoll_ctl(ep, EPOLL_CTL_ADD, p[0], &e);
    start(watching, ep);
    for (int i = 0; i < 5; i++)
        count("epoll_wait", "text x");
    /* A kernel member as well: nobody but the one who watches wakes, a thread or two. */
    static long before[2 * N], after[2 * N];
    int n = switches(before), woken = 0;
    if (write(p[1], "x", 1) != 1)
        give_up("write");
    usleep(30000);
    int m = switches(after);
    for (int i = 1; i < n && i < m; i++)
        woken += after[i] != before[i];
    say("pipe: %s", woken < 1 ? "nobody woke" : woken <= N / 4 ? "a few woke" : "a crowd woke");
}
