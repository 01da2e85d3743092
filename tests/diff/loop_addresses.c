/*
 * Connections of a program with itself: a socket that is connected to itself, and pairs whose ends name the same address
 * in two families. Not with the peer: these modes are only about when they are paired.
 * diff: modes=lo4,late4
 */
#include "diff.h"

static int bound_to(int family, const char *address)
{
    int fd = socket(family, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    inet_pton(family, address, family == AF_INET ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr);
    if (bind(fd, family == AF_INET ? (void *)&v4 : (void *)&v6, family == AF_INET ? sizeof v4 : sizeof v6))
        give_up("bind");
    return fd;
}

static int port_number(int fd)
{
    struct sockaddr_in6 a;
    socklen_t len = sizeof a;
    getsockname(fd, (void *)&a, &len);
    /* At the same place in both families. */
    return ntohs(a.sin6_port);
}

static int call(int family, const char *address, int port)
{
    int fd = socket(family, SOCK_STREAM, 0);
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    inet_pton(family, address, family == AF_INET ? (void *)&v4.sin_addr : (void *)&v6.sin6_addr);
    say_ret("connect", connect(fd, family == AF_INET ? (void *)&v4 : (void *)&v6,
        family == AF_INET ? sizeof v4 : sizeof v6));
    return fd;
}

static void say_host(const char *what, int fd, int (*ask)(int, struct sockaddr *, socklen_t *))
{
    struct sockaddr_storage a = {0};
    socklen_t len = sizeof a;
    char text[64] = "?";
    if (ask(fd, (void *)&a, &len))
        say("%s: %s", what, errno_name(errno));
    else
        say("%s: family %d %s", what, a.ss_family,
            inet_ntop(a.ss_family, a.ss_family == AF_INET ? (void *)&((struct sockaddr_in *)&a)->sin_addr
                                                           : (void *)&((struct sockaddr_in6 *)&a)->sin6_addr,
                text, sizeof text));
}

static void talk(int one, int other)
{
    char b[8000], sent[8000];
    memset(sent, 's', sizeof sent);
    for (int i = 0; i < 8; i++) {
        int fd = i & 1 ? other : one, to = i & 1 ? one : other;
        say_ret("send", send(fd, sent, 700 * (i + 1), 0));
        int n = recv(to, b, 700 * (i + 1), MSG_WAITALL);
        say("recv %d, %s", n, n > 0 && !memcmp(b, sent, n) ? "the same" : "others");
    }
    say_host("its own", one, getsockname);
    say_host("its peer", one, getpeername);
    say_host("the other's own", other, getsockname);
    say_host("the other's peer", other, getpeername);
}

static void end(int one, int other)
{
    char c;
    say_ret("shutdown", shutdown(one, SHUT_WR));
    say_ret("recv", recv(other, &c, 1, 0));
    say_ret("send the other way", send(other, "x", 1, MSG_NOSIGNAL));
    say_ret("recv", recv(one, &c, 1, 0));
    say_ret("close", close(one));
    if (other != one)
        say_ret("close", close(other));
}

CASE_KERNEL(connected_to_itself)
{
    int fd = bound_to(AF_INET, "127.0.0.1");
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    getsockname(fd, (void *)&a, &len);
    say_ret("connect", connect(fd, (void *)&a, len));
    say_ret("again", connect(fd, (void *)&a, len));
    talk(fd, fd);
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};
    say("poll %d %s", poll(&p, 1, 0), events_name(p.revents));
    end(fd, fd);
}

CASE_KERNEL(connected_to_itself_and_closed)
{
    int fd = bound_to(AF_INET, "127.0.0.1");
    struct sockaddr_in a;
    socklen_t len = sizeof a;
    getsockname(fd, (void *)&a, &len);
    say_ret("connect", connect(fd, (void *)&a, len));
    for (int i = 0; i < 6; i++)
        say_ret("send", send(fd, "unread", 6, 0));
    say_ret("close", close(fd));
}

static void families(int server, const char *listens, int client, const char *calls)
{
    int l = bound_to(server, listens);
    say_ret("listen", listen(l, 4));
    int one = call(client, calls, port_number(l)), other = say_fd("accept", accept(l, NULL, NULL));
    talk(one, other);
    end(one, other);
    close(l);
}

CASE(mapped_listener) { families(AF_INET6, "::ffff:127.0.0.1", AF_INET, "127.0.0.1"); }
CASE(mapped_client) { families(AF_INET, "127.0.0.1", AF_INET6, "::ffff:127.0.0.1"); }
CASE(mapped_both) { families(AF_INET6, "::ffff:127.0.0.1", AF_INET6, "::ffff:127.0.0.1"); }
CASE(dual_listener) { families(AF_INET6, "::", AF_INET, "127.0.0.1"); }
CASE(any_listener) { families(AF_INET, "0.0.0.0", AF_INET6, "::ffff:127.0.0.1"); }
