/*
 * Random calls on epoll sets, nested and not, with connections, pipes and copies of descriptors as members. Seeds and
 * steps as in random_calls.c.
 */
#define DIFF_MORE_CASES
#include "diff.h"

enum { CONNECTIONS = 4, SETS = 3 };

static uint64_t state;

static unsigned draw(unsigned n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 20) % n;
}

static int member[16], members, set[SETS], opened;
static struct {
    int fd, handle, ended, shut;
} con[CONNECTIONS];

static int by_data(const void *a, const void *b)
{
    const struct epoll_event *x = a, *y = b;
    if (x->data.u64 != y->data.u64)
        return x->data.u64 < y->data.u64 ? -1 : 1;
    return (x->events > y->events) - (x->events < y->events);
}

static void report(int s)
{
    struct epoll_event got[32];
    /* While accelerated members are ready, the kernel's are looked at every 10 us. */
    usleep(30);
    int n = epoll_wait(set[s], got, 32, 0);
    if (n > 0)
        qsort(got, n, sizeof *got, by_data);
    char line[600] = "";
    for (int i = 0; i < n; i++)
        sprintf(line + strlen(line), " %d:%s", (int)got[i].data.u64, events_name(got[i].events));
    say("set %d: %d%s", s, n, line);
}

static unsigned some_events(void)
{
    static const unsigned what[] = {EPOLLIN, EPOLLIN, EPOLLOUT, EPOLLIN | EPOLLOUT, EPOLLIN | EPOLLRDHUP, EPOLLRDHUP,
        EPOLLPRI, 0, EPOLLIN | EPOLLPRI | EPOLLRDNORM};
    static const unsigned how[] = {0, 0, EPOLLET, EPOLLET, EPOLLONESHOT, EPOLLET | EPOLLONESHOT};
    return what[draw(9)] | how[draw(6)];
}

static const char *wish_name(unsigned events)
{
    static char text[160];
    snprintf(text, sizeof text, "%s%s%s", events_name(events & 0xffff), events & EPOLLET ? "|ET" : "",
        events & EPOLLONESHOT ? "|ONESHOT" : "");
    return text;
}

static void open_connection(int i)
{
    con[i].fd = active_pair();
    /* A listener and a connection each time. */
    con[i].handle = opened++ * 2 + 1;
    con[i].ended = con[i].shut = 0;
    member[i] = con[i].fd;
}

static int bytes(int fd)
{
    int n = 0;
    ioctl(fd, FIONREAD, &n);
    return n;
}

static void from_the_peer(int i, int what)
{
    if (con[i].ended)
        return;
    int before = bytes(con[i].fd);
    peer("use %d", con[i].handle);
    if (what == 0 && !(con[i].shut & 1)) {
        peer_ok("text z");
        wait_bytes(con[i].fd, before + 1);
    } else if (what == 1) {
        peer_ok("shutdown w");
        con[i].ended = 1;
        wait_events(con[i].fd, POLLRDHUP);
    } else if (what == 2) {
        peer_ok("rst");
        con[i].ended = 1;
        wait_events(con[i].fd, POLLERR);
    }
}

static void step(int pipe_in)
{
    int s = draw(SETS), m = draw(members), i = draw(CONNECTIONS);
    char b[16];
    struct epoll_event e;
    switch (draw(16)) {
    case 0 ... 2:
        e.events = some_events();
        e.data.u64 = m + 100 * s;
        say("ADD %d %d %s", s, m, wish_name(e.events));
        say_ret("", epoll_ctl(set[s], EPOLL_CTL_ADD, member[m], &e));
        break;
    case 3:
        e.events = some_events();
        e.data.u64 = m + 100 * s + 1000;
        say("MOD %d %d %s", s, m, wish_name(e.events));
        say_ret("", epoll_ctl(set[s], EPOLL_CTL_MOD, member[m], &e));
        break;
    case 4:
        say("DEL %d %d", s, m);
        say_ret("", epoll_ctl(set[s], EPOLL_CTL_DEL, member[m], NULL));
        break;
    case 5 ... 7: from_the_peer(i, 0); break;
    case 8:
        if (draw(4) == 0)
            from_the_peer(i, 1 + draw(2));
        break;
    case 9: say_ret("recv", recv(con[i].fd, b, 1 + draw(3), MSG_DONTWAIT)); break;
    case 10: say_ret("write", write(pipe_in, "p", 1)); break;
    case 11: say_ret("read", draw(2) ? read(member[CONNECTIONS], b, 3) : 0); break;
    case 12:
        if (draw(3) == 0) {
            say("new %d", i);
            close(con[i].fd);
            open_connection(i);
        }
        break;
    case 13:
        if (draw(4) == 0) {
            int how = draw(2);
            con[i].shut |= how == SHUT_RD ? 1 : 2;
            say_ret("shutdown", shutdown(con[i].fd, how));
            /* The acknowledgment of the FIN is an event of its own. */
            while (!strcmp(tcp_state(con[i].fd), "FIN_WAIT1"))
                usleep(1000);
        }
        break;
    case 14: {
        struct pollfd p[16];
        for (int k = 0; k < members; k++)
            p[k] = (struct pollfd){.fd = member[k], .events = POLLIN | POLLOUT | POLLRDHUP};
        int n = poll(p, members, 0);
        char line[900] = "";
        for (int k = 0; k < members; k++)
            sprintf(line + strlen(line), " %s", events_name(p[k].revents));
        say("poll %d%s", n, line);
        break;
    }
    default: report(s);
    }
    report(draw(SETS));
}

static int number_of(const char *name, int otherwise) { return atoi(diff_env(name, "0")) ?: otherwise; }

static void walk(uint64_t seed)
{
    int p[2];
    state = seed * 0x9e3779b97f4a7c15ull + 1;
    if (pipe2(p, O_NONBLOCK))
        give_up("pipe");
    for (int i = 0; i < CONNECTIONS; i++)
        open_connection(i);
    members = CONNECTIONS;
    member[members++] = p[0];
    member[members++] = dup(con[0].fd);
    for (int i = 0; i < SETS; i++) {
        set[i] = epoll_create1(0);
        if (i > 0)
            member[members++] = set[i];
    }
    for (int i = 0; i < number_of("DIFF_STEPS", 150); i++)
        step(p[1]);
}

static void list_more_cases(void)
{
    int first = number_of("DIFF_FIRST_SEED", 1);
    for (int i = 0; i < number_of("DIFF_SEEDS", 16); i++)
        printf("random_%d\t0\t\n", first + i);
}

static int run_more_cases(const char *name)
{
    int seed = 0;
    if (sscanf(name, "random_%d", &seed) != 1)
        return 0;
    walk(seed);
    return 1;
}

CASE(deterministic)
{
    state = 42;
    unsigned a = draw(1000), b = draw(1000);
    say("%u %u", a, b);
}
