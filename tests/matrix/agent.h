/*
 * An agent: a process that does what the coordinator of a cell orders, one line each way on a Unix socket whose number
 * it knows (CHANNEL + its number). It never prints. Agents beget agents: by fork, by exec, by any other way.
 */
#include <sched.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>

enum { CHANNEL = 800, COORDINATOR = 850, MAIL = 840, AGENTS = 4 };

static char own_path[4096], base_path[4000];
static int channel_number;

static void channel_say(const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (send(CHANNEL + channel_number, line, n, MSG_NOSIGNAL) < 0)
        _exit(9);
}

static void channel_result(long ret)
{
    if (ret < 0)
        channel_say("%s", errno_name(errno));
    else
        channel_say("ok");
}

/* ---- moving bytes ---------------------------------------------------------------------------------------------- */

/* Sends and receives at the same time, as far as both are wanted; bytes are those of the pattern from these offsets.
 * With `epfd` the waiting is that set's. Answers "ok", or what stopped it. */
static void pump(int fd, int epfd, unsigned long at, unsigned long out, unsigned long from, unsigned long in)
{
    static char data[16384];
    long until = time(NULL) + 8;
    while (out || in) {
        int moved = 0;
        if (out) {
            unsigned long n = out < sizeof data ? out : sizeof data;
            fill_pattern(data, at, n);
            long sent = send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent < 0 && errno != EAGAIN) {
                channel_say("send %s with %lu and %lu to go", errno_name(errno), out, in);
                return;
            }
            if (sent > 0)
                at += sent, out -= sent, moved = 1;
        }
        if (in) {
            long got = recv(fd, data, in < sizeof data ? in : sizeof data, MSG_DONTWAIT);
            if (got == 0 || (got < 0 && errno != EAGAIN)) {
                channel_say("%s with %lu and %lu to go", got ? errno_name(errno) : "eof", out, in);
                return;
            }
            for (long i = 0; i < got; i++)
                if (data[i] != pattern(from + i)) {
                    channel_say("other data");
                    return;
                }
            if (got > 0)
                from += got, in -= got, moved = 1;
        }
        if (moved)
            continue;
        if (time(NULL) > until) {
            channel_say("timeout with %lu and %lu to go", out, in);
            return;
        }
        struct epoll_event e;
        struct pollfd p = {.fd = fd, .events = (out ? POLLOUT : 0) | (in ? POLLIN : 0)};
        if (epfd >= 0)
            epoll_wait(epfd, &e, 1, 1000);
        else
            poll(&p, 1, 1000);
    }
    channel_say("ok");
}

/* Sends until nothing more is taken for a while; answers how much it was. */
static void fill(int fd, unsigned long at)
{
    static char data[16384];
    unsigned long n = 0;
    for (int quiet = 0; quiet < 20;) {
        fill_pattern(data, at + n, sizeof data);
        long sent = send(fd, data, sizeof data, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0)
            n += sent, quiet = 0;
        else if (errno == EAGAIN)
            quiet++, usleep(2000);
        else {
            channel_say("%s", errno_name(errno));
            return;
        }
    }
    channel_say("%lu", n);
}

/* One datagram, which must hold the pattern. */
static void datagram(int fd)
{
    static char data[4096];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    long n = poll(&p, 1, 5000) == 1 ? recv(fd, data, sizeof data, MSG_DONTWAIT) : (errno = ETIMEDOUT, -1);
    for (long i = 0; i < n; i++)
        if (data[i] != pattern(i)) {
            channel_say("other data");
            return;
        }
    if (n < 0)
        channel_result(n);
    else
        channel_say("%ld", n);
}

/* Accepts, reads ten bytes, answers ten, waits for the end if the peer has sent one. */
static void serve_one(int fd, int to_eof)
{
    char data[10];
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, 5000) != 1) {
        channel_say("nobody comes");
        return;
    }
    int c = accept(fd, NULL, NULL);
    if (c < 0) {
        channel_result(c);
        return;
    }
    long n = recv(c, data, sizeof data, MSG_WAITALL), m = send(c, data, sizeof data, MSG_NOSIGNAL), end = -2;
    if (to_eof)
        end = recv(c, data, 1, 0);
    close(c);
    channel_say("%ld %ld %ld", n, m, end);
}

/* ---- passing descriptors ---------------------------------------------------------------------------------------- */

static long send_fds(int through, const int *fds, int count)
{
    _Alignas(16) char control[CMSG_SPACE(sizeof(int[4]))] = {0};
    char byte = 'f';
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control,
        .msg_controllen = CMSG_SPACE(sizeof(int) * count)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
    return sendmsg(through, &m, 0);
}

static void receive_fds(int through)
{
    _Alignas(16) char control[CMSG_SPACE(sizeof(int[4]))];
    char byte;
    int fds[4] = {-1, -1, -1, -1};
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    if (recvmsg(through, &m, 0) < 0) {
        channel_result(-1);
        return;
    }
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (!c || c->cmsg_type != SCM_RIGHTS) {
        channel_say("no descriptor");
        return;
    }
    memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    channel_say("fds %d %d", fds[0], fds[1]);
}

