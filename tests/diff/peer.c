/*
 * The other end of the differential suite: a plain program in the other network namespace that does what the
 * program under test orders over a Unix socket, one command a line, one line of reply each.
 *
 *     peer SOCKET            listens on the Unix socket SOCKET; every connection is a session in a child of its own
 *
 * A session has numbered handles (sockets, in the order of their making, from 0) and one current handle, which a
 * command that makes a socket sets. The commands are listed in `commands[]` below and explained in docs/testing.md.
 * A failed call is answered with the name of its errno. Nothing blocks for longer than five seconds: "timeout".
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <linux/sockios.h>
#include <time.h>
#include <unistd.h>

enum { LIMIT_MS = 5000, HANDLES = 256 };

struct handle {
    int fd;
    /* Position in the pattern of what was sent and received, see pattern(). */
    unsigned long sent, received;
    struct sockaddr_storage from; /* sender of the last datagram */
};

static struct handle handles[HANDLES];
static int made, current = -1, listener = -1;
static int family = AF_INET;
static char own[64] = "127.0.0.1", other[64] = "127.0.0.1";
static char reply[70000];

static void answer(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(reply, sizeof reply, format, args);
    va_end(args);
}

static void failed(void)
{
    answer("%s", strerrorname_np(errno) ? strerrorname_np(errno) : "?");
}

/* "ok", or the errno. */
static void result(long ret)
{
    if (ret < 0)
        failed();
    else
        answer("ok");
}

static struct handle *now(void)
{
    static struct handle none = {.fd = -1};
    return current >= 0 && current < made ? &handles[current] : &none;
}

static struct handle *add(int fd)
{
    if (made == HANDLES) {
        fprintf(stderr, "peer: too many handles\n");
        exit(1);
    }
    current = made++;
    memset(&handles[current], 0, sizeof handles[current]);
    handles[current].fd = fd;
    return &handles[current];
}

static socklen_t address(struct sockaddr_storage *to, const char *text, int port)
{
    memset(to, 0, sizeof *to);
    if (strchr(text, ':')) {
        struct sockaddr_in6 *in6 = (void *)to;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        inet_pton(AF_INET6, text, &in6->sin6_addr);
        return sizeof *in6;
    }
    struct sockaddr_in *in = (void *)to;
    in->sin_family = AF_INET;
    in->sin_port = htons(port);
    inet_pton(AF_INET, text, &in->sin_addr);
    return sizeof *in;
}

static int port_of(const struct sockaddr_storage *a)
{
    if (a->ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)a)->sin6_port);
    return ntohs(((const struct sockaddr_in *)a)->sin_port);
}

static const char *text_of(const struct sockaddr_storage *a)
{
    static char text[64];
    if (a->ss_family == AF_INET6)
        return inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)a)->sin6_addr, text, sizeof text);
    return inet_ntop(AF_INET, &((const struct sockaddr_in *)a)->sin_addr, text, sizeof text);
}

static int local_port(int fd)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    return getsockname(fd, (void *)&a, &len) ? -1 : port_of(&a);
}

static long milliseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000L + t.tv_nsec / 1000000;
}

static int wait_for(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    int n = poll(&p, 1, LIMIT_MS);
    if (n == 0)
        errno = ETIMEDOUT;
    return n > 0 ? 0 : -1;
}

/* Byte number `n` of every stream: letters, with a period that no power of two divides. */
static char pattern(unsigned long n)
{
    return "abcdefghijklmnopqrstuvwxyz0123456789"[n % 35];
}

/* ---- sockets -------------------------------------------------------------------------------------------------- */

