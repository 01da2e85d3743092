/* Datagrams: sending, receiving, connecting. diff: modes=v4,v6,xdp */
#include "diff.h"

static char data[70000];

static void fill(void)
{
    for (int i = 0; i < (int)sizeof data; i++)
        data[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[i % 35];
}

static long to_peer(int fd, int port, int n, int flags)
{
    struct addr a = peer_addr(port);
    fill();
    return sendto(fd, data, n, flags, &a.sa, a.len);
}

CASE(sizes)
{
    static const int sizes[] = {0, 1, 2, 64, 256, 1000, 1400, 1432, 1452};
    int port = peer_number("udp");
    int fd = bound(udp_socket());
    for (int i = 0; i < 9; i++) {
        say("%d bytes", sizes[i]);
        say_ret("sendto", to_peer(fd, port, sizes[i], 0));
        say_peer("recvfrom");
        peer_ok("reply %d", sizes[i]);
        say_data("recv", recv(fd, data, sizeof data, 0), data);
    }
}

CASE_KERNEL(sizes_that_need_fragments)
{
    static const int sizes[] = {1473, 3000, 20000, 65507};
    int port = peer_number("udp");
    int fd = bound(udp_socket());
    for (int i = 0; i < 4; i++) {
        say("%d bytes", sizes[i]);
        say_ret("sendto", to_peer(fd, port, sizes[i], 0));
        say_peer("recvfrom");
        peer_ok("reply %d", sizes[i]);
        say_data("recv", recv(fd, data, sizeof data, 0), data);
    }
}

CASE(too_long)
{
    int port = peer_number("udp");
    int fd = bound(udp_socket());
    say_ret("65508", to_peer(fd, port, 65508, 0));
    say_ret("65527", to_peer(fd, port, 65527, 0));
    say_ret("65528", to_peer(fd, port, 65528, 0));
    say_ret("70000", to_peer(fd, port, 70000, 0));
    struct addr a = peer_addr(port);
    connect(fd, &a.sa, a.len);
    say_ret("connected", send(fd, data, 65528, 0));
}

CASE(unbound_send_binds)
{
    int port = peer_number("udp");
    int fd = udp_socket();
    struct addr a = {.len = sizeof a.storage};
    getsockname(fd, &a.sa, &a.len);
    say("before: %s port %d", addr_name(&a.sa, a.len), port_of(fd) != 0);
    say_ret("sendto", to_peer(fd, port, 10, 0));
    a.len = sizeof a.storage;
    getsockname(fd, &a.sa, &a.len);
    say("after: %s port %d", addr_name(&a.sa, a.len), port_of(fd) != 0);
    say_peer("recvfrom");
    peer_ok("reply 7");
    say_data("recv", recv(fd, data, sizeof data, 0), data);
}

CASE(unbound_receive)
{
    int fd = udp_socket();
    say_ret("recv", recv(fd, data, 10, MSG_DONTWAIT));
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT, 0)));
    say("port %d", port_of(fd));
}

CASE(connected_names)
{
    int port = peer_number("udp");
    int fd = udp_socket();
    struct addr a = peer_addr(port), n = {.len = sizeof n.storage};
    say_ret("getpeername", getpeername(fd, &n.sa, &n.len));
    say_ret("connect", connect(fd, &a.sa, a.len));
    n.len = sizeof n.storage;
    say_ret("getsockname", getsockname(fd, &n.sa, &n.len));
    say("own %s", addr_name(&n.sa, n.len));
    n.len = sizeof n.storage;
    say_ret("getpeername", getpeername(fd, &n.sa, &n.len));
    say("peer %s same port %d", addr_name(&n.sa, n.len), port == ntohs(family == AF_INET6 ? n.in6.sin6_port : n.in.sin_port));
    say_ret("send", send(fd, "hello", 5, 0));
    say_peer("recvfrom");
    peer_ok("reply 3");
    say_data("recv", recv(fd, data, 10, 0), data);
}

CASE(connected_filters_others)
{
    int one = peer_number("udp"), fd = bound(udp_socket());
    int two = peer_number("udp");
    struct addr a = peer_addr(one);
    say_ret("connect", connect(fd, &a.sa, a.len));
    peer_ok("sendto %d 5", port_of(fd));
    peer("use 0");
    peer_ok("sendto %d 6", port_of(fd));
    say_data("recv", recv(fd, data, 100, 0), data);
    usleep(30000);
    say_ret("nothing else", recv(fd, data, 100, MSG_DONTWAIT));
    (void)two;
}

