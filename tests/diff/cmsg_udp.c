/* Control messages of datagrams, received and sent. diff: modes=v4,v6,xdp */
#include "diff.h"
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <net/if.h>

static char data[2000];

static const char *level_name(int level)
{
    return level == SOL_SOCKET ? "SOL_SOCKET" : level == IPPROTO_IP ? "IP" : level == IPPROTO_IPV6 ? "IPV6" : "?";
}

static int recent(long sec)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return sec >= now.tv_sec - 5 && sec <= now.tv_sec + 1;
}

/* One message, and what its control data says; times as "recent" or not. */
static long receive(int fd, int room, int flags)
{
    _Alignas(16) char control[512];
    struct iovec v = {data, sizeof data};
    struct addr from = {0};
    struct msghdr m = {.msg_name = &from.storage, .msg_namelen = sizeof from.storage, .msg_iov = &v, .msg_iovlen = 1,
        .msg_control = room ? control : NULL, .msg_controllen = room};
    memset(control, 0x77, sizeof control);
    long n = recvmsg(fd, &m, flags);
    if (n < 0) {
        say_ret("recvmsg", n);
        return n;
    }
    say("%ld bytes, flags %x, control %d", n, m.msg_flags, (int)m.msg_controllen);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        unsigned char *d = CMSG_DATA(c);
        int len = c->cmsg_len - CMSG_LEN(0), v = 0;
        memcpy(&v, d, len < 4 ? len : 4);
        if (c->cmsg_level == SOL_SOCKET
            && (c->cmsg_type == SCM_TIMESTAMP || c->cmsg_type == SCM_TIMESTAMPNS || c->cmsg_type == 37
                || (c->cmsg_type >= 63 && c->cmsg_type <= 65)) && len >= 16) {
            long t[6] = {0};
            memcpy(t, d, len < 48 ? len : 48);
            say("  stamp %d len %d recent %d part %d others %ld", c->cmsg_type, len, recent(t[0]),
                t[1] >= 0 && t[1] < 1000000000, len == 48 ? t[2] + t[3] + t[4] + t[5] : 0);
        } else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO && len == 12) {
            struct in_pktinfo *p = (void *)d;
            struct addr a = addr_of("0.0.0.0", 0), b = a;
            a.in.sin_addr = p->ipi_addr, b.in.sin_addr = p->ipi_spec_dst;
            say("  pktinfo if %d to %s at %s", p->ipi_ifindex == (int)if_nametoindex("eth0"), addr_name(&a.sa, a.len),
                addr_name(&b.sa, b.len));
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO && len == 20) {
            struct in6_pktinfo *p = (void *)d;
            struct addr a = addr_of("::", 0);
            a.in6.sin6_addr = p->ipi6_addr;
            say("  pktinfo6 if %d to %s", p->ipi6_ifindex == if_nametoindex("eth0"), addr_name(&a.sa, a.len));
        } else if (c->cmsg_type == IP_ORIGDSTADDR || c->cmsg_type == 74) {
            struct addr a = {.len = len};
            memcpy(&a.storage, d, len < 28 ? len : 28);
            int port = ntohs(a.sa.sa_family == AF_INET6 ? a.in6.sin6_port : a.in.sin_port);
            say("  origdst %s type %d own port %d", addr_name(&a.sa, a.len), c->cmsg_type, port == port_of(fd));
        } else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_RECVERR)
            || (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVERR)) {
            struct sock_extended_err *e = (void *)d;
            struct addr a = {.len = len - sizeof *e};
            memcpy(&a.storage, SO_EE_OFFENDER(e), len - sizeof *e);
            say("  err %s origin %d type %d code %d info %u data %u offender %s", errno_name(e->ee_errno), e->ee_origin,
                e->ee_type, e->ee_code, e->ee_info, e->ee_data, addr_name(&a.sa, a.len));
        } else {
            say("  %s %d len %d value %d", level_name(c->cmsg_level), c->cmsg_type, len, v);
        }
    }
    return n;
}

static int ready_pair(void)
{
    int fd = udp_pair();
    send(fd, "x", 1, 0);
    peer("recvfrom");
    return fd;
}

