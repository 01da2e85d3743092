/* What options do, as the peer or the program sees it. */
#include "diff.h"

static char data[300000];

static void set(int fd, int level, int name, int v)
{
    if (setsockopt(fd, level, name, &v, sizeof v))
        say("option %d %d: %s", level, name, errno_name(errno));
}

static int get(int fd, int level, int name)
{
    int v = -1;
    socklen_t len = sizeof v;
    getsockopt(fd, level, name, &v, &len);
    return v;
}

/* The peer tells TTL and TOS of datagrams. */
static void peer_tells(void)
{
    peer_ok("opt %d %d 1", IPPROTO_IP, IP_RECVTTL);
    peer_ok("opt %d %d 1", IPPROTO_IP, IP_RECVTOS);
    if (family == AF_INET6) {
        peer_ok("opt %d %d 1", IPPROTO_IPV6, IPV6_RECVHOPLIMIT);
        peer_ok("opt %d %d 1", IPPROTO_IPV6, IPV6_RECVTCLASS);
    }
}

static void send_and_tell(int fd, const char *what)
{
    say_ret(what, send(fd, "x", 1, 0));
    say_peer("recvinfo");
}

CASE(ttl_and_tos_of_datagrams)
{
    int fd = udp_pair();
    peer_tells();
    send_and_tell(fd, "default");
    set(fd, IPPROTO_IP, IP_TTL, 9);
    set(fd, IPPROTO_IP, IP_TOS, 0x48);
    send_and_tell(fd, "IPv4's");
    if (family == AF_INET6) {
        set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 7);
        set(fd, IPPROTO_IPV6, IPV6_TCLASS, 0x2a);
        send_and_tell(fd, "IPv6's");
        set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, -1);
        set(fd, IPPROTO_IPV6, IPV6_TCLASS, -1);
    }
    set(fd, IPPROTO_IP, IP_TTL, -1);
    set(fd, IPPROTO_IP, IP_TOS, 0);
    send_and_tell(fd, "reset");
}

CASE(ttl_and_tos_set_before_bind)
{
    int port = peer_number("udp");
    peer_tells();
    int fd = udp_socket();
    set(fd, family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP, family == AF_INET6 ? IPV6_UNICAST_HOPS : IP_TTL, 11);
    set(fd, family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP, family == AF_INET6 ? IPV6_TCLASS : IP_TOS, 0x50);
    struct addr a = peer_addr(port);
    say_ret("connect", connect(fd, &a.sa, a.len));
    send_and_tell(fd, "send");
}

CASE(ttl_and_tos_of_a_dual_stack_socket)
{
    if (family == AF_INET6)
        return;
    int port = peer_number("udp");
    peer_tells();
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    char mapped[64];
    snprintf(mapped, sizeof mapped, "::ffff:%s", diff_env("DIFF_PEER_ADDR", ""));
    struct addr a = addr_of(mapped, port);
    say_ret("connect", connect(fd, &a.sa, a.len));
    set(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 7);
    set(fd, IPPROTO_IPV6, IPV6_TCLASS, 0x2a);
    send_and_tell(fd, "IPv6's do not count");
    set(fd, IPPROTO_IP, IP_TTL, 9);
    set(fd, IPPROTO_IP, IP_TOS, 0x48);
    send_and_tell(fd, "IPv4's do");
}

CASE(maxseg_is_announced)
{
    int port = peer_number("listen");
    int fd = tcp_socket();
    set(fd, IPPROTO_TCP, TCP_MAXSEG, 500);
    struct addr a = peer_addr(port);
    connect(fd, &a.sa, a.len);
    peer_ok("accept");
    say_ret("own", get(fd, IPPROTO_TCP, TCP_MAXSEG));
    say_peer("getopt 6 2");
}

