/*
 * Short connections within one host whose two ends race: who speaks first, in what pieces, how each end waits, who closes
 * and how, whether a child of fork goes on with an accepted one. Every byte is verified. Arguments: address, how many
 * connections, seed, threads at each end. The server's threads are a process of their own. Prints what it did; exits
 * with 1 at the first wrong byte, and with 2 when something else went wrong.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LISTENERS = 2, MOST = 20000, BANNER = 5, HEADER = 8, TRAILER = 3 };
enum how { BLOCKING, POLL, LEVEL, EDGE, HOWS };
/* Who ends a connection, and how. */
enum end { CLIENT_SHUTS, SERVER_CLOSES, CLIENT_RUNS, NOTHING_SAID, ENDS };

static int listeners[LISTENERS];
static struct sockaddr_storage where[LISTENERS];
static socklen_t where_len;
static int family, count, threads;
static uint64_t first_seed;
/* Shared by the two processes. */
static struct { int next, served, forked; } *shared;

static void fail(int status, const char *what, uint64_t seed)
{
    char text[300];
    int n = snprintf(text, sizeof text, "connection %llu: %s: %s\n", (unsigned long long)seed, what, strerror(errno));
    if (write(2, text, n) < 0)
        _exit(3);
    _exit(status);
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static unsigned draw(uint64_t *state, unsigned n)
{
    *state = mix(*state);
    return (*state >> 20) % n;
}

static unsigned char byte(uint64_t seed, int direction, unsigned i)
{
    return seed * 31 + i * 7 + direction * 13 + (i >> 8);
}

/* One end of a connection. */
struct side {
    int fd, set;
    enum how how;
    uint64_t seed, dice;
    /* The other end may be gone: that is no failure. */
    int forgiving;
};

static struct side open_side(int fd, uint64_t dice)
{
    struct side s = {.fd = fd, .set = -1, .dice = dice};
    s.how = draw(&s.dice, HOWS);
    fcntl(fd, F_SETFL, s.how == BLOCKING ? 0 : O_NONBLOCK);
    if (s.how >= LEVEL) {
        struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | (s.how == EDGE ? EPOLLET : 0)};
        s.set = epoll_create1(0);
        epoll_ctl(s.set, EPOLL_CTL_ADD, fd, &e);
    }
    return s;
}

static void close_side(struct side *s)
{
    if (draw(&s->dice, 2) && s->set >= 0) {
        struct epoll_event e;
        epoll_ctl(s->set, EPOLL_CTL_DEL, s->fd, NULL);
        if (epoll_wait(s->set, &e, 1, 0) != 0)
            fail(2, "an event of what is no member any more", s->seed);
    }
    close(s->fd);
    if (s->set >= 0)
        close(s->set);
}

static void wait_for(struct side *s, short events)
{
    int n;
    if (s->how == POLL) {
        struct pollfd p = {.fd = s->fd, .events = events};
        n = poll(&p, 1, 8000);
    } else {
        /* Level-triggered, the set would always show that there is room. */
        struct epoll_event e = {.events = events};
        if (s->how == LEVEL)
            epoll_ctl(s->set, EPOLL_CTL_MOD, s->fd, &e);
        n = epoll_wait(s->set, &e, 1, 8000);
        if (n == 1 && s->how == LEVEL && !(e.events & (events | EPOLLERR | EPOLLHUP)))
            fail(2, "an event that nobody asked for", s->seed);
    }
    if (n == 0) {
        errno = ETIMEDOUT;
        fail(2, s->how == POLL ? "poll" : s->how == LEVEL ? "epoll" : "epoll, edge", s->seed);
    }
}

/* Sends all; 0 when the other end is gone. */
static int put(struct side *s, const unsigned char *data, unsigned n)
{
    for (unsigned done = 0; done < n;) {
        unsigned piece = 1 + draw(&s->dice, draw(&s->dice, 3) ? n - done : 1 + (n - done) / 10);
        long sent = send(s->fd, data + done, piece, MSG_NOSIGNAL);
        if (sent > 0)
            done += sent;
        else if (errno == EAGAIN && s->how != BLOCKING)
            wait_for(s, POLLOUT);
        else if (errno != EINTR) {
            if (!s->forgiving)
                fail(2, "send", s->seed);
            return 0;
        }
    }
    return 1;
}

