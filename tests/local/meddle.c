/*
 * One connection after the other within this process; both ends send and read in all ways while a third thread of each
 * end sets options, copies and passes descriptors, forks, and asks. Every byte is verified, every option is what it was
 * set to, and every wait is bounded. Arguments: address, how many connections, seed. Exits with 1 when something is wrong.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Bytes of the pattern; the file has it twice. WAIT: so long, ms, is somebody waited for who is sure to come. */
enum { PATTERN = 65521, PIECE = 6000, WAIT = 20000 };

static unsigned char pattern[2 * PATTERN];
static int pattern_file;
static uint64_t round_seed;

struct end {
    /* Two numbers of the socket. */
    int fd[2];
    /* Sets of the reader and the writer, edge-triggered if `edge`. */
    int in_set, out_set, edge;
    /* Bytes to send and to read, where in the pattern they begin, and how far they are. */
    int to_send, to_read, send_at, read_at;
    _Atomic int sent, got, over;
    uint64_t dice[3];
    /* What the meddler set last. */
    int nonblock, nodelay, keepalive, timeout_ms, splices;
};

static struct end ends[2];

static void fail(const char *what)
{
    char text[400];
    int n = snprintf(text, sizeof text, "round %llu: %s: %s (sent %d of %d, %d of %d; got %d of %d, %d of %d)\n",
        (unsigned long long)round_seed, what, strerror(errno), ends[0].sent, ends[0].to_send, ends[1].sent,
        ends[1].to_send, ends[0].got, ends[0].to_read, ends[1].got, ends[1].to_read);
    if (write(2, text, n) < 0)
        _exit(3);
    if (getenv("MEDDLE_STAY"))
        for (;;)
            pause();
    _exit(1);
}

static void must(int ok, const char *what)
{
    if (!ok)
        fail(what);
}

static unsigned draw(uint64_t *state, unsigned n)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return ((x ^ x >> 31) >> 20) % n;
}

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- the two streams -------------------------------------------------------------------------------------------- */

static int number(struct end *e, uint64_t *dice) { return e->fd[draw(dice, 2)]; }

/* `set` has the socket as a member for just these events. After EAGAIN. */
static void wait_for(int fd, int set, short events, uint64_t *dice)
{
    struct pollfd p = {.fd = fd, .events = events};
    struct epoll_event got;
    struct timeval t = {.tv_sec = WAIT / 1000};
    fd_set f;
    int n = 1;
    FD_ZERO(&f);
    FD_SET(fd, &f);
    switch (draw(dice, 3)) {
    case 0: n = poll(&p, 1, WAIT); break;
    case 1: n = select(fd + 1, events == POLLIN ? &f : NULL, events == POLLOUT ? &f : NULL, NULL, &t); break;
    case 2: n = epoll_wait(set, &got, 1, WAIT); break;
    }
    must(n > 0 || (n < 0 && errno == EINTR), n ? "waiting" : events == POLLIN ? "nothing to read" : "no room");
}

static int through_a_pipe(int fd, const unsigned char *data, int n)
{
    int p[2], done = 0;
    must(!pipe(p), "pipe");
    must(write(p[1], data, n) == n, "write to a pipe");
    while (done < n) {
        int k = splice(p[0], NULL, fd, NULL, n - done, 0);
        if (k < 0 && errno == EAGAIN) {
            struct pollfd o = {.fd = fd, .events = POLLOUT};
            must(poll(&o, 1, WAIT) > 0, "no room for splice");
            continue;
        }
        must(k > 0, "splice");
        done += k;
    }
    close(p[0]);
    close(p[1]);
    return n;
}