static int bound(int type, int port)
{
    int fd = socket(family, type | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_storage a;
    socklen_t len = address(&a, own, port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&a, len) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static void do_listen(char *args)
{
    int port = 0, backlog = 64;
    sscanf(args, "%d %d", &port, &backlog);
    int fd = bound(SOCK_STREAM, port);
    if (fd < 0 || listen(fd, backlog)) {
        failed();
        return;
    }
    add(fd);
    listener = current;
    answer("%d", local_port(fd));
}

static void do_accept(char *args)
{
    (void)args;
    int fd = listener >= 0 ? handles[listener].fd : -1;
    if (wait_for(fd, POLLIN) || (fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC)) < 0)
        failed();
    else {
        add(fd);
        answer("ok");
    }
}

static void start_connect(char *args, int blocking)
{
    char text[64];
    int port = 0, from = 0;
    snprintf(text, sizeof text, "%s", other);
    if (strchr(args, '.') || strchr(args, ':'))
        sscanf(args, "%63s %d %d", text, &port, &from);
    else
        sscanf(args, "%d %d", &port, &from);
    int fd = from ? bound(SOCK_STREAM, from) : socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage a;
    socklen_t len = address(&a, text, port);
    struct timeval limit = {.tv_sec = LIMIT_MS / 1000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (!blocking)
        fcntl(fd, F_SETFL, O_NONBLOCK);
    add(fd);
    result(connect(fd, (void *)&a, len));
    if (!blocking)
        fcntl(fd, F_SETFL, 0);
}

/* connect [ADDRESS] PORT [OWN PORT] */
static void do_connect(char *args) { start_connect(args, 1); }
/* The same without waiting: EINPROGRESS. */
static void do_connect_nb(char *args) { start_connect(args, 0); }

/* The end of connect_nb. */
static void do_connected(char *args)
{
    (void)args;
    int error = 0;
    socklen_t len = sizeof error;
    if (wait_for(now()->fd, POLLOUT) == 0)
        getsockopt(now()->fd, SOL_SOCKET, SO_ERROR, &error, &len), errno = error;
    result(errno ? -1 : 0);
}

static void do_udp(char *args)
{
    int fd = bound(SOCK_DGRAM, atoi(args));
    if (fd < 0) {
        failed();
        return;
    }
    add(fd);
    answer("%d", local_port(fd));
}

static void do_use(char *args)
{
    current = atoi(args);
    answer("ok");
}

/* ---- data ----------------------------------------------------------------------------------------------------- */

static void send_pattern(unsigned long count, int flags, const struct sockaddr_storage *to, socklen_t tolen)
{
    struct handle *h = now();
    char *data = malloc(count + 1);
    for (unsigned long i = 0; i < count; i++)
        data[i] = pattern(h->sent + i);
    unsigned long done = 0;
    long n = 0;
    long until = milliseconds() + LIMIT_MS;
    do {
        n = sendto(h->fd, data + done, count - done, flags | MSG_NOSIGNAL | MSG_DONTWAIT, (void *)to, tolen);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = h->fd, .events = POLLOUT};
            poll(&p, 1, 50);
            n = 0;
            if (milliseconds() > until) {
                free(data);
                answer("timeout %lu", done);
                return;
            }
            continue;
        }
        if (n > 0)
            done += n;
    } while (n >= 0 && done < count);
    h->sent += done;
    free(data);
    result(n);
}

static void do_send(char *args) { send_pattern(strtoul(args, NULL, 10), 0, NULL, 0); }

static void do_text(char *args)
{
    result(send(now()->fd, args, strlen(args), MSG_NOSIGNAL));
}

static void do_oob(char *args)
{
    result(send(now()->fd, args, strlen(args), MSG_OOB | MSG_NOSIGNAL));
}

/* Answers with what was received: up to 64 bytes as text, more as length and sum; whether it is the pattern. */
static void answer_data(const char *data, unsigned long n, const char *end)
{
    struct handle *h = now();
    unsigned long sum = 0, same = 1;
    for (unsigned long i = 0; i < n; i++) {
        sum = sum * 31 + (unsigned char)data[i];
        same &= data[i] == pattern(h->received + i);
    }
    h->received += n;
    if (n > 64) {
        answer("%lu %s%s", n, same ? "as sent" : "other data", end);
        if (!same)
            snprintf(reply + strlen(reply), 32, " %08lx", sum & 0xffffffff);
        return;
    }
    char text[65 * 4] = "";
    for (unsigned long i = 0; i < n; i++) {
        int plain = data[i] > ' ' && data[i] < 127;
        sprintf(text + strlen(text), plain ? "%c" : "\\x%02x", (unsigned char)data[i]);
    }
    answer("%lu %s%s", n, text, end);
}