static int turn_on(int fd, int level, int name, int v)
{
    int ret = setsockopt(fd, level, name, &v, sizeof v);
    if (ret)
        say("option %d %d: %s", level, name, errno_name(errno));
    return ret;
}

/* Linux switches stamping on a moment after the first socket of the host asks for it. */
static void stamping(void)
{
    int spare = udp_socket();
    turn_on(spare, SOL_SOCKET, SO_TIMESTAMPNS, 1);
    usleep(100000);
}

static void one_option(int level, int name, int v)
{
    if (level == SOL_SOCKET)
        stamping();
    int fd = ready_pair();
    turn_on(fd, level, name, v);
    peer_ok("reply 5");
    receive(fd, 256, 0);
    turn_on(fd, level, name, 0);
    peer_ok("reply 6");
    receive(fd, 256, 0);
    /* Set before the socket is accelerated. */
    fd = udp_socket();
    turn_on(fd, level, name, v);
    bound(fd);
    peer_ok("sendto %d 7", port_of(fd));
    receive(fd, 256, 0);
    /* On a first send. */
    int port = peer_number("udp");
    struct addr a = peer_addr(port);
    fd = udp_socket();
    turn_on(fd, level, name, v);
    say_ret("sendto", sendto(fd, "x", 1, 0, &a.sa, a.len));
    peer("recvfrom");
    peer_ok("reply 8");
    receive(fd, 256, 0);
}

#define ONE(NAME, LEVEL, OPTION, VALUE) CASE(NAME) { one_option(LEVEL, OPTION, VALUE); }