static int put(struct end *e, int n, uint64_t *dice)
{
    int fd = number(e, dice), at = (e->send_at + e->sent) % PATTERN;
    unsigned char *data = pattern + at;
    struct iovec iov[2] = {{data, n / 3}, {data + n / 3, n - n / 3}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    off_t off = at;
    switch (draw(dice, e->splices ? 9 : 8)) {
    case 0: return write(fd, data, n);
    case 1: return writev(fd, iov, 2);
    case 2: return sendmsg(fd, &m, MSG_NOSIGNAL);
    case 3: return send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    case 4: return send(fd, data, n, MSG_MORE | MSG_NOSIGNAL);
    case 5: return sendfile(fd, pattern_file, &off, n);
    case 8: return through_a_pipe(fd, data, n);
    default: return send(fd, data, n, MSG_NOSIGNAL);
    }
}

static void *writer(void *arg)
{
    struct end *e = arg;
    uint64_t *dice = &e->dice[0];
    while (e->sent < e->to_send) {
        int left = e->to_send - e->sent, n = 1 + draw(dice, draw(dice, 4) ? 300 : PIECE);
        n = put(e, n < left ? n : left, dice);
        if (n < 0 && errno == EAGAIN) {
            wait_for(number(e, dice), e->out_set, POLLOUT, dice);
            continue;
        }
        must(n > 0, "sending");
        e->sent += n;
        if (draw(dice, 8) == 0)
            usleep(draw(dice, 200));
    }
    return NULL;
}

static int take(struct end *e, unsigned char *into, int n, int *kept, uint64_t *dice)
{
    int fd = number(e, dice);
    struct iovec iov[2] = {{into, n / 3}, {into + n / 3, n - n / 3}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    switch (draw(dice, 8)) {
    case 0: return read(fd, into, n);
    case 1: return readv(fd, iov, 2);
    case 2: return recvmsg(fd, &m, 0);
    case 3: return recv(fd, into, n, MSG_DONTWAIT);
    case 4: return recv(fd, into, n, MSG_WAITALL);
    case 5: *kept = 1; return recv(fd, into, n, MSG_PEEK);
    case 6: *kept = 1; return recv(fd, into, n, MSG_PEEK | MSG_DONTWAIT);
    default: return recv(fd, into, n, 0);
    }
}

/* Says where bytes that are wrong belong: something is missing, or came twice. */
static void wrong(struct end *e, const unsigned char *into, int n, int kept)
{
    int at = (e->read_at + e->got) % PATTERN, i = 0, is = 0;
    for (; into[i] == pattern[at + i]; i++) {}
    for (; is < PATTERN && memcmp(into + i, pattern + is, n - i < 12 ? n - i : 12); is++) {}
    fprintf(stderr, "end %d: %d of %d bytes are right, those of %d are those of %d\n", (int)(e - ends), i, n, at + i, is);
    fail(kept ? "wrong bytes, peeked" : "wrong bytes");
}

static void *reader(void *arg)
{
    struct end *e = arg;
    uint64_t *dice = &e->dice[1];
    unsigned char into[PIECE];
    while (e->got < e->to_read) {
        int left = e->to_read - e->got, n = 1 + draw(dice, draw(dice, 4) ? 400 : PIECE), kept = 0;
        n = take(e, into, n < left ? n : left, &kept, dice);
        if (n < 0 && errno == EAGAIN) {
            wait_for(number(e, dice), e->in_set, POLLIN, dice);
            continue;
        }
        must(n != 0, "an early end");
        must(n > 0, "receiving");
        if (memcmp(into, pattern + (e->read_at + e->got) % PATTERN, n))
            wrong(e, into, n, kept);
        if (!kept)
            e->got += n;
        if (draw(dice, 8) == 0)
            usleep(draw(dice, 200));
    }
    return NULL;
}

/* ---- what others do meanwhile ------------------------------------------------------------------------------------ */

static void set_timeout(struct end *e, uint64_t *dice)
{
    int ms = draw(dice, 2) ? 30 : 60;
    struct timeval t = {.tv_usec = ms * 1000}, back = {0};
    socklen_t len = sizeof back;
    must(!setsockopt(number(e, dice), SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t), "SO_RCVTIMEO");
    must(!getsockopt(number(e, dice), SOL_SOCKET, SO_RCVTIMEO, &back, &len), "SO_RCVTIMEO");
    must(labs(back.tv_usec - t.tv_usec) <= 10000, "SO_RCVTIMEO is another");
    e->timeout_ms = ms;
}

static void set_flag(struct end *e, int level, int name, int *noted, uint64_t *dice)
{
    int on = draw(dice, 2), back = -1;
    socklen_t len = sizeof back;
    must(!setsockopt(number(e, dice), level, name, &on, sizeof on), "setsockopt");
    must(!getsockopt(number(e, dice), level, name, &back, &len) && !!back == on, "an option is another");
    *noted = on;
}

static void set_nonblock(struct end *e, uint64_t *dice)
{
    int on = draw(dice, 2), fd = number(e, dice), old = fcntl(fd, F_GETFL);
    if (draw(dice, 2))
        must(!ioctl(fd, FIONBIO, &on), "FIONBIO");
    else
        must(!fcntl(fd, F_SETFL, on ? old | O_NONBLOCK : old & ~O_NONBLOCK), "F_SETFL");
    must(!!(fcntl(number(e, dice), F_GETFL) & O_NONBLOCK) == on, "O_NONBLOCK is another");
    e->nonblock = on;
}

static void look_and_close(int fd, uint64_t *dice)
{
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
    char c;
    must(fd >= 0, "a copy");
    errno = 0;
    switch (draw(dice, 3)) {
    case 0: must(poll(&p, 1, 0) >= 0 && !(p.revents & (POLLERR | POLLNVAL | POLLHUP)), "poll of a copy"); break;
    case 1: must(recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 1 || errno == EAGAIN, "peeking at a copy"); break;
    }
    must(!close(fd), "closing a copy");
}

static void pass(int fd, uint64_t *dice)
{
    int s[2];
    char c = 'x', control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec iov = {&c, 1};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    must(!socketpair(AF_UNIX, SOCK_STREAM, 0, s), "socketpair");
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    must(sendmsg(s[0], &m, 0) == 1, "passing");
    must(recvmsg(s[1], &m, 0) == 1 && CMSG_FIRSTHDR(&m), "taking");
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
    look_and_close(fd, dice);
    close(s[0]);
    close(s[1]);
}

static void branch(struct end *e)
{
    int status = 0;
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        struct pollfd p = {.fd = e->fd[1], .events = POLLOUT};
        char c;
        if (poll(&p, 1, 0) < 0 || p.revents & (POLLERR | POLLNVAL | POLLHUP))
            _exit(p.revents ? 64 | p.revents : 64);
        _exit(recv(e->fd[0], &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0);
    }
    must(waitpid(child, &status, 0) == child, "waitpid");
    errno = 0;
    must(!WIFSIGNALED(status), "a child was killed");
    must(!(WEXITSTATUS(status) & 64), "a child polls an error");
    must(status == 0, "a child reads the end");
}

static void ask(struct end *e, uint64_t *dice)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    int fd = number(e, dice), n = -1, error = -1, got = e->got; /* before the question */
    must(!getpeername(fd, (void *)&a, &len), "getpeername");
    must(connect(fd, (void *)&a, len) < 0 && errno == EISCONN, "a second connect");
    len = sizeof error;
    must(!getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) && error == 0, "SO_ERROR");
    must(!ioctl(fd, FIONREAD, &n) && n >= 0 && n <= e->to_read - got + PIECE, "FIONREAD");
    must(!ioctl(fd, TIOCOUTQ, &n) && n >= 0, "SIOCOUTQ");
    must(!fcntl(fd, F_SETOWN, getpid()) && fcntl(fd, F_GETOWN) == getpid(), "F_SETOWN");
}