/* Receives `wanted` bytes of the stream, or up to its end. */
static void receive(unsigned long wanted)
{
    struct handle *h = now();
    unsigned long room = wanted < (1 << 24) ? wanted : 1 << 24, got = 0;
    char *data = malloc(room + 1);
    char end[64] = "";
    while (got < room) {
        if (wait_for(h->fd, POLLIN)) {
            snprintf(end, sizeof end, " timeout");
            break;
        }
        long n = recv(h->fd, data + got, room - got, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            continue;
        if (n <= 0) {
            snprintf(end, sizeof end, " %s", n ? strerrorname_np(errno) : "eof");
            break;
        }
        got += n;
    }
    answer_data(data, got, end);
    free(data);
}

static void do_recv(char *args) { receive(strtoul(args, NULL, 10)); }
static void do_recvall(char *args) { (void)args; receive(-1UL); }

static void do_recvoob(char *args)
{
    (void)args;
    char byte = 0;
    if (wait_for(now()->fd, POLLPRI) || recv(now()->fd, &byte, 1, MSG_OOB) < 0)
        failed();
    else
        answer("%c", byte);
}

static void do_atmark(char *args)
{
    (void)args;
    int at = -1;
    ioctl(now()->fd, SIOCATMARK, &at);
    answer("%d", at);
}

/* sendto PORT COUNT: one datagram to the program under test. */
static void do_sendto(char *args)
{
    int port = 0;
    unsigned long count = 0;
    sscanf(args, "%d %lu", &port, &count);
    struct sockaddr_storage to;
    socklen_t len = address(&to, other, port);
    now()->sent = 0;
    send_pattern(count, 0, &to, len);
}

/* sendto_addr ADDRESS PORT COUNT: one datagram to anyone. */
static void do_sendto_addr(char *args)
{
    char text[64];
    int port = 0;
    unsigned long count = 0;
    sscanf(args, "%63s %d %lu", text, &port, &count);
    struct sockaddr_storage to;
    socklen_t len = address(&to, text, port);
    now()->sent = 0;
    send_pattern(count, 0, &to, len);
}

/* One datagram; the pattern starts anew in each. */
static void do_recvfrom(char *args)
{
    (void)args;
    static char data[70000];
    struct handle *h = now();
    socklen_t len = sizeof h->from;
    long n = -1;
    if (wait_for(h->fd, POLLIN) == 0)
        n = recvfrom(h->fd, data, sizeof data, 0, (void *)&h->from, &len);
    if (n < 0)
        failed();
    else {
        h->received = 0;
        answer_data(data, n, "");
    }
}

/* reply COUNT: one datagram to the sender of the last one. */
static void do_reply(char *args)
{
    now()->sent = 0;
    send_pattern(strtoul(args, NULL, 10), 0, &now()->from, sizeof(struct sockaddr_in6));
}

/* ---- ends, options, states ------------------------------------------------------------------------------------- */

static void do_shutdown(char *args)
{
    int how = !strcmp(args, "r") ? SHUT_RD : !strcmp(args, "w") ? SHUT_WR : SHUT_RDWR;
    result(shutdown(now()->fd, how));
}

static void do_close(char *args)
{
    (void)args;
    result(close(now()->fd));
    now()->fd = -1;
}

static void do_rst(char *args)
{
    struct linger at_once = {.l_onoff = 1};
    setsockopt(now()->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    do_close(args);
}

/* opt LEVEL NAME VALUE: an int option. */
static void do_opt(char *args)
{
    int level = 0, name = 0, value = 0;
    sscanf(args, "%d %d %d", &level, &name, &value);
    result(setsockopt(now()->fd, level, name, &value, sizeof value));
}

static void do_getopt(char *args)
{
    int level = 0, name = 0, value = 0;
    socklen_t len = sizeof value;
    sscanf(args, "%d %d", &level, &name);
    if (getsockopt(now()->fd, level, name, &value, &len))
        failed();
    else
        answer("%d", value);
}

/* optx LEVEL NAME HEX: an option of any form, for instance a group to join. */
static void do_optx(char *args)
{
    int level = 0, name = 0;
    char hex[513] = "";
    unsigned char value[256];
    unsigned n = 0, byte;
    sscanf(args, "%d %d %512s", &level, &name, hex);
    while (n < sizeof value && sscanf(hex + 2 * n, "%2x", &byte) == 1)
        value[n++] = byte;
    result(setsockopt(now()->fd, level, name, value, n));
}

static const char *state_of(int fd)
{
    static const char *const names[] = {"?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",
        "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"};
    struct tcp_info info;
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) || info.tcpi_state >= 12)
        return "?";
    return names[info.tcpi_state];
}

static void do_state(char *args)
{
    (void)args;
    answer("%s", state_of(now()->fd));
}

/* wait STATE: until the connection is in this state, as the peer sees it. */
static void do_wait(char *args)
{
    long until = milliseconds() + LIMIT_MS;
    while (strcmp(state_of(now()->fd), args) && milliseconds() < until)
        usleep(500);
    answer("%s", strcmp(state_of(now()->fd), args) ? "timeout" : "ok");
}

