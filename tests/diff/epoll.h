/* What programs about epoll have in common. */
static int new_set(void)
{
    int ep = epoll_create1(0);
    if (ep < 0)
        give_up("epoll_create1");
    return ep;
}

static int ctl(int ep, int op, int fd, unsigned events, uint64_t data)
{
    struct epoll_event e = {.events = events, .data.u64 = data};
    return epoll_ctl(ep, op, fd, &e);
}

static void add(int ep, int fd, unsigned events, uint64_t data)
{
    if (ctl(ep, EPOLL_CTL_ADD, fd, events, data))
        say_ret("epoll_ctl ADD", -1);
}

static int by_data(const void *a, const void *b)
{
    const struct epoll_event *x = a, *y = b;
    return x->data.u64 < y->data.u64 ? -1 : x->data.u64 > y->data.u64;
}

/* What the set reports, in the order of the words. */
static void report(const char *when, int ep, int max, int ms)
{
    struct epoll_event got[256];
    int n = epoll_wait(ep, got, max, ms);
    if (n < 0) {
        say("%s: -1 %s", when, errno_name(errno));
        return;
    }
    qsort(got, n, sizeof *got, by_data);
    say("%s: %d", when, n);
    for (int i = 0; i < n && i < 12; i++)
        say("  %llx %s", (unsigned long long)got[i].data.u64, events_name(got[i].events));
}

static void drain(int fd)
{
    char b[4096];
    while (recv(fd, b, sizeof b, MSG_DONTWAIT) > 0)
        ;
}