static struct sockaddr_un mail_name(const char *name, socklen_t *len)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int n = snprintf(a.sun_path + 1, sizeof a.sun_path - 1, "flyover-matrix-%s", name);
    *len = offsetof(struct sockaddr_un, sun_path) + 1 + n;
    return a;
}

/* ---- new agents -------------------------------------------------------------------------------------------------- */

static void serve(int number);

static char *const empty_environment[] = {NULL};

/* The environment without what makes a program accelerated. */
static char **plain_environment(void)
{
    static char *list[1024];
    int n = 0;
    for (char **e = environ; *e && n < 1023; e++)
        if (strncmp(*e, "LD_PRELOAD=", 11) && strncmp(*e, "_FLYOVER", 8))
            list[n++] = *e;
    return list;
}

/* Becomes a new program, which serves the channel. Kinds: `keep` the environment, `empty` one, `plain`: behind the
 * library's back, `static`, `library`: back into it. */
/* The same program, built or installed so that the loader preloads nothing into it. */
static int is_twin(const char *kind)
{
    return !strcmp(kind, "static") || !strcmp(kind, "setuid") || !strcmp(kind, "m32");
}

static void become(int number, const char *kind)
{
    char digits[12], path[4096];
    snprintf(digits, sizeof digits, "%d", number);
    snprintf(path, sizeof path, is_twin(kind) ? "%s-%s" : "%s", base_path, kind);
    char *const argv[] = {is_twin(kind) ? path : own_path, "agent", digits, base_path, NULL};
    if (!strcmp(kind, "empty"))
        execve(own_path, argv, empty_environment);
    else if (!strcmp(kind, "plain"))
        syscall(SYS_execve, own_path, argv, plain_environment());
    else
        execv(argv[0], argv);
    _exit(8);
}

static int spawn(int number, const char *kind)
{
    char digits[12];
    snprintf(digits, sizeof digits, "%d", number);
    char *const argv[] = {own_path, "agent", digits, base_path, NULL};
    pid_t pid;
    return posix_spawn(&pid, own_path, NULL, NULL, argv, !strcmp(kind, "empty") ? empty_environment : environ);
}

/* A child that shares the memory, gives the numbers of its descriptors other meanings, and ends. */
static int tamper(void *arg)
{
    int fd = *(int *)arg;
    dup2(MAIL, fd);
    close(fd);
    close_range(3, 700, 0);
    _exit(0);
}

static void helpers(const char *which, int fd)
{
    static char stack[65536];
    char command[64];
    int status = -1;
    signal(SIGCHLD, SIG_DFL);
    if (!strcmp(which, "vfork")) {
        pid_t pid = vfork();
        if (pid == 0)
            tamper(&fd);
        waitpid(pid, &status, 0);
    } else if (!strcmp(which, "clone")) {
        pid_t pid = clone(tamper, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, &fd);
        waitpid(pid, &status, 0);
    } else if (!strcmp(which, "system")) {
        snprintf(command, sizeof command, "exec %d>&- ; exit 0", fd);
        status = fd < 10 ? system(command) : system("true");
    } else {
        FILE *f = popen("cat", "w");
        status = f && fputs("", f) >= 0 ? pclose(f) : -1;
    }
    signal(SIGCHLD, SIG_IGN);
    channel_say("status %d", status);
}

static void forked(int number, const char *kind)
{
    pid_t pid = fork();
    if (pid < 0)
        channel_result(-1);
    else if (pid > 0)
        channel_say("ok");
    else if (*kind)
        become(number, kind);
    else
        serve(number);
}

static void forked_twice(int number)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (fork() == 0)
            serve(number);
        _exit(0);
    }
    channel_say("ok");
}

/* ---- opening ------------------------------------------------------------------------------------------------------ */

static void open_epoll(int member)
{
    int fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP, .data.u64 = 0x1234567890abcdef};
    if (epoll_ctl(fd, EPOLL_CTL_ADD, member, &e))
        channel_result(-1);
    else
        channel_say("fd %d", fd);
}

static void watch(int epfd, int ms)
{
    struct epoll_event e[4];
    int n = epoll_wait(epfd, e, 4, ms);
    if (n <= 0)
        channel_say("%d %s", n, n ? errno_name(errno) : "");
    else
        channel_say("%d %s%s", n, events_name(e[0].events), e[0].data.u64 == 0x1234567890abcdef ? "" : " other word");
}

static void open_one(const char *kind, int arg)
{
    int fd = -1;
    if (!strcmp(kind, "client"))
        fd = connected_to(arg);
    else if (!strcmp(kind, "listener"))
        fd = listening();
    else if (!strcmp(kind, "accept"))
        fd = accept(arg, NULL, NULL);
    else
        fd = bound(udp_socket());
    if (!strcmp(kind, "udpc")) {
        struct addr a = peer_addr(arg);
        if (connect(fd, &a.sa, a.len))
            fd = -1;
    }
    unsigned long cookie = 0;
    socklen_t len = sizeof cookie;
    if (fd < 0 || (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) && strcmp(kind, "accept")))
        channel_result(-1);
    else
        channel_say("fd %d %d %lx", fd, port_of(fd), cookie);
}