static int queued(unsigned long request)
{
    int n = -1;
    ioctl(now()->fd, request, &n);
    return n;
}

static void do_outq(char *args) { (void)args; answer("%d", queued(SIOCOUTQ)); }
static void do_inq(char *args) { (void)args; answer("%d", queued(FIONREAD)); }

/* quiet: until everything that was sent, FIN included, has been acknowledged. */
static void do_quiet(char *args)
{
    (void)args;
    long until = milliseconds() + LIMIT_MS;
    for (;;) {
        const char *state = state_of(now()->fd);
        int open_end = !strcmp(state, "FIN_WAIT1") || !strcmp(state, "LAST_ACK") || !strcmp(state, "CLOSING");
        if (queued(SIOCOUTQ) <= 0 && !open_end)
            break;
        if (milliseconds() > until) {
            answer("timeout");
            return;
        }
        usleep(500);
    }
    answer("ok");
}

/* inq_at_least N: until N bytes wait to be read. */
static void do_inq_at_least(char *args)
{
    long until = milliseconds() + LIMIT_MS;
    while (queued(FIONREAD) < atoi(args) && milliseconds() < until)
        usleep(500);
    answer("%s", queued(FIONREAD) < atoi(args) ? "timeout" : "ok");
}

static void do_name(char *args)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    int ret = *args == 'r' ? getpeername(now()->fd, (void *)&a, &len) : getsockname(now()->fd, (void *)&a, &len);
    if (ret)
        failed();
    else
        answer("%s %d", text_of(&a), port_of(&a));
}

static void do_from(char *args)
{
    (void)args;
    answer("%s %d", text_of(&now()->from), port_of(&now()->from));
}

static void do_sleep(char *args)
{
    usleep(atoi(args) * 1000);
    answer("ok");
}

/* hello FAMILY OWN OTHER: said by diff.h at the start of a session. */
static void do_hello(char *args)
{
    int f = 4;
    sscanf(args, "%d %63s %63s", &f, own, other);
    family = f == 6 ? AF_INET6 : AF_INET;
    answer("ok");
}

static const struct {
    const char *name;
    void (*run)(char *args);
} commands[] = {
    {"hello", do_hello}, {"use", do_use}, {"sleep", do_sleep},
    {"listen", do_listen}, {"accept", do_accept}, {"connect", do_connect}, {"connect_nb", do_connect_nb},
    {"connected", do_connected}, {"udp", do_udp},
    {"send", do_send}, {"text", do_text}, {"oob", do_oob}, {"recv", do_recv}, {"recvall", do_recvall},
    {"recvoob", do_recvoob}, {"atmark", do_atmark},
    {"sendto", do_sendto}, {"sendto_addr", do_sendto_addr}, {"recvfrom", do_recvfrom}, {"reply", do_reply},
    {"from", do_from},
    {"shutdown", do_shutdown}, {"close", do_close}, {"rst", do_rst},
    {"opt", do_opt}, {"getopt", do_getopt}, {"optx", do_optx},
    {"state", do_state}, {"wait", do_wait}, {"outq", do_outq}, {"inq", do_inq}, {"quiet", do_quiet},
    {"inq_at_least", do_inq_at_least}, {"name", do_name},
};

static void obey(char *line)
{
    char *args = strchr(line, ' ');
    if (args)
        *args++ = 0;
    else
        args = line + strlen(line);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(commands[i].name, line)) {
            errno = 0;
            commands[i].run(args);
            return;
        }
    answer("unknown command");
}

static void session(int control)
{
    FILE *in = fdopen(control, "r");
    static char line[70000];
    while (fgets(line, sizeof line, in)) {
        line[strcspn(line, "\n")] = 0;
        /* after MS COMMAND: answered at once, carried out later; nobody sees its result. */
        int ms, at = 0;
        if (sscanf(line, "after %d %n", &ms, &at) == 1 && at) {
            dprintf(control, "ok\n");
            usleep(ms * 1000);
            obey(line + at);
            continue;
        }
        obey(line);
        dprintf(control, "%s\n", reply);
    }
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    if (argc != 2 || strlen(argv[1]) >= sizeof path.sun_path)
        return 2;
    strcpy(path.sun_path, argv[1]);
    unlink(path.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fd, (void *)&path, sizeof path) || listen(fd, 64)) {
        perror("peer");
        return 1;
    }
    for (;;) {
        int control = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (control >= 0 && fork() == 0) {
            close(fd);
            session(control);
            _exit(0);
        }
        close(control);
    }
}