static void rearm(struct end *e)
{
    uint32_t edge = e->edge ? EPOLLET : 0;
    struct epoll_event in = {.events = EPOLLIN | edge}, out = {.events = EPOLLOUT | edge};
    must(!epoll_ctl(e->in_set, EPOLL_CTL_MOD, e->fd[0], &in), "EPOLL_CTL_MOD");
    must(!epoll_ctl(e->out_set, EPOLL_CTL_MOD, e->fd[1], &out), "EPOLL_CTL_MOD");
}

static void *meddler(void *arg)
{
    struct end *e = arg;
    uint64_t *dice = &e->dice[2];
    while (!e->over) {
        switch (draw(dice, 11)) {
        case 0: set_timeout(e, dice); break;
        case 1: set_flag(e, IPPROTO_TCP, TCP_NODELAY, &e->nodelay, dice); break;
        case 2: set_flag(e, SOL_SOCKET, SO_KEEPALIVE, &e->keepalive, dice); break;
        case 3 ... 4: set_nonblock(e, dice); break;
        case 5: look_and_close(dup(number(e, dice)), dice); break;
        case 6: look_and_close(fcntl(number(e, dice), F_DUPFD_CLOEXEC, 900), dice); break;
        case 7: pass(number(e, dice), dice); break;
        case 8: ask(e, dice); break;
        case 9: rearm(e); break;
        default:
            if (draw(dice, 6) == 0)
                branch(e);
        }
        usleep(draw(dice, 150));
    }
    return NULL;
}