/* ---- the loop ------------------------------------------------------------------------------------------------------ */

static void obey_descriptors(const char *verb, const char *word, const long *n)
{
    int fd = n[0];
    if (!strcmp(verb, "close"))
        channel_result(close(fd));
    else if (!strcmp(verb, "shutdown"))
        channel_result(shutdown(fd, SHUT_WR));
    else if (!strcmp(verb, "cloexec"))
        channel_result(fcntl(fd, F_SETFD, FD_CLOEXEC));
    else if (!strcmp(verb, "dup"))
        channel_result(dup2(fd, n[1]));
    else if (!strcmp(verb, "post")) /* post VIA A [B] */
        channel_result(send_fds(fd, (int[]){n[1], n[2]}, n[2] >= 0 ? 2 : 1));
    else if (!strcmp(verb, "fetch"))
        receive_fds(fd);
    else if (!strcmp(verb, "take")) { /* take PID FD */
        int pidfd = syscall(SYS_pidfd_open, fd, 0);
        int got = pidfd_getfd(pidfd, n[1], 0);
        close(pidfd);
        if (got < 0)
            channel_result(got);
        else
            channel_say("fd %d", got);
    } else if (!strcmp(verb, "mailbox") || !strcmp(verb, "reach")) {
        socklen_t len;
        struct sockaddr_un a = mail_name(word, &len);
        int s = socket(AF_UNIX, SOCK_STREAM, 0);
        int bad = *verb == 'm' ? bind(s, (void *)&a, len) || listen(s, 4) : connect(s, (void *)&a, len);
        if (bad)
            channel_result(-1);
        else
            channel_say("fd %d", s);
    } else
        channel_say("unknown order %s", verb);
}

static void obey(char *line)
{
    char verb[16] = "", word[64] = "";
    long n[5] = {-1, -1, -1, -1, -1};
    int at = 0;
    sscanf(line, "%15s %n", verb, &at);
    if (line[at] && (line[at] < '0' || line[at] > '9') && line[at] != '-') {
        int more = 0;
        sscanf(line + at, "%63s %n", word, &more);
        at += more;
    }
    sscanf(line + at, "%ld %ld %ld %ld %ld", n, n + 1, n + 2, n + 3, n + 4);
    if (!strcmp(verb, "open"))
        !strcmp(word, "epoll") ? open_epoll(n[0]) : open_one(word, n[0]);
    else if (!strcmp(verb, "pump")) /* pump FD AT OUT FROM IN */
        pump(n[0], -1, n[1], n[2], n[3], n[4]);
    else if (!strcmp(verb, "epump"))
        pump(n[0] & 0xffff, n[0] >> 16, n[1], n[2], n[3], n[4]);
    else if (!strcmp(verb, "fill"))
        fill(n[0], n[1]);
    else if (!strcmp(verb, "watch"))
        watch(n[0], n[1]);
    else if (!strcmp(verb, "datagram"))
        datagram(n[0]);
    else if (!strcmp(verb, "sendto")) { /* sendto FD COUNT PORT; port 0: connected */
        char data[2048];
        fill_pattern(data, 0, n[1]);
        struct addr a = peer_addr(n[2]);
        channel_result(sendto(n[0], data, n[1], MSG_NOSIGNAL, n[2] ? &a.sa : NULL, n[2] ? a.len : 0));
    } else if (!strcmp(verb, "serve"))
        serve_one(n[0], n[1]);
    else if (!strcmp(verb, "fork"))
        forked(n[0], word);
    else if (!strcmp(verb, "twice"))
        forked_twice(n[0]);
    else if (!strcmp(verb, "become"))
        become(n[0], word);
    else if (!strcmp(verb, "spawn")) {
        errno = spawn(n[0], word);
        channel_result(errno ? -1 : 0);
    } else if (!strcmp(verb, "daemon")) {
        if (daemon(1, 1) == 0)
            serve(channel_number);
    } else if (!strcmp(verb, "helper"))
        helpers(word, n[0]);
    else if (!strcmp(verb, "inherit_not")) {
        setenv("FLYOVER_INHERIT", "0", 1);
        become(channel_number, "keep");
    } else if (!strcmp(verb, "library")) {
        setenv("LD_PRELOAD", word, 1);
        become(channel_number, "keep");
    } else if (!strcmp(verb, "exit"))
        exit(0);
    else if (!strcmp(verb, "abandon"))
        _exit(0);
    else if (!strcmp(verb, "crash")) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    } else
        obey_descriptors(verb, word, n);
}

/* Serves a channel for ever. */
static void serve(int number)
{
    char line[512];
    channel_number = number;
    signal(SIGCHLD, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, 0);
    channel_say("hello %d", getpid());
    for (;;) {
        long n = recv(CHANNEL + channel_number, line, sizeof line - 1, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            _exit(0);
        line[n] = 0;
        obey(line);
    }
}