/* Receives n bytes, or fewer up to the end. */
static unsigned get(struct side *s, unsigned char *data, unsigned n)
{
    unsigned got = 0;
    while (got < n) {
        unsigned piece = 1 + draw(&s->dice, n - got);
        if (draw(&s->dice, 20) == 0)
            recv(s->fd, data + got, piece, MSG_PEEK | MSG_DONTWAIT);
        long r = recv(s->fd, data + got, piece, 0);
        if (r == 0)
            break;
        if (r > 0)
            got += r;
        else if (errno == EAGAIN && s->how != BLOCKING)
            wait_for(s, POLLIN);
        else if (errno != EINTR) {
            if (!s->forgiving)
                fail(2, "recv", s->seed);
            break;
        }
    }
    return got;
}

static void expect_end(struct side *s)
{
    unsigned char c;
    if (get(s, &c, 1) != 0)
        fail(1, "more than was sent", s->seed);
}

static void verify(struct side *s, const unsigned char *data, unsigned n, int direction)
{
    for (unsigned i = 0; i < n; i++)
        if (data[i] != byte(s->seed, direction, i))
            fail(1, "a wrong byte", s->seed);
}

/* What both ends know of a connection. */
struct plan {
    enum end end;
    unsigned up, down;
};

static struct plan plan_of(uint64_t seed)
{
    uint64_t dice = seed;
    struct plan p;
    p.end = draw(&dice, ENDS);
    unsigned scale = draw(&dice, 3) == 0 ? MOST : 200;
    p.up = draw(&dice, scale);
    p.down = draw(&dice, scale);
    return p;
}

static void fill(unsigned char *data, uint64_t seed, int direction, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        data[i] = byte(seed, direction, i);
}

static void serve(int fd, int with_banner)
{
    unsigned char data[MOST], head[HEADER];
    struct side s = open_side(fd, mix((uintptr_t)&data ^ (uint64_t)fd << 32 ^ (uint64_t)shared->served << 8));
    s.forgiving = 1;
    if (with_banner)
        put(&s, (const unsigned char *)"hello", BANNER);
    unsigned n = get(&s, head, HEADER);
    if (n == HEADER) {
        memcpy(&s.seed, head, HEADER);
        struct plan p = plan_of(s.seed);
        s.forgiving = p.end == CLIENT_RUNS;
        int down_first = draw(&s.dice, 2);
        fill(data, s.seed, 1, p.down);
        int gone = down_first && !put(&s, data, p.down);
        n = get(&s, data, p.up);
        if (n < p.up && !s.forgiving)
            fail(1, "the server lacks bytes", s.seed);
        verify(&s, data, n, 0);
        fill(data, s.seed, 1, p.down);
        if (!down_first && !gone)
            put(&s, data, p.down);
        if (p.end == CLIENT_SHUTS) {
            expect_end(&s);
            put(&s, (const unsigned char *)"bye", TRAILER);
        }
    } else if (n != 0)
        fail(1, "half a header", 0);
    close_side(&s);
    __atomic_add_fetch(&shared->served, 1, __ATOMIC_SEQ_CST);
}

static void *server(void *arg)
{
    int which = (intptr_t)arg % LISTENERS;
    uint64_t dice = mix((intptr_t)arg ^ first_seed);
    for (;;) {
        int fd = accept(listeners[which], NULL, NULL);
        if (fd < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            fail(2, "accept", 0);
        }
        pid_t child = draw(&dice, 50) == 0 ? fork() : -1;
        if (child == 0) {
            __atomic_add_fetch(&shared->forked, 1, __ATOMIC_SEQ_CST);
            serve(fd, which);
            _exit(0);
        }
        if (child > 0) {
            close(fd);
            int status;
            waitpid(child, &status, 0);
            if (status)
                fail(WIFEXITED(status) ? WEXITSTATUS(status) : 2, "a child", 0);
        } else
            serve(fd, which);
    }
    return arg;
}

static int dial(uint64_t seed, uint64_t *dice, int which)
{
    int fd = socket(family, SOCK_STREAM, 0);
    if (fd < 0)
        fail(2, "socket", seed);
    int waits = draw(dice, 2), set = -1;
    if (!waits) {
        fcntl(fd, F_SETFL, O_NONBLOCK);
        if (draw(dice, 2)) {
            /* A member before it is connected. */
            struct epoll_event e = {.events = EPOLLOUT | EPOLLIN | EPOLLET};
            set = epoll_create1(0);
            epoll_ctl(set, EPOLL_CTL_ADD, fd, &e);
        }
    }
    if (connect(fd, (struct sockaddr *)&where[which], where_len)) {
        if (waits || errno != EINPROGRESS)
            fail(2, "connect", seed);
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        struct epoll_event e = {0};
        while (set >= 0 ? epoll_wait(set, &e, 1, 8000) == 1 && !(e.events & EPOLLOUT) : poll(&p, 1, 20000) != 1)
            ;
        int error = 0;
        socklen_t len = sizeof error;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
        errno = error;
        if (error)
            fail(2, "connect, later", seed);
    }
    if (set >= 0)
        close(set);
    return fd;
}