/* ---- a round ----------------------------------------------------------------------------------------------------- */

static void watch(struct end *e, int fd, uint64_t *dice)
{
    uint32_t edge = (e->edge = draw(dice, 2)) ? EPOLLET : 0;
    struct epoll_event in = {.events = EPOLLIN | edge}, out = {.events = EPOLLOUT | edge};
    e->fd[0] = fd;
    e->fd[1] = dup(fd);
    e->in_set = epoll_create1(0);
    e->out_set = epoll_create1(0);
    must(!epoll_ctl(e->in_set, EPOLL_CTL_ADD, e->fd[0], &in), "EPOLL_CTL_ADD");
    must(!epoll_ctl(e->out_set, EPOLL_CTL_ADD, e->fd[1], &out), "EPOLL_CTL_ADD");
}

static void *call(void *arg)
{
    return ((void *(**)(void *))arg)[0](((void **)arg)[1]);
}

static void join(pthread_t t, const char *who)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 2 * WAIT / 1000;
    if ((errno = pthread_timedjoin_np(t, NULL, &until)))
        fail(who);
}

/* Nothing is on its way: what the program set is what a call does. */
static void try_options(struct end *e)
{
    char c;
    if (e->timeout_ms == 0 && !e->nonblock)
        return;
    long begun = now_ms();
    int n = recv(e->fd[0], &c, 1, 0);
    long took = now_ms() - begun;
    must(n < 0 && errno == EAGAIN, "recv of nothing");
    must(e->nonblock || took >= e->timeout_ms - 12, "SO_RCVTIMEO is forgotten");
    must(!e->nonblock || e->timeout_ms == 0 || took < WAIT, "O_NONBLOCK is forgotten");
}

static void finish(struct end *e, struct end *other)
{
    char c;
    struct pollfd p = {.fd = other->fd[0], .events = POLLIN};
    must(!shutdown(e->fd[1], SHUT_WR), "shutdown");
    must(poll(&p, 1, WAIT) == 1, "no end");
    must(recv(other->fd[0], &c, 1, 0) == 0, "no end, but bytes");
}

static void connect_near(int fd, struct sockaddr_storage *to, socklen_t len, int later)
{
    int on = 1;
    if (later)
        must(!ioctl(fd, FIONBIO, &on), "FIONBIO");
    int r = connect(fd, (void *)to, len);
    must(r == 0 || (later && errno == EINPROGRESS), "connect");
}

/* A connect that was not waited for: its next call says, once, that it is done. */
static void end_connect(int fd, struct sockaddr_storage *to, socklen_t len)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int error = -1, off = 0;
    socklen_t size = sizeof error;
    must(poll(&p, 1, WAIT) == 1 && p.revents == POLLOUT, "not connected");
    must(!getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) && error == 0, "SO_ERROR of connect");
    must(!connect(fd, (void *)to, len), "the second connect");
    must(connect(fd, (void *)to, len) < 0 && errno == EISCONN, "the third connect");
    must(!ioctl(fd, FIONBIO, &off), "FIONBIO");
}

