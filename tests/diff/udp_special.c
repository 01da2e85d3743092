/* Datagrams that the kernel socket sends or receives for an accelerated one: corking, segmentation, multicast,
 * broadcast, MTU discovery; and options that change how an accelerated one sends. */
#include "diff.h"
#include <net/if.h>

static char data[70000];

CASE(more_makes_one_datagram)
{
    int fd = udp_pair();
    say_ret("more", send(fd, "abc", 3, MSG_MORE));
    say_ret("more", send(fd, "defg", 4, MSG_MORE));
    say_ret("end", send(fd, "h", 1, 0));
    say_peer("recvfrom");
    say_ret("plain", send(fd, "next", 4, 0));
    say_peer("recvfrom");
}

CASE(cork_makes_one_datagram)
{
    int fd = udp_pair(), one = 1, zero = 0;
    say_ret("cork", setsockopt(fd, IPPROTO_UDP, UDP_CORK, &one, sizeof one));
    say_ret("send", send(fd, "abc", 3, 0));
    say_ret("send", send(fd, "de", 2, 0));
    say_ret("uncork", setsockopt(fd, IPPROTO_UDP, UDP_CORK, &zero, sizeof zero));
    say_peer("recvfrom");
    say_ret("plain", send(fd, "next", 4, 0));
    say_peer("recvfrom");
}

CASE(more_then_another_address)
{
    int port = peer_number("udp"), fd = bound(udp_socket());
    struct addr a = peer_addr(port);
    say_ret("more", sendto(fd, "abc", 3, MSG_MORE, &a.sa, a.len));
    a = peer_addr(9);
    say_ret("end", sendto(fd, "d", 1, 0, &a.sa, a.len));
    say_peer("recvfrom");
}

CASE(segment)
{
    int fd = udp_pair(), size = 100;
    memset(data, 'z', 1000);
    say_ret("set", setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size));
    say_ret("send", send(fd, data, 250, 0));
    for (int i = 0; i < 3; i++)
        say_peer("recvfrom");
    size = 0;
    say_ret("unset", setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof size));
    say_ret("send", send(fd, data, 250, 0));
    say_peer("recvfrom");
}

CASE(segment_by_message)
{
    int fd = udp_pair();
    char control[CMSG_SPACE(2)] = "";
    struct iovec v = {data, 250};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    memset(data, 'y', 250);
    *c = (struct cmsghdr){.cmsg_level = IPPROTO_UDP, .cmsg_type = UDP_SEGMENT, .cmsg_len = CMSG_LEN(2)};
    *(uint16_t *)CMSG_DATA(c) = 120;
    say_ret("sendmsg", sendmsg(fd, &m, 0));
    for (int i = 0; i < 3; i++)
        say_peer("recvfrom");
}

static void mtu_modes(int level, int name)
{
    static const int modes[] = {0, 1, 2, 3, 4, 5};
    int fd = udp_pair();
    for (int i = 0; i < 6; i++) {
        say("mode %d: %s", modes[i], setsockopt(fd, level, name, &modes[i], 4) ? errno_name(errno) : "ok");
        say_ret("100", send(fd, data, 100, 0));
        say_peer("recvfrom");
        say_ret("1500", send(fd, data, 1500, 0));
        if (modes[i] != 2 && modes[i] != 3 && modes[i] != 4)
            say_peer("recvfrom");
        say_ret("3000", send(fd, data, 3000, 0));
        if (modes[i] != 2 && modes[i] != 3 && modes[i] != 4)
            say_peer("recvfrom");
    }
}

CASE_KERNEL(mtu_discovery)
{
    memset(data, 'm', sizeof data);
    if (family == AF_INET6)
        mtu_modes(IPPROTO_IPV6, IPV6_MTU_DISCOVER);
    else
        mtu_modes(IPPROTO_IP, IP_MTU_DISCOVER);
}

CASE(mtu_of_connected)
{
    int fd = udp_pair(), v = 0;
    socklen_t len = sizeof v;
    if (family == AF_INET6)
        say_ret("get", getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &v, &len));
    else
        say_ret("get", getsockopt(fd, IPPROTO_IP, IP_MTU, &v, &len));
    say("%d", v);
}

CASE(dontfrag_v6)
{
    if (family != AF_INET6)
        return;
    int fd = udp_pair(), one = 1;
    setsockopt(fd, IPPROTO_IPV6, IPV6_DONTFRAG, &one, sizeof one);
    say_ret("1000", send(fd, data, 1000, 0));
    say_peer("recvfrom");
    say_ret("3000", send(fd, data, 3000, 0));
}