CASE(reconnect_and_dissolve)
{
    int one = peer_number("udp"), fd = bound(udp_socket());
    int two = peer_number("udp");
    struct addr a = peer_addr(one), b = peer_addr(two), n = {.len = sizeof n.storage};
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    say_ret("connect one", connect(fd, &a.sa, a.len));
    say_ret("send", send(fd, "one", 3, 0));
    peer("use 0");
    say_peer("recvfrom");
    say_ret("connect two", connect(fd, &b.sa, b.len));
    say_ret("send", send(fd, "two", 3, 0));
    peer("use 1");
    say_peer("recvfrom");
    peer_ok("sendto %d 4", port_of(fd));
    say_data("recv", recv(fd, data, 100, 0), data);
    say_ret("dissolve", connect(fd, &none, sizeof none));
    say_ret("getpeername", getpeername(fd, &n.sa, &n.len));
    say_ret("send", send(fd, "x", 1, 0));
    say_ret("sendto", to_peer(fd, one, 3, 0));
    peer("use 0");
    say_peer("recvfrom");
    peer_ok("sendto %d 6", port_of(fd));
    say_data("recv", recv(fd, data, 100, 0), data);
}

CASE(connected_sendto_elsewhere)
{
    int one = peer_number("udp"), fd = bound(udp_socket());
    int two = peer_number("udp");
    struct addr a = peer_addr(one);
    connect(fd, &a.sa, a.len);
    say_ret("sendto two", to_peer(fd, two, 9, 0));
    say_peer("recvfrom");
    say_ret("send", send(fd, "x", 1, 0));
    peer("use 0");
    say_peer("recvfrom");
}

CASE(no_destination)
{
    int fd = bound(udp_socket());
    say_ret("send", send(fd, "x", 1, 0));
    say_ret("write", write(fd, "x", 1));
    struct addr a = peer_addr(0);
    say_ret("port 0", sendto(fd, "x", 1, 0, &a.sa, a.len));
    a = peer_addr(9);
    say_ret("short address", sendto(fd, "x", 1, 0, &a.sa, 4));
    say_ret("no length", sendto(fd, "x", 1, 0, &a.sa, 0));
    a.sa.sa_family = AF_UNIX;
    say_ret("another family", sendto(fd, "x", 1, 0, &a.sa, a.len));
    say_ret("connect, another family", connect(fd, &a.sa, a.len));
    a = peer_addr(9);
    say_ret("connect, short", connect(fd, &a.sa, 8));
    say_ret("connect, port 0", (a = peer_addr(0), connect(fd, &a.sa, a.len)));
}

CASE(truncation)
{
    int fd = udp_pair();
    send(fd, "x", 1, 0);
    peer("recvfrom");
    char b[8] = "";
    struct iovec v = {b, 4};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    for (int i = 0; i < 6; i++)
        peer_ok("reply 20");
    say_data("recv", recv(fd, b, 4, 0), b);
    say_ret("with MSG_TRUNC", recv(fd, b, 4, MSG_TRUNC));
    say_ret("recvmsg", recvmsg(fd, &m, 0));
    say("flags %x", m.msg_flags);
    say_ret("recvmsg with MSG_TRUNC", recvmsg(fd, &m, MSG_TRUNC));
    say("flags %x", m.msg_flags);
    say_ret("no room", recv(fd, b, 0, 0));
    say_ret("no room, MSG_TRUNC", recv(fd, b, 0, MSG_TRUNC));
    say_ret("all read", recv(fd, b, 4, MSG_DONTWAIT));
}

CASE(peek)
{
    int fd = udp_pair();
    send(fd, "x", 1, 0);
    peer("recvfrom");
    peer_ok("reply 5");
    peer_ok("reply 7");
    say_data("peek", recv(fd, data, 100, MSG_PEEK), data);
    say_data("peek", recv(fd, data, 3, MSG_PEEK), data);
    say_ret("peek trunc", recv(fd, data, 3, MSG_PEEK | MSG_TRUNC));
    say_data("read", recv(fd, data, 100, 0), data);
    say_data("peek", recv(fd, data, 100, MSG_PEEK), data);
    say_data("read", recv(fd, data, 100, 0), data);
    say_ret("peek", recv(fd, data, 100, MSG_PEEK | MSG_DONTWAIT));
}

CASE(empty_datagrams)
{
    int fd = udp_pair();
    say_ret("send", send(fd, "", 0, 0));
    say_peer("recvfrom");
    peer_ok("reply 0");
    peer_ok("reply 3");
    say("events %s", events_name(wait_events(fd, POLLIN)));
    int n = -1;
    ioctl(fd, FIONREAD, &n);
    say("FIONREAD %d", n);
    say_ret("recv", recv(fd, data, 10, 0));
    say_data("recv", recv(fd, data, 10, 0), data);
    say_ret("write", write(fd, "", 0));
    say_ret("writev", writev(fd, NULL, 0));
}

