/*
 * Vocabulary of the differential suite: a program of named cases, each run plain and under Flyover; what it prints
 * must be the same, line by line. How to write a case: docs/testing.md.
 *
 *     #include "diff.h"
 *     CASE(recv_after_fin) {
 *         int fd = active_pair();
 *         peer("shutdown w");
 *         wait_events(fd, POLLIN);
 *         say_ret("recv", recv(fd, buf, 10, 0));
 *     }
 *
 * Print nothing that differs from run to run: no ports, descriptors, times, pointers. A case is a process of its own.
 */
#ifndef DIFF_H
#define DIFF_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <linux/sockios.h>
#include <time.h>
#include <unistd.h>

#define DIFF_HELPER static __attribute__((unused))

/* ---- cases ---------------------------------------------------------------------------------------------------- */

enum {
    /* The kernel's path is what the case is about: no proof of acceleration. */
    DIFF_KERNEL = 1,
    /* A difference that is known and not yet repaired; `why` says what and who. */
    DIFF_KNOWN = 2,
    /* The same, between two programs on one host, whose bytes go through shared memory, only. */
    DIFF_KNOWN_LOCAL = 4,
    /* The same, only while the kernel still moves those bytes. */
    DIFF_KNOWN_LATE = 8,
    /* The same, but not between two programs on one host. */
    DIFF_KNOWN_WIRE = 16,
};

struct diff_case {
    const char *name;
    void (*run)(void);
    int flags;
    const char *why;
};

#define DIFF_CASE(NAME, FLAGS, WHY)                                                                      \
    static void case_##NAME(void);                                                                       \
    static const struct diff_case struct_##NAME = {#NAME, case_##NAME, FLAGS, WHY};                      \
    static const struct diff_case *const pointer_##NAME                                                  \
        __attribute__((section("diff_cases"), used)) = &struct_##NAME;                                   \
    static void case_##NAME(void)

/* A case that must be accelerated: the harness looks at the kernel's counters. */
#define CASE(NAME) DIFF_CASE(NAME, 0, "")
/* A case about the kernel's path (loopback, other kinds of socket): only the outputs are compared. */
#define CASE_KERNEL(NAME) DIFF_CASE(NAME, DIFF_KERNEL, "")
/* A case that differs and is known to: WHY is one line. It is run, and counted apart. */
#define CASE_KNOWN(NAME, WHY) DIFF_CASE(NAME, DIFF_KNOWN, WHY)
/* The same, for the modes of the local path only. */
#define CASE_KNOWN_LOCAL(NAME, WHY) DIFF_CASE(NAME, DIFF_KNOWN_LOCAL, WHY)
/* The same, for those of them in which connections are paired after some calls. */
#define CASE_KNOWN_LATE(NAME, WHY) DIFF_CASE(NAME, DIFF_KNOWN_LATE, WHY)
/* The same, for the other modes only. */
#define CASE_KNOWN_WIRE(NAME, WHY) DIFF_CASE(NAME, DIFF_KNOWN_WIRE, WHY)

extern const struct diff_case *const __start_diff_cases[], *const __stop_diff_cases[];

/* ---- what a case prints --------------------------------------------------------------------------------------- */

/* One line of result. */
DIFF_HELPER __attribute__((format(printf, 1, 2))) void say(const char *format, ...)
{
    char line[8192];
    int error = errno;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (n > (int)sizeof line - 2)
        n = sizeof line - 2;
    line[n++] = '\n';
    syscall(SYS_write, 1, line, n);
    errno = error;
}

DIFF_HELPER const char *errno_name(int error)
{
    const char *name = strerrorname_np(error);
    return error == 0 ? "0" : name ? name : "E?";
}

/* The return value of a call, and the name of its errno when that is -1. Hands the value on. */
DIFF_HELPER long say_ret(const char *what, long ret)
{
    if (ret == -1)
        say("%s = -1 %s", what, errno_name(errno));
    else
        say("%s = %ld", what, ret);
    return ret;
}

/* As say_ret for calls that return a descriptor, whose number must not be printed. */
DIFF_HELPER int say_fd(const char *what, int ret)
{
    if (ret < 0)
        say("%s = %d %s", what, ret, errno_name(errno));
    else
        say("%s = fd", what);
    return ret;
}

/* Ends the case: it could not do what it is about. */
DIFF_HELPER __attribute__((noreturn, format(printf, 1, 2))) void give_up(const char *format, ...)
{
    char text[512];
    int error = errno;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    say("GIVEN UP: %s (%s)", text, errno_name(error));
    _exit(3);
}

/* Bytes as text; what is not printable in hexadecimal. One of four buffers. */
DIFF_HELPER const char *show(const void *data, long n)
{
    static char texts[4][1100];
    static int turn;
    char *text = texts[turn++ % 4];
    const unsigned char *bytes = data;
    int at = 0;
    for (long i = 0; i < n && at < 1080; i++)
        at += sprintf(text + at, bytes[i] > ' ' && bytes[i] < 127 ? "%c" : "\\x%02x", bytes[i]);
    text[at] = 0;
    return text;
}

/* What a receive call returned and brought: up to 64 bytes as text, more as a sum. */
DIFF_HELPER void say_data(const char *what, long ret, const void *data)
{
    if (ret <= 0) {
        say_ret(what, ret);
        return;
    }
    if (ret <= 64) {
        say("%s = %ld \"%s\"", what, ret, show(data, ret));
        return;
    }
    uint32_t sum = 0;
    for (long i = 0; i < ret; i++)
        sum = sum * 31 + ((const unsigned char *)data)[i];
    say("%s = %ld sum %08x", what, ret, sum);
}