ONE(timestamp, SOL_SOCKET, SO_TIMESTAMP, 1)
ONE(timestampns, SOL_SOCKET, SO_TIMESTAMPNS, 1)
ONE(timestamp_new, SOL_SOCKET, 63, 1)
ONE(timestampns_new, SOL_SOCKET, 64, 1)
ONE(timestamping, SOL_SOCKET, SO_TIMESTAMPING, SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE)
ONE(timestamping_new, SOL_SOCKET, 65, SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE)
ONE(timestamping_unasked, SOL_SOCKET, SO_TIMESTAMPING, SOF_TIMESTAMPING_RX_SOFTWARE)
ONE(rxq_ovfl, SOL_SOCKET, SO_RXQ_OVFL, 1)
ONE(pktinfo, IPPROTO_IP, IP_PKTINFO, 1)
ONE(recvttl, IPPROTO_IP, IP_RECVTTL, 1)
ONE(recvtos, IPPROTO_IP, IP_RECVTOS, 1)
ONE(recvorigdstaddr, IPPROTO_IP, IP_RECVORIGDSTADDR, 1)
ONE(recvopts, IPPROTO_IP, IP_RECVOPTS, 1)
ONE(recvfragsize, IPPROTO_IP, 25, 1)
ONE(pktinfo6, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
ONE(hoplimit6, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
ONE(tclass6, IPPROTO_IPV6, IPV6_RECVTCLASS, 1)
ONE(origdst6, IPPROTO_IPV6, 74, 1)
ONE(hopopts6, IPPROTO_IPV6, IPV6_RECVHOPOPTS, 1)
ONE(gro_without_merging, IPPROTO_UDP, UDP_GRO, 1)

static int everything(void)
{
    stamping();
    int fd = ready_pair();
    turn_on(fd, SOL_SOCKET, SO_TIMESTAMPNS, 1);
    turn_on(fd, SOL_SOCKET, SO_TIMESTAMPING, SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE);
    turn_on(fd, IPPROTO_IP, IP_PKTINFO, 1);
    turn_on(fd, IPPROTO_IP, IP_RECVTTL, 1);
    turn_on(fd, IPPROTO_IP, IP_RECVTOS, 1);
    turn_on(fd, IPPROTO_IP, IP_RECVORIGDSTADDR, 1);
    if (family == AF_INET6) {
        turn_on(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
        turn_on(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
        turn_on(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
        turn_on(fd, IPPROTO_IPV6, 74, 1);
    }
    return fd;
}

CASE(everything_in_order)
{
    int fd = everything();
    peer_ok("reply 5");
    receive(fd, 512, 0);
    peer_ok("reply 5");
    receive(fd, 512, MSG_PEEK);
    receive(fd, 512, MSG_TRUNC);
}

CASE(room_for_some)
{
    static const int rooms[] = {0, 1, 8, 15, 16, 17, 24, 31, 32, 33, 40, 47, 48, 60, 72, 96, 100, 120, 128, 160, 200};
    int fd = everything();
    for (unsigned i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        peer_ok("reply 5");
        say("room %d", rooms[i]);
        receive(fd, rooms[i], 0);
    }
}

CASE(ttl_and_tos_of_the_sender)
{
    int fd = ready_pair();
    if (family == AF_INET6) {
        turn_on(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
        turn_on(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
        peer_ok("opt %d %d 33", IPPROTO_IPV6, IPV6_UNICAST_HOPS);
        peer_ok("opt %d %d 72", IPPROTO_IPV6, IPV6_TCLASS);
    } else {
        turn_on(fd, IPPROTO_IP, IP_RECVTTL, 1);
        turn_on(fd, IPPROTO_IP, IP_RECVTOS, 1);
        peer_ok("opt %d %d 33", IPPROTO_IP, IP_TTL);
        peer_ok("opt %d %d 72", IPPROTO_IP, IP_TOS);
    }
    peer_ok("reply 5");
    receive(fd, 256, 0);
}

static void send_with(int fd, struct addr *to, int level, int type, const void *value, int len, int said)
{
    _Alignas(16) char control[256] = "";
    struct iovec v = {"payload", 7};
    struct msghdr m = {.msg_name = to ? &to->storage : NULL, .msg_namelen = to ? to->len : 0, .msg_iov = &v, .msg_iovlen = 1,
        .msg_control = control, .msg_controllen = CMSG_SPACE(len)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_level = level, .cmsg_type = type, .cmsg_len = said ? (size_t)said : CMSG_LEN(len)};
    memcpy(CMSG_DATA(c), value, len);
    say("level %d type %d len %d: %s", level, type, said ? said : (int)CMSG_LEN(len),
        sendmsg(fd, &m, MSG_NOSIGNAL) < 0 ? errno_name(errno) : "sent");
}

CASE(send_source_address)
{
    int port = peer_number("udp");
    int fd = udp_socket();
    struct addr a = any_addr(0), to = peer_addr(port), mine = my_addr(0), foreign = peer_addr(0);
    bind(fd, &a.sa, a.len);
    if (family == AF_INET6) {
        struct in6_pktinfo p = {.ipi6_addr = mine.in6.sin6_addr};
        send_with(fd, &to, IPPROTO_IPV6, IPV6_PKTINFO, &p, sizeof p, 0);
        say_peer("recvfrom");
        p.ipi6_ifindex = if_nametoindex("eth0");
        send_with(fd, &to, IPPROTO_IPV6, IPV6_PKTINFO, &p, sizeof p, 0);
        say_peer("recvfrom");
        p.ipi6_ifindex = 9999;
        send_with(fd, &to, IPPROTO_IPV6, IPV6_PKTINFO, &p, sizeof p, 0);
        p.ipi6_ifindex = 0, p.ipi6_addr = foreign.in6.sin6_addr;
        send_with(fd, &to, IPPROTO_IPV6, IPV6_PKTINFO, &p, sizeof p, 0);
        p.ipi6_addr = in6addr_any;
        send_with(fd, &to, IPPROTO_IPV6, IPV6_PKTINFO, &p, sizeof p, 0);
        say_peer("recvfrom");
        return;
    }
    struct in_pktinfo p = {.ipi_spec_dst = mine.in.sin_addr};
    send_with(fd, &to, IPPROTO_IP, IP_PKTINFO, &p, sizeof p, 0);
    say_peer("recvfrom");
    p.ipi_ifindex = if_nametoindex("eth0");
    send_with(fd, &to, IPPROTO_IP, IP_PKTINFO, &p, sizeof p, 0);
    say_peer("recvfrom");
    p.ipi_ifindex = 9999;
    send_with(fd, &to, IPPROTO_IP, IP_PKTINFO, &p, sizeof p, 0);
    p.ipi_ifindex = 0, p.ipi_spec_dst = foreign.in.sin_addr;
    send_with(fd, &to, IPPROTO_IP, IP_PKTINFO, &p, sizeof p, 0);
    p.ipi_spec_dst.s_addr = 0;
    send_with(fd, &to, IPPROTO_IP, IP_PKTINFO, &p, sizeof p, 0);
    say_peer("recvfrom");
}

CASE(send_bad_messages)
{
    int fd = udp_pair(), v = 9, big = 300;
    char none[4] = "";
    send_with(fd, NULL, IPPROTO_IP, IP_TTL, &v, 4, 0);
    send_with(fd, NULL, IPPROTO_IP, IP_TTL, &big, 4, 0);
    send_with(fd, NULL, IPPROTO_IP, IP_TTL, &v, 1, 0);
    send_with(fd, NULL, IPPROTO_IP, IP_TOS, &v, 4, 0);
    send_with(fd, NULL, IPPROTO_IP, IP_TOS, &v, 1, 0);
    send_with(fd, NULL, IPPROTO_IP, 99, &v, 4, 0);
    send_with(fd, NULL, IPPROTO_IP, IP_PKTINFO, none, 4, 0);
    send_with(fd, NULL, IPPROTO_IPV6, IPV6_HOPLIMIT, &v, 4, 0);
    send_with(fd, NULL, IPPROTO_IPV6, IPV6_HOPLIMIT, &big, 4, 0);
    send_with(fd, NULL, IPPROTO_IPV6, IPV6_TCLASS, &v, 4, 0);
    send_with(fd, NULL, IPPROTO_IPV6, IPV6_PKTINFO, none, 4, 0);
    send_with(fd, NULL, SOL_SOCKET, SO_MARK, &v, 4, 0);
    send_with(fd, NULL, SOL_SOCKET, 77, &v, 4, 0);
    send_with(fd, NULL, IPPROTO_UDP, 99, &v, 4, 0);
    send_with(fd, NULL, 4711, 1, &v, 4, 0);
    send_with(fd, NULL, IPPROTO_IP, IP_TTL, &v, 4, 3);
    send_with(fd, NULL, IPPROTO_IP, IP_TTL, &v, 4, 1000);
    send_with(fd, NULL, IPPROTO_IP, IP_TTL, &v, 4, 15);
}

CASE(send_ttl_and_tos_by_message)
{
    int fd = udp_pair(), ttl = 9, tos = 0x20;
    peer_ok("opt %d %d 1", IPPROTO_IP, IP_RECVTTL);
    peer_ok("opt %d %d 1", IPPROTO_IP, IP_RECVTOS);
    if (family == AF_INET6) {
        peer_ok("opt %d %d 1", IPPROTO_IPV6, IPV6_RECVHOPLIMIT);
        peer_ok("opt %d %d 1", IPPROTO_IPV6, IPV6_RECVTCLASS);
    }
    if (family == AF_INET6) {
        send_with(fd, NULL, IPPROTO_IPV6, IPV6_HOPLIMIT, &ttl, 4, 0);
        say_peer("recvinfo");
        send_with(fd, NULL, IPPROTO_IPV6, IPV6_TCLASS, &tos, 4, 0);
    } else {
        send_with(fd, NULL, IPPROTO_IP, IP_TTL, &ttl, 4, 0);
        say_peer("recvinfo");
        send_with(fd, NULL, IPPROTO_IP, IP_TOS, &tos, 4, 0);
    }
    say_peer("recvinfo");
}

CASE(error_queue_connected)
{
    int port = peer_number("udp"), v = -1;
    socklen_t len = sizeof v;
    int fd = bound(udp_socket());
    peer_ok("close");
    struct addr a = peer_addr(port);
    connect(fd, &a.sa, a.len);
    turn_on(fd, family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP, family == AF_INET6 ? IPV6_RECVERR : IP_RECVERR, 1);
    say_ret("empty", recv(fd, data, 10, MSG_ERRQUEUE));
    say_ret("send", send(fd, "question", 8, 0));
    say("events %s", events_name(wait_events_ms(fd, 0, 5000)));
    receive(fd, 512, MSG_ERRQUEUE);
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT, 0)));
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &v, &len);
    say("%s", errno_name(v));
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT, 0)));
    say_ret("empty", recv(fd, data, 10, MSG_ERRQUEUE));
}