CASE_KERNEL(broadcast)
{
    if (family == AF_INET6)
        return;
    int port = peer_number("udp"), one = 1;
    int fd = bound(udp_socket());
    struct addr a = addr_of("255.255.255.255", port);
    say_ret("forbidden", sendto(fd, "x", 1, 0, &a.sa, a.len));
    say_ret("connect", connect(fd, &a.sa, a.len));
    say_ret("set", setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof one));
    int any = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(any, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
    setsockopt(any, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct addr mine = any_addr(0);
    bind(any, &mine.sa, mine.len);
    /* The peer sends one to everybody on the wire. */
    peer("opt %d %d 1", SOL_SOCKET, SO_BROADCAST);
    say_peer("sendto_addr 255.255.255.255 9 4");
    peer("sendto_addr 255.255.255.255 %d 6", port_of(any));
    say_data("recv", recv(any, data, 100, 0), data);
    peer_ok("sendto %d 8", port_of(any));
    say_data("recv", recv(any, data, 100, 0), data);
}

static const char *hex(const void *p, int n)
{
    static char text[600];
    for (int i = 0; i < n; i++)
        sprintf(text + 2 * i, "%02x", ((const unsigned char *)p)[i]);
    return text;
}

static struct in_addr own4(void) { return my_addr(0).in.sin_addr; }
static struct in_addr peer4(void) { return peer_addr(0).in.sin_addr; }

/* A socket on every address that is in a group, by one of the ways to join; the peer sends to the group. */
static int group_socket(void)
{
    int fd = udp_socket();
    struct addr a = any_addr(0);
    bind(fd, &a.sa, a.len);
    return fd;
}

static void receive_or_not(int fd, const char *what)
{
    struct timeval t = {0, 150000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    say_data(what, recv(fd, data, 100, 0), data);
}

static void peer_sends_v4(int fd)
{
    struct in_addr out = peer4();
    peer_ok("optx %d %d %s", IPPROTO_IP, IP_MULTICAST_IF, hex(&out, 4));
    peer_ok("sendto_addr 239.1.2.3 %d 5", port_of(fd));
}

CASE_KERNEL(multicast_any_source)
{
    int fd = group_socket();
    peer("udp");
    if (family == AF_INET6) {
        struct ipv6_mreq r = {.ipv6mr_interface = if_nametoindex("eth0")};
        inet_pton(AF_INET6, "ff05::1:2:3", &r.ipv6mr_multiaddr);
        say_ret("join", setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &r, sizeof r));
        say_ret("twice", setsockopt(fd, IPPROTO_IPV6, IPV6_JOIN_GROUP, &r, sizeof r));
        peer_ok("opt %d %d %d", IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 4);
        say_peer("sendto_addr ff05::1:2:3 9 1");
        peer_ok("sendto_addr ff05::1:2:3 %d 5", port_of(fd));
        receive_or_not(fd, "recv");
        say_ret("leave", setsockopt(fd, IPPROTO_IPV6, IPV6_LEAVE_GROUP, &r, sizeof r));
        say_ret("twice", setsockopt(fd, IPPROTO_IPV6, IPV6_LEAVE_GROUP, &r, sizeof r));
        return;
    }
    struct ip_mreq r = {.imr_interface = own4()};
    inet_pton(AF_INET, "239.1.2.3", &r.imr_multiaddr);
    say_ret("join", setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &r, sizeof r));
    say_ret("twice", setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &r, sizeof r));
    peer_sends_v4(fd);
    receive_or_not(fd, "recv");
    peer_ok("sendto %d 9", port_of(fd));
    receive_or_not(fd, "unicast");
    say_ret("leave", setsockopt(fd, IPPROTO_IP, IP_DROP_MEMBERSHIP, &r, sizeof r));
    say_ret("twice", setsockopt(fd, IPPROTO_IP, IP_DROP_MEMBERSHIP, &r, sizeof r));
    peer_sends_v4(fd);
    receive_or_not(fd, "after leaving");
}

CASE_KERNEL(multicast_one_source)
{
    if (family == AF_INET6)
        return;
    int fd = group_socket(), zero = 0;
    peer("udp");
    setsockopt(fd, IPPROTO_IP, 49, &zero, sizeof zero);
    struct ip_mreq_source r = {.imr_interface = own4(), .imr_sourceaddr = peer4()};
    inet_pton(AF_INET, "239.1.2.3", &r.imr_multiaddr);
    say_ret("join", setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &r, sizeof r));
    peer_sends_v4(fd);
    receive_or_not(fd, "recv");
    say_ret("drop", setsockopt(fd, IPPROTO_IP, IP_DROP_SOURCE_MEMBERSHIP, &r, sizeof r));
    peer_sends_v4(fd);
    receive_or_not(fd, "after");
    inet_pton(AF_INET, "192.0.2.1", &r.imr_sourceaddr);
    say_ret("another source", setsockopt(fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &r, sizeof r));
    peer_sends_v4(fd);
    receive_or_not(fd, "not that one");
}

CASE_KERNEL(multicast_block_source)
{
    if (family == AF_INET6)
        return;
    int fd = group_socket();
    peer("udp");
    struct ip_mreqn g = {.imr_address = own4()};
    inet_pton(AF_INET, "239.1.2.3", &g.imr_multiaddr);
    say_ret("join", setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &g, sizeof g));
    struct ip_mreq_source r = {.imr_multiaddr = g.imr_multiaddr, .imr_interface = own4(), .imr_sourceaddr = peer4()};
    say_ret("block", setsockopt(fd, IPPROTO_IP, IP_BLOCK_SOURCE, &r, sizeof r));
    peer_sends_v4(fd);
    receive_or_not(fd, "blocked");
    say_ret("unblock", setsockopt(fd, IPPROTO_IP, IP_UNBLOCK_SOURCE, &r, sizeof r));
    peer_sends_v4(fd);
    receive_or_not(fd, "unblocked");
}