CASE(sender_of_a_datagram)
{
    int fd = udp_pair();
    send(fd, "x", 1, 0);
    peer("recvfrom");
    for (int i = 0; i < 4; i++)
        peer_ok("reply 4");
    struct addr a = {.len = sizeof a.storage};
    say_ret("recvfrom", recvfrom(fd, data, 100, 0, &a.sa, &a.len));
    say("%s", addr_name(&a.sa, a.len));
    a.len = 6;
    memset(&a.storage, 0x7f, sizeof a.storage);
    say_ret("short name", recvfrom(fd, data, 100, 0, &a.sa, &a.len));
    say("len %d, byte 8 %02x", (int)a.len, ((unsigned char *)&a.storage)[8]);
    a.len = 0;
    say_ret("no name", recvfrom(fd, data, 100, 0, &a.sa, &a.len));
    say("len %d", (int)a.len);
    a.len = -1;
    say_ret("negative", recvfrom(fd, data, 100, MSG_DONTWAIT, &a.sa, &a.len));
}

CASE(many_at_once)
{
    int fd = udp_pair();
    struct iovec v[4] = {{"one", 3}, {"two22", 5}, {"", 0}, {"four", 4}};
    struct mmsghdr m[4];
    memset(m, 0, sizeof m);
    for (int i = 0; i < 4; i++) {
        m[i].msg_hdr.msg_iov = &v[i];
        m[i].msg_hdr.msg_iovlen = 1;
    }
    say_ret("sendmmsg", sendmmsg(fd, m, 4, 0));
    say("lengths %u %u %u %u", m[0].msg_len, m[1].msg_len, m[2].msg_len, m[3].msg_len);
    for (int i = 0; i < 4; i++)
        say_peer("recvfrom");
    for (int i = 0; i < 4; i++)
        peer_ok("reply %d", i * 3);
    wait_events(fd, POLLIN);
    usleep(30000);
    static char room[6][16];
    struct iovec r[6];
    struct mmsghdr in[6];
    memset(in, 0, sizeof in);
    for (int i = 0; i < 6; i++) {
        r[i] = (struct iovec){room[i], i == 3 ? 4 : 16};
        in[i].msg_hdr.msg_iov = &r[i];
        in[i].msg_hdr.msg_iovlen = 1;
    }
    say_ret("recvmmsg", recvmmsg(fd, in, 6, MSG_WAITFORONE, NULL));
    for (int i = 0; i < 4; i++)
        say("%u flags %x", in[i].msg_len, in[i].msg_hdr.msg_flags);
    say_ret("none left", recvmmsg(fd, in, 6, MSG_DONTWAIT, NULL));
    struct timespec t = {0, 10000000}, bad = {0, -1};
    say_ret("bad time", recvmmsg(fd, in, 6, MSG_DONTWAIT, &bad));
    say_ret("no count", recvmmsg(fd, in, 0, MSG_DONTWAIT, &t));
    say_ret("send none", sendmmsg(fd, m, 0, 0));
}

CASE(queue_lengths)
{
    int fd = udp_pair(), n = -1;
    send(fd, "x", 1, 0);
    peer("recvfrom");
    say_ret("FIONREAD", ioctl(fd, FIONREAD, &n));
    say("%d", n);
    peer_ok("reply 30");
    peer_ok("reply 40");
    wait_events(fd, POLLIN);
    ioctl(fd, FIONREAD, &n);
    say("%d", n);
    recv(fd, data, 100, 0);
    ioctl(fd, FIONREAD, &n);
    say("%d", n);
    say_ret("SIOCOUTQ", ioctl(fd, SIOCOUTQ, &n));
    say("%d", n);
    say_ret("SIOCATMARK", ioctl(fd, SIOCATMARK, &n));
    say_ret("SIOCOUTQNSD", ioctl(fd, SIOCOUTQNSD, &n));
}