CASE(error_queue_unconnected)
{
    int port = peer_number("udp");
    int fd = bound(udp_socket());
    peer_ok("close");
    struct addr a = peer_addr(port);
    turn_on(fd, family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP, family == AF_INET6 ? IPV6_RECVERR : IP_RECVERR, 1);
    say_ret("sendto", sendto(fd, "question", 8, 0, &a.sa, a.len));
    say("events %s", events_name(wait_events_ms(fd, 0, 5000)));
    say_ret("recv", recv(fd, data, 10, MSG_DONTWAIT));
    say_ret("recv", recv(fd, data, 10, MSG_DONTWAIT));
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT, 0)));
    receive(fd, 512, MSG_ERRQUEUE);
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT, 0)));
}

/* Messages about errors are left where they are: data still comes, a reader sleeps meanwhile, and time limits count. */
CASE(error_queue_unread)
{
    int port = peer_number("udp");
    int fd = bound(udp_socket());
    peer_ok("close");
    struct addr a = peer_addr(port);
    turn_on(fd, family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP, family == AF_INET6 ? IPV6_RECVERR : IP_RECVERR, 1);
    sendto(fd, "question", 8, 0, &a.sa, a.len);
    say("events %s", events_name(wait_events_ms(fd, 0, 5000)));
    say_ret("the error", recv(fd, data, 10, 0));
    struct timeval t = {0, 200000};
    struct timespec before, after;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    say_ret("time limit", recv(fd, data, 10, 0));
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    say("busy meanwhile: %d", (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 > 150);
    peer_number("udp");
    peer("after 50 sendto %d 7", port_of(fd));
    t.tv_sec = 5;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    say_data("recv", recv(fd, data, 100, 0), data);
    say("events %s", events_name(wait_events_ms(fd, POLLIN, 0)));
    receive(fd, 512, MSG_ERRQUEUE);
    say("events %s", events_name(wait_events_ms(fd, POLLIN, 0)));
}

CASE(error_queue_too_long)
{
    int fd = udp_pair(), mode = 2;
    if (family == AF_INET6) {
        setsockopt(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, &mode, sizeof mode);
        turn_on(fd, IPPROTO_IPV6, IPV6_RECVERR, 1);
    } else {
        setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &mode, sizeof mode);
        turn_on(fd, IPPROTO_IP, IP_RECVERR, 1);
    }
    say_ret("send", send(fd, data, 2000, 0));
    receive(fd, 512, MSG_ERRQUEUE | MSG_DONTWAIT);
    say_ret("send", send(fd, data, 20, 0));
    say_peer("recvfrom");
}