CASE_KERNEL(multicast_generic_join)
{
    int fd = group_socket();
    struct group_req r = {.gr_interface = if_nametoindex("eth0")};
    struct addr g = addr_of(family == AF_INET6 ? "ff05::1:2:3" : "239.1.2.3", 0);
    memcpy(&r.gr_group, &g.storage, g.len);
    int level = family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
    say_ret("join", setsockopt(fd, level, MCAST_JOIN_GROUP, &r, sizeof r));
    peer("udp");
    if (family == AF_INET6)
        peer_ok("sendto_addr ff05::1:2:3 %d 5", port_of(fd));
    else
        peer_sends_v4(fd);
    receive_or_not(fd, "recv");
    say_ret("leave", setsockopt(fd, level, MCAST_LEAVE_GROUP, &r, sizeof r));
}

CASE_KERNEL(multicast_send)
{
    if (family == AF_INET6)
        return;
    /* The peer joins; this socket, accelerated by its bind, sends to the group. */
    struct { struct in_addr group, ifc; } r = {.ifc = peer4()};
    inet_pton(AF_INET, "239.1.2.4", &r.group);
    int fd = bound(udp_socket()), ttl = 3, loop = 0;
    peer("udp");
    say_ret("ttl", setsockopt(fd, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof ttl));
    say_ret("loop", setsockopt(fd, IPPROTO_IP, IP_MULTICAST_LOOP, &loop, sizeof loop));
    struct in_addr out = own4();
    say_ret("if", setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &out, sizeof out));
    peer_ok("optx %d %d %s", IPPROTO_IP, IP_ADD_MEMBERSHIP, hex(&r, 8));
    struct addr a = addr_of("239.1.2.4", 9);
    say_ret("sendto", sendto(fd, "group", 5, 0, &a.sa, a.len));
    int port = peer_number("udp");
    a = peer_addr(port);
    say_ret("unicast", sendto(fd, "one", 3, 0, &a.sa, a.len));
    say_peer("recvfrom");
}

CASE_KERNEL(bound_to_a_group)
{
    if (family == AF_INET6)
        return;
    int fd = udp_socket();
    struct addr a = addr_of("239.1.2.3", 0);
    say_ret("bind", bind(fd, &a.sa, a.len));
    struct ip_mreq r = {.imr_interface = own4(), .imr_multiaddr = a.in.sin_addr};
    say_ret("join", setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &r, sizeof r));
    peer("udp");
    peer_sends_v4(fd);
    receive_or_not(fd, "recv");
}

CASE_KERNEL(peek_offset)
{
    int fd = udp_pair(), off = 0;
    socklen_t len = sizeof off;
    say_ret("set", setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off));
    send(fd, "x", 1, 0);
    peer("recvfrom");
    peer_ok("reply 10");
    peer_ok("reply 8");
    for (int i = 0; i < 4; i++)
        say_data("peek", recv(fd, data, 4, MSG_PEEK), data);
    getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, &len);
    say("offset %d", off);
    say_data("read", recv(fd, data, 100, 0), data);
    getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, &len);
    say("offset %d", off);
    say_data("read", recv(fd, data, 100, 0), data);
}

CASE_KERNEL(mark_goes_on_with_the_kernel)
{
    int fd = udp_pair(), mark = 7;
    send(fd, "x", 1, 0);
    peer("recvfrom");
    peer_ok("reply 5");
    wait_events(fd, POLLIN);
    say_ret("mark", setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark));
    peer_ok("reply 6");
    say_data("recv", recv(fd, data, 100, 0), data);
    say_data("recv", recv(fd, data, 100, 0), data);
    say_ret("send", send(fd, "marked", 6, 0));
    say_peer("recvfrom");
    peer_ok("reply 9");
    say_data("recv", recv(fd, data, 100, 0), data);
}

CASE_KERNEL(filter_goes_on_with_the_kernel)
{
    int fd = udp_pair();
    struct { uint16_t code; uint8_t jt, jf; uint32_t k; } drop[] = {{0x06, 0, 0, 0}}, cut[] = {{0x06, 0, 0, 12}};
    struct { unsigned short n; void *p; } all = {1, drop}, some = {1, cut};
    send(fd, "x", 1, 0);
    peer("recvfrom");
    say_ret("drop all", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &all, sizeof all));
    usleep(30000);
    peer_ok("reply 5");
    usleep(30000);
    say_ret("recv", recv(fd, data, 100, MSG_DONTWAIT));
    say_ret("cut", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &some, sizeof some));
    peer_ok("reply 20");
    say_data("recv", recv(fd, data, 100, 0), data);
}