static void start(pthread_t *t, void *(*work)(void *), struct end *e, void *room[2])
{
    room[0] = (void *)work;
    room[1] = e;
    must(!pthread_create(t, NULL, call, room), "a thread");
}

static void one_round(int listener, struct sockaddr_storage *to, socklen_t len, uint64_t seed)
{
    uint64_t dice = round_seed = seed;
    pthread_t t[6];
    void *room[6][2];
    int later = draw(&dice, 3) == 0, splices = draw(&dice, 16) == 0;
    memset(ends, 0, sizeof ends);
    for (int i = 0; i < 2; i++) {
        struct end *e = &ends[i], *other = &ends[1 - i];
        e->to_send = other->to_read = draw(&dice, 2) ? draw(&dice, 2000) : draw(&dice, 60000);
        e->send_at = other->read_at = draw(&dice, PATTERN);
        e->splices = splices;
        for (int k = 0; k < 3; k++)
            e->dice[k] = seed * 31 + i * 7 + k;
    }
    int near = socket(to->ss_family, SOCK_STREAM, 0);
    watch(&ends[0], near, &dice);
    connect_near(near, to, len, later);
    watch(&ends[1], accept(listener, NULL, NULL), &dice);
    start(&t[0], writer, &ends[1], room[0]);
    start(&t[1], meddler, &ends[1], room[1]);
    if (later)
        end_connect(near, to, len);
    start(&t[2], reader, &ends[1], room[2]);
    start(&t[3], reader, &ends[0], room[3]);
    start(&t[4], meddler, &ends[0], room[4]);
    start(&t[5], writer, &ends[0], room[5]);
    join(t[0], "the far writer stands still");
    join(t[5], "the near writer stands still");
    join(t[2], "the far reader stands still");
    join(t[3], "the near reader stands still");
    ends[0].over = ends[1].over = 1;
    join(t[1], "the far meddler stands still");
    join(t[4], "the near meddler stands still");
    for (int i = 0; i < 2; i++)
        if (draw(&dice, 8) == 0)
            try_options(&ends[i]);
    finish(&ends[0], &ends[1]);
    finish(&ends[1], &ends[0]);
    for (int i = 0; i < 2; i++) {
        must(!close(ends[i].fd[0]) && !close(ends[i].fd[1]), "close");
        must(!close(ends[i].in_set) && !close(ends[i].out_set), "close of a set");
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_storage where = {0};
    struct sockaddr_in *v4 = (void *)&where;
    struct sockaddr_in6 *v6 = (void *)&where;
    socklen_t len = sizeof *v4;
    uint64_t dice = 7;
    if (argc != 4)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < PATTERN; i++)
        pattern[i] = pattern[PATTERN + i] = draw(&dice, 256);
    pattern_file = memfd_create("pattern", 0);
    must(write(pattern_file, pattern, sizeof pattern) == sizeof pattern, "the pattern");
    where.ss_family = strchr(argv[1], ':') ? AF_INET6 : AF_INET;
    if (where.ss_family == AF_INET6) {
        len = sizeof *v6;
        must(inet_pton(AF_INET6, argv[1], &v6->sin6_addr) == 1, "the address");
    } else
        must(inet_pton(AF_INET, argv[1], &v4->sin_addr) == 1, "the address");
    int listener = socket(where.ss_family, SOCK_STREAM, 0);
    must(!bind(listener, (void *)&where, len) && !listen(listener, 16), "listen");
    must(!getsockname(listener, (void *)&where, &len), "getsockname");
    for (int i = 0; i < atoi(argv[2]); i++)
        one_round(listener, &where, len, strtoull(argv[3], NULL, 0) + i);
    printf("%s connections\n", argv[2]);
    return 0;
}