CASE_KERNEL(stamps_of_sending)
{
    int fd = udp_pair();
    turn_on(fd, SOL_SOCKET, SO_TIMESTAMPING, SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE);
    say_ret("send", send(fd, "timed", 5, 0));
    say_peer("recvfrom");
    say("events %s", events_name(wait_events_ms(fd, 0, 1000)));
    receive(fd, 512, MSG_ERRQUEUE);
}

CASE(dual_stack_messages)
{
    if (family == AF_INET6)
        return;
    int port = peer_number("udp");
    int fd = socket(AF_INET6, SOCK_DGRAM, 0);
    struct addr any = addr_of("::", 0), n = {.len = sizeof n.storage};
    bind(fd, &any.sa, any.len);
    getsockname(fd, &n.sa, &n.len);
    turn_on(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
    turn_on(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1);
    turn_on(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
    peer_ok("sendto %d 12", ntohs(n.in6.sin6_port));
    receive(fd, 512, 0);
    turn_on(fd, IPPROTO_IP, IP_PKTINFO, 1);
    turn_on(fd, IPPROTO_IP, IP_RECVTTL, 1);
    turn_on(fd, IPPROTO_IP, IP_RECVTOS, 1);
    peer_ok("sendto %d 12", ntohs(n.in6.sin6_port));
    receive(fd, 512, 0);
    (void)port;
}