CASE(maxseg_of_a_listener)
{
    int l = listening();
    set(l, IPPROTO_TCP, TCP_MAXSEG, 600);
    peer_ok("connect %d", port_of(l));
    int fd = accept(l, NULL, NULL);
    say_ret("own", get(fd, IPPROTO_TCP, TCP_MAXSEG));
    say_peer("getopt 6 2");
}

CASE(defer_accept_waits_for_data)
{
    int l = listening();
    set(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, 30);
    peer_ok("connect %d", port_of(l));
    say("events %s", events_name(wait_events_ms(l, POLLIN, 150)));
    peer_ok("send 5");
    say("events %s", events_name(wait_events(l, POLLIN)));
    int fd = say_fd("accept", accept(l, NULL, NULL));
    say_data("recv", recv(fd, data, 10, MSG_DONTWAIT), data);
}

CASE(send_time_limit)
{
    int fd = active_pair();
    struct timeval t = {0, 100000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    set(fd, SOL_SOCKET, SO_SNDBUF, 20000);
    long n = 1, all = 0;
    for (int i = 0; i < 1000 && n > 0; i++) {
        n = send(fd, data, sizeof data, 0);
        all += n > 0 ? n : 0;
    }
    say_ret("in the end", n);
    say("some went: %d", all > 0);
}

CASE(connect_time_limit)
{
    /* An address on the wire that nobody has. */
    struct addr a = peer_addr(9);
    if (family == AF_INET6)
        a.in6.sin6_addr.s6_addr[15] ^= 0x70;
    else
        a.in.sin_addr.s_addr ^= htonl(0x70);
    int fd = tcp_socket();
    struct timeval t = {0, 200000};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
    say_ret("connect", connect(fd, &a.sa, a.len));
    say_ret("again", connect(fd, &a.sa, a.len));
}

/* Nobody sends: the connection is told when the time is over. */
CASE(defer_accept_ends)
{
    int l = listening();
    set(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, 1);
    peer_ok("connect %d", port_of(l));
    say("events %s", events_name(wait_events_ms(l, POLLIN, 300)));
    say("events %s", events_name(wait_events(l, POLLIN)));
    int fd = say_fd("accept", accept(l, NULL, NULL));
    peer_ok("send 5");
    say_data("recv", recv(fd, data, 10, 0), data);
    say_ret("send", send(fd, "abc", 3, 0));
    say_peer("recv 3");
}

CASE(defer_accept_and_a_fin)
{
    int l = listening();
    set(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, 30);
    peer_ok("connect %d", port_of(l));
    peer_ok("shutdown w");
    say("events %s", events_name(wait_events(l, POLLIN)));
    int fd = say_fd("accept", accept(l, NULL, NULL));
    say_ret("recv", recv(fd, data, 10, 0));
}

CASE(cookies)
{
    int a = active_pair(), b = passive_pair(), c = dup(a);
    uint64_t v[3];
    int fds[3] = {a, b, c};
    for (int i = 0; i < 3; i++) {
        socklen_t len = 8;
        say_ret("get", getsockopt(fds[i], SOL_SOCKET, SO_COOKIE, &v[i], &len));
        say("len %d", (int)len);
    }
    say("two sockets %d, a duplicate %d", v[0] == v[1], v[0] == v[2]);
    socklen_t len = 4;
    say_ret("short", getsockopt(a, SOL_SOCKET, SO_COOKIE, v, &len));
}

CASE(port_range)
{
    int fd = tcp_socket();
    set(fd, IPPROTO_IP, 51, 41007 << 16 | 41000);
    struct addr a = peer_addr(peer_number("listen"));
    say_ret("connect", connect(fd, &a.sa, a.len));
    int port = port_of(fd);
    say("in the range %d", port >= 41000 && port <= 41007);
}

CASE(no_port_before_connect)
{
    int fd = tcp_socket();
    set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    struct addr a = my_addr(0);
    say_ret("bind", bind(fd, &a.sa, a.len));
    say("port %d", port_of(fd) != 0);
    a = peer_addr(peer_number("listen"));
    say_ret("connect", connect(fd, &a.sa, a.len));
    say("port %d", port_of(fd) != 0);
}

CASE(dual_stack_listener)
{
    if (family == AF_INET6)
        return;
    int l = socket(AF_INET6, SOCK_STREAM, 0);
    struct addr a = addr_of("::", 0), n = {.len = sizeof n.storage};
    bind(l, &a.sa, a.len);
    listen(l, 5);
    getsockname(l, &n.sa, &n.len);
    peer_ok("connect %d", ntohs(n.in6.sin6_port));
    n.len = sizeof n.storage;
    int fd = say_fd("accept", accept(l, &n.sa, &n.len));
    say("family %d mapped %d", n.sa.sa_family, IN6_IS_ADDR_V4MAPPED(&n.in6.sin6_addr));
    say_ret("domain", get(fd, SOL_SOCKET, SO_DOMAIN));
    say_ret("v6only", get(fd, IPPROTO_IPV6, IPV6_V6ONLY));
    peer_ok("send 3");
    say_data("recv", recv(fd, data, 10, 0), data);
    set(l, IPPROTO_IPV6, IPV6_V6ONLY, 1);
}

CASE(v6only_listener)
{
    if (family == AF_INET6)
        return;
    int l = socket(AF_INET6, SOCK_STREAM, 0);
    struct addr a = addr_of("::", 0), n = {.len = sizeof n.storage};
    set(l, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    bind(l, &a.sa, a.len);
    listen(l, 5);
    getsockname(l, &n.sa, &n.len);
    say_peer("connect %d", ntohs(n.in6.sin6_port));
}

/* A connection's options are its own, whatever becomes of the listener's. */
CASE(inherited_once)
{
    int l = listening();
    set(l, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(l, IPPROTO_TCP, TCP_KEEPIDLE, 77);
    peer_ok("connect %d", port_of(l));
    int first = accept(l, NULL, NULL);
    set(l, IPPROTO_TCP, TCP_KEEPIDLE, 88);
    set(l, SOL_SOCKET, SO_KEEPALIVE, 0);
    set(l, IPPROTO_TCP, TCP_NODELAY, 1);
    peer_ok("connect %d", port_of(l));
    int second = accept(l, NULL, NULL);
    say("first %d %d %d", get(first, SOL_SOCKET, SO_KEEPALIVE), get(first, IPPROTO_TCP, TCP_KEEPIDLE),
        get(first, IPPROTO_TCP, TCP_NODELAY));
    say("second %d %d %d", get(second, SOL_SOCKET, SO_KEEPALIVE), get(second, IPPROTO_TCP, TCP_KEEPIDLE),
        get(second, IPPROTO_TCP, TCP_NODELAY));
    set(first, IPPROTO_TCP, TCP_KEEPIDLE, 99);
    say("listener %d", get(l, IPPROTO_TCP, TCP_KEEPIDLE));
}

/* Set before listen, in the parent; accepted in a child. */
CASE(inherited_in_a_child)
{
    int l = bound(tcp_socket());
    set(l, IPPROTO_TCP, TCP_USER_TIMEOUT, 4321);
    set(l, SOL_SOCKET, SO_RCVBUF, 40000);
    listen(l, 5);
    if (fork() == 0) {
        int fd = accept(l, NULL, NULL);
        say("timeout %d buffer %d", get(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), get(fd, SOL_SOCKET, SO_RCVBUF));
        _exit(0);
    }
    peer_ok("connect %d", port_of(l));
    wait(NULL);
}

CASE(receive_time_limit_is_inherited)
{
    int l = listening();
    struct timeval t = {0, 80000};
    setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    peer_ok("connect %d", port_of(l));
    int fd = accept(l, NULL, NULL);
    say_ret("recv", recv(fd, data, 10, 0));
    say_ret("accept", accept(l, NULL, NULL));
}