/* The masks of poll and epoll (the same bits) by name. */
DIFF_HELPER const char *events_name(unsigned events)
{
    static const struct {
        unsigned bit;
        const char *name;
    } names[] = {{POLLIN, "IN"}, {POLLPRI, "PRI"}, {POLLOUT, "OUT"}, {POLLERR, "ERR"}, {POLLHUP, "HUP"},
        {POLLNVAL, "NVAL"}, {POLLRDNORM, "RDNORM"}, {POLLRDBAND, "RDBAND"}, {POLLWRNORM, "WRNORM"},
        {POLLWRBAND, "WRBAND"}, {POLLMSG, "MSG"}, {POLLRDHUP, "RDHUP"}};
    static char texts[4][128];
    static int turn;
    char *text = texts[turn++ % 4];
    strcpy(text, events ? "" : "0");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (events & names[i].bit)
            sprintf(text + strlen(text), "%s%s", *text ? "|" : "", names[i].name);
    return text;
}

/* ---- the peer ------------------------------------------------------------------------------------------------- */

/* Where the control connection lives: out of the way of cases that count or close descriptors. */
enum { DIFF_CONTROL = 900 };

DIFF_HELPER int family = AF_INET;
DIFF_HELPER int diff_has_control;

DIFF_HELPER const char *diff_env(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value ? value : otherwise;
}

/* One line to the peer; its reply. */
DIFF_HELPER const char *diff_order(const char *line)
{
    static char replies[4][70000];
    static int turn;
    char *reply = replies[turn++ % 4];
    /* By number: a case may be about these calls. */
    for (size_t done = 0, n = strlen(line); done < n;) {
        long sent = syscall(SYS_sendto, DIFF_CONTROL, line + done, n - done, MSG_NOSIGNAL, NULL, 0);
        if (sent < 0 && errno != EINTR)
            give_up("the peer is gone");
        done += sent > 0 ? sent : 0;
    }
    for (size_t got = 0;;) {
        long n = syscall(SYS_recvfrom, DIFF_CONTROL, reply + got, 69999 - got, 0, NULL, NULL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            give_up("no reply from the peer");
        got += n;
        if (reply[got - 1] == '\n') {
            reply[got - 1] = 0;
            return reply;
        }
    }
}

DIFF_HELPER void diff_connect_control(void)
{
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    char hello[256];
    snprintf(path.sun_path, sizeof path.sun_path, "%s", diff_env("DIFF_PEER", "/tmp/diff-peer"));
    int fd = syscall(SYS_socket, AF_UNIX, SOCK_STREAM, 0);
    if (syscall(SYS_connect, fd, &path, sizeof path))
        give_up("no peer at %s", path.sun_path);
    syscall(SYS_dup3, fd, DIFF_CONTROL, O_CLOEXEC);
    syscall(SYS_close, fd);
    diff_has_control = 1;
    snprintf(hello, sizeof hello, "hello %d %s %s\n", family == AF_INET6 ? 6 : 4,
        diff_env("DIFF_PEER_ADDR", "127.0.0.1"), diff_env("DIFF_MY_ADDR", "127.0.0.1"));
    diff_order(hello);
}

/* Orders the peer about; returns its reply, which is valid until the fourth order after this one. */
DIFF_HELPER __attribute__((format(printf, 1, 2))) const char *peer(const char *format, ...)
{
    char line[8192];
    int error = errno;
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    strcat(line, "\n");
    if (!diff_has_control)
        diff_connect_control();
    const char *reply = diff_order(line);
    errno = error;
    return reply;
}

/* The same where anything but "ok" ends the case. */
#define peer_ok(...)                                                                      \
    do {                                                                                  \
        const char *reply_ = peer(__VA_ARGS__);                                           \
        if (strcmp(reply_, "ok"))                                                         \
            give_up("peer: %s: %s", #__VA_ARGS__, reply_);                                \
    } while (0)

/* The same where the reply is a number, for instance the port of `listen` and `udp`. */
#define peer_number(...) atoi(peer(__VA_ARGS__))

/* Tells what the peer answered. */
#define say_peer(...) say("peer %s: %s", #__VA_ARGS__, peer(__VA_ARGS__))

#include "diff_sockets.h"

/* ---- main: `PROGRAM list`, `PROGRAM CASE` ------------------------------------------------------------------------ */

#ifdef DIFF_MORE_CASES
/* A program may have cases that are made at run time: prints their lines of the list, or runs one of them. */
static void list_more_cases(void);
static int run_more_cases(const char *name);
#else
static void list_more_cases(void) {}
static int run_more_cases(const char *name) { return name == NULL; }
#endif

int main(int argc, char **argv)
{
    const char *wanted = argc > 1 ? argv[1] : "list";
    int listing = !strcmp(wanted, "list");
    family = *diff_env("DIFF_FAMILY", "4") == '6' ? AF_INET6 : AF_INET;
    for (const struct diff_case *const *c = __start_diff_cases; c < __stop_diff_cases; c++) {
        if (listing)
            printf("%s\t%d\t%s\n", (*c)->name, (*c)->flags, (*c)->why);
        else if (!strcmp((*c)->name, wanted)) {
            (*c)->run();
            return 0;
        }
    }
    if (listing)
        list_more_cases();
    else if (run_more_cases(wanted))
        return 0;
    if (!listing)
        fprintf(stderr, "no case %s\n", wanted);
    return listing ? 0 : 2;
}
#endif
