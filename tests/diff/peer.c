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
#include <pthread.h>
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

#include "peer_orders.h"

static const struct {
    const char *name;
    void (*run)(char *args);
} commands[] = {
    {"hello", do_hello}, {"use", do_use}, {"sleep", do_sleep},
    {"listen", do_listen}, {"accept", do_accept}, {"connect", do_connect}, {"connect_nb", do_connect_nb},
    {"connected", do_connected}, {"udp", do_udp},
    {"send", do_send}, {"text", do_text}, {"oob", do_oob}, {"recv", do_recv}, {"recvall", do_recvall},
    {"recvoob", do_recvoob}, {"atmark", do_atmark},
    {"sendto", do_sendto}, {"sendto_addr", do_sendto_addr}, {"recvfrom", do_recvfrom}, {"recvinfo", do_recvinfo}, {"reply", do_reply},
    {"from", do_from},
    {"shutdown", do_shutdown}, {"close", do_close}, {"rst", do_rst},
    {"opt", do_opt}, {"getopt", do_getopt}, {"optx", do_optx},
    {"state", do_state}, {"wait", do_wait}, {"outq", do_outq}, {"inq", do_inq}, {"quiet", do_quiet},
    {"inq_at_least", do_inq_at_least}, {"name", do_name},
    {"exchange", do_exchange}, {"exchanged", do_exchanged}, {"unwanted", do_unwanted}, {"refused", do_refused},
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