CASE(time_limits)
{
    int fd = udp_pair();
    struct timeval t = {0, 50000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    say_ret("recv", recv(fd, data, 10, 0));
    say_ret("recv waitall", recv(fd, data, 10, MSG_WAITALL));
    peer("after 20 sendto %d 5", port_of(fd));
    t.tv_sec = 3;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    say_data("recv", recv(fd, data, 10, 0), data);
}

CASE(odd_flags)
{
    int fd = udp_pair();
    say_ret("send OOB", send(fd, "x", 1, MSG_OOB));
    say_ret("recv OOB", recv(fd, data, 10, MSG_OOB | MSG_DONTWAIT));
    say_ret("send CONFIRM", send(fd, "c", 1, MSG_CONFIRM));
    say_peer("recvfrom");
    say_ret("send DONTROUTE", send(fd, "d", 1, MSG_DONTROUTE));
    say_peer("recvfrom");
    say_ret("send EOR", send(fd, "e", 1, MSG_EOR));
    say_peer("recvfrom");
    say_ret("send FASTOPEN", send(fd, "f", 1, MSG_FASTOPEN));
    say_peer("recvfrom");
    say_ret("listen", listen(fd, 5));
    say_ret("accept", accept(fd, NULL, NULL));
}

CASE(vectors)
{
    int fd = udp_pair();
    struct iovec v[3] = {{"ab", 2}, {"", 0}, {"cde", 3}};
    say_ret("writev", writev(fd, v, 3));
    say_peer("recvfrom");
    peer_ok("reply 9");
    char a[2], b[3], c[10];
    struct iovec r[3] = {{a, 2}, {b, 3}, {c, 10}};
    say_ret("readv", readv(fd, r, 3));
    say("%s %s %s", show(a, 2), show(b, 3), show(c, 4));
    say_ret("too many", writev(fd, v, 1025));
}

CASE(overflow_keeps_the_oldest)
{
    int fd = udp_pair(), small = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    send(fd, "x", 1, 0);
    peer("recvfrom");
    for (int i = 0; i < 60; i++)
        peer_ok("reply %d", 100 + i);
    usleep(50000);
    say_ret("first", recv(fd, data, sizeof data, MSG_DONTWAIT));
    say_ret("second", recv(fd, data, sizeof data, MSG_DONTWAIT));
    int n = 2;
    while (recv(fd, data, sizeof data, MSG_DONTWAIT) > 0)
        n++;
    say("some were lost: %d", n < 60);
    peer_ok("reply 7");
    say_data("again", recv(fd, data, sizeof data, 0), data);
}

CASE(dual_stack)
{
    if (family == AF_INET6)
        return;
    int port = peer_number("udp");
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    struct addr any = addr_of("::", 0), n = {.len = sizeof n.storage};
    char mapped[64];
    snprintf(mapped, sizeof mapped, "::ffff:%s", diff_env("DIFF_PEER_ADDR", ""));
    struct addr a = addr_of(mapped, port);
    say_ret("bind", bind(fd, &any.sa, any.len));
    getsockname(fd, &n.sa, &n.len);
    peer_ok("sendto %d 12", ntohs(n.in6.sin6_port));
    n.len = sizeof n.storage;
    say_data("recvfrom", recvfrom(fd, data, 100, 0, &n.sa, &n.len), data);
    say("family %d len %d mapped %d", n.sa.sa_family, (int)n.len, IN6_IS_ADDR_V4MAPPED(&n.in6.sin6_addr));
    say_ret("sendto", sendto(fd, "abc", 3, 0, &a.sa, a.len));
    say_peer("recvfrom");
    say_ret("connect", connect(fd, &a.sa, a.len));
    say_ret("send", send(fd, "defg", 4, 0));
    say_peer("recvfrom");
    n.len = sizeof n.storage;
    getsockname(fd, &n.sa, &n.len);
    say("mapped %d", IN6_IS_ADDR_V4MAPPED(&n.in6.sin6_addr));
    int v4 = socket(AF_INET, SOCK_DGRAM, 0);
    say_ret("an address of IPv6 on a socket of IPv4", sendto(v4, "x", 1, 0, &a.sa, a.len));
}

CASE(v6only_refuses_mapped)
{
    if (family == AF_INET6)
        return;
    int port = peer_number("udp"), one = 1;
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    struct addr any = addr_of("::", 0), n = {.len = sizeof n.storage};
    char mapped[64];
    snprintf(mapped, sizeof mapped, "::ffff:%s", diff_env("DIFF_PEER_ADDR", ""));
    struct addr a = addr_of(mapped, port);
    say_ret("bind", bind(fd, &any.sa, any.len));
    getsockname(fd, &n.sa, &n.len);
    say_ret("sendto", sendto(fd, "abc", 3, 0, &a.sa, a.len));
    say_ret("connect", connect(fd, &a.sa, a.len));
    peer_ok("sendto %d 12", ntohs(n.in6.sin6_port));
    usleep(30000);
    say_ret("recv", recv(fd, data, 100, MSG_DONTWAIT));
}

CASE(forked_reader)
{
    int fd = udp_pair();
    send(fd, "x", 1, 0);
    peer("recvfrom");
    if (fork() == 0) {
        say_data("child", recv(fd, data, 100, 0), data);
        say_ret("child sends", send(fd, "child", 5, 0));
        _exit(0);
    }
    peer_ok("reply 12");
    wait(NULL);
    say_peer("recvfrom");
    peer_ok("reply 4");
    say_data("parent", recv(fd, data, 100, 0), data);
}