static void call(uint64_t seed)
{
    unsigned char data[MOST];
    uint64_t dice = mix(seed ^ 0x5555);
    struct plan p = plan_of(seed);
    int which = draw(&dice, LISTENERS);
    struct side s = open_side(dial(seed, &dice, which), dice);
    s.seed = seed;
    if (p.end == NOTHING_SAID) {
        close_side(&s);
        return;
    }
    if (which == 1 && (get(&s, data, BANNER) != BANNER || memcmp(data, "hello", BANNER)))
        fail(1, "the banner", seed);
    put(&s, (unsigned char *)&seed, HEADER);
    fill(data, seed, 0, p.up);
    int up_first = draw(&s.dice, 2);
    /* With both buffers full of what nobody reads the ends would wait for one another. */
    if (up_first || p.down > 10000 || p.up > 10000)
        put(&s, data, p.up), up_first = 1;
    if (p.end == CLIENT_RUNS) {
        if (!up_first)
            put(&s, data, p.up);
        close_side(&s);
        return;
    }
    if (!up_first) {
        put(&s, data, p.up / 2);
        put(&s, data + p.up / 2, p.up - p.up / 2);
    }
    if (p.end == CLIENT_SHUTS && draw(&s.dice, 2)) {
        shutdown(s.fd, SHUT_WR);
        p.end = ENDS;
    }
    unsigned n = get(&s, data, p.down);
    if (n < p.down)
        fail(1, "the client lacks bytes", seed);
    verify(&s, data, n, 1);
    if (p.end == CLIENT_SHUTS)
        shutdown(s.fd, SHUT_WR);
    if (p.end != SERVER_CLOSES && (get(&s, data, TRAILER) != TRAILER || memcmp(data, "bye", TRAILER)))
        fail(1, "the trailer", seed);
    expect_end(&s);
    close_side(&s);
}

static void *client(void *arg)
{
    for (int n; (n = __atomic_fetch_add(&shared->next, 1, __ATOMIC_SEQ_CST)) < count;)
        call(mix(first_seed + n));
    return arg;
}

static void run(void *(*work)(void *), int n)
{
    pthread_t all[64];
    for (int i = 0; i < n; i++)
        if (pthread_create(&all[i], NULL, work, (void *)(intptr_t)i))
            fail(2, "pthread_create", 0);
    for (int i = 0; i < n; i++)
        pthread_join(all[i], NULL);
}

static void listen_on(const char *address)
{
    family = strchr(address, ':') ? AF_INET6 : AF_INET;
    for (int i = 0; i < LISTENERS; i++) {
        struct sockaddr_in *v4 = (void *)&where[i];
        struct sockaddr_in6 *v6 = (void *)&where[i];
        where[i].ss_family = family;
        where_len = family == AF_INET ? sizeof *v4 : sizeof *v6;
        inet_pton(family, address, family == AF_INET ? (void *)&v4->sin_addr : (void *)&v6->sin6_addr);
        listeners[i] = socket(family, SOCK_STREAM, 0);
        if (bind(listeners[i], (struct sockaddr *)&where[i], where_len) || listen(listeners[i], 512))
            fail(2, "listen", 0);
        socklen_t len = sizeof where[i];
        getsockname(listeners[i], (struct sockaddr *)&where[i], &len);
    }
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    count = atoi(argv[2]);
    first_seed = strtoull(argv[3], NULL, 0);
    threads = atoi(argv[4]) % 64;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    listen_on(argv[1]);
    pid_t other = fork();
    if (other == 0) {
        run(server, threads);
        _exit(0);
    }
    run(client, threads);
    /* Its last connections may still be at work; every one of them comes to an end. */
    for (int i = 0; i < 2000 && __atomic_load_n(&shared->served, __ATOMIC_SEQ_CST) < count; i++) {
        int status;
        if (waitpid(other, &status, WNOHANG) == other) {
            fprintf(stderr, "the server ended: %x\n", status);
            return WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 2;
        }
        usleep(10000);
    }
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    printf("%d of %d served, %d by children\n", shared->served, count, shared->forked);
    return shared->served == count ? 0 : 2;
}
