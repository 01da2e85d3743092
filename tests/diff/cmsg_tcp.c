/* Control messages and odd reads of streams. */
#include "diff.h"
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>

static char data[4000];

static long receive(int fd, int room, int want, int flags)
{
    _Alignas(16) char control[256];
    struct iovec v = {data, want};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room ? control : NULL, .msg_controllen = room};
    long n = recvmsg(fd, &m, flags);
    if (n < 0)
        return say_ret("recvmsg", n);
    say("%ld bytes, flags %x, control %d", n, m.msg_flags, (int)m.msg_controllen);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        int len = c->cmsg_len - CMSG_LEN(0), value = 0;
        memcpy(&value, CMSG_DATA(c), len < 4 ? len : 4);
        if (c->cmsg_level == SOL_SOCKET)
            say("  stamp %d len %d", c->cmsg_type, len);
        else
            say("  level %d type %d len %d value %d", c->cmsg_level, c->cmsg_type, len, value);
    }
    return n;
}

static void option(int fd, int level, int name, int v)
{
    if (setsockopt(fd, level, name, &v, sizeof v))
        say("option %d %d: %s", level, name, errno_name(errno));
}

static void stamps(int name, int v)
{
    /* Linux switches stamping on a moment after the first socket asks for it. */
    int first = tcp_socket();
    option(first, SOL_SOCKET, name, v);
    usleep(100000);
    int fd = active_pair();
    option(fd, SOL_SOCKET, name, v);
    peer_ok("send 20");
    wait_bytes(fd, 20);
    receive(fd, 256, 5, 0);
    receive(fd, 256, 5, MSG_PEEK);
    receive(fd, 17, 5, 0);
    receive(fd, 0, 5, 0);
    receive(fd, 256, 0, 0);
    receive(fd, 256, 5, MSG_DONTWAIT);
    receive(fd, 256, 5, MSG_DONTWAIT);
    peer_ok("shutdown w");
    wait_events(fd, POLLRDHUP);
    receive(fd, 256, 5, 0);
    close(fd);
}

CASE(timestamp) { stamps(SO_TIMESTAMP, 1); }
CASE(timestampns) { stamps(SO_TIMESTAMPNS, 1); }
CASE(timestamp_new) { stamps(63, 1); }
CASE(timestampns_new) { stamps(64, 1); }
CASE(timestamping) { stamps(SO_TIMESTAMPING, SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE); }

CASE(inq)
{
    int fd = passive_pair();
    option(fd, IPPROTO_TCP, TCP_INQ, 1);
    peer_ok("send 100");
    wait_bytes(fd, 100);
    receive(fd, 256, 10, 0);
    receive(fd, 256, 10, MSG_PEEK);
    receive(fd, 18, 10, 0);
    receive(fd, 0, 10, 0);
    receive(fd, 256, 70, 0);
    receive(fd, 256, 1, MSG_DONTWAIT);
    peer_ok("send 5");
    peer_ok("shutdown w");
    wait_events(fd, POLLRDHUP);
    receive(fd, 256, 3, 0);
    receive(fd, 256, 3, 0);
    receive(fd, 256, 3, 0);
    option(fd, IPPROTO_TCP, TCP_INQ, 0);
    receive(fd, 256, 3, 0);
}

CASE(inq_with_stamps_inherited)
{
    int l = listening();
    option(l, IPPROTO_TCP, TCP_INQ, 1);
    option(l, SOL_SOCKET, SO_TIMESTAMPNS, 1);
    usleep(100000);
    peer_ok("connect %d", port_of(l));
    int fd = accept(l, NULL, NULL);
    peer_ok("send 30");
    wait_bytes(fd, 30);
    receive(fd, 256, 10, 0);
    receive(fd, 256, 20, 0);
}

CASE(error_queue_is_empty)
{
    int fd = active_pair();
    receive(fd, 256, 10, MSG_ERRQUEUE);
    peer_ok("send 3");
    wait_bytes(fd, 3);
    receive(fd, 256, 10, MSG_ERRQUEUE);
    receive(fd, 256, 10, 0);
}

CASE(ip_messages_are_not_for_streams)
{
    int fd = active_pair();
    option(fd, IPPROTO_IP, IP_PKTINFO, 1);
    option(fd, IPPROTO_IP, IP_RECVTTL, 1);
    option(fd, IPPROTO_IP, IP_RECVTOS, 1);
    peer_ok("send 3");
    wait_bytes(fd, 3);
    receive(fd, 256, 10, 0);
}

CASE(peek_offset)
{
    int fd = active_pair(), off = -1;
    socklen_t len = sizeof off;
    option(fd, SOL_SOCKET, SO_PEEK_OFF, 2);
    peer_ok("send 20");
    wait_bytes(fd, 20);
    for (int i = 0; i < 3; i++)
        say_data("peek", recv(fd, data, 4, MSG_PEEK), data);
    getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, &len);
    say("offset %d", off);
    say_data("read", recv(fd, data, 5, 0), data);
    getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, &len);
    say("offset %d", off);
    say_data("peek", recv(fd, data, 100, MSG_PEEK), data);
    say_ret("peek at the end", recv(fd, data, 100, MSG_PEEK | MSG_DONTWAIT));
    say_data("read", recv(fd, data, 100, 0), data);
    getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &off, &len);
    say("offset %d", off);
    option(fd, SOL_SOCKET, SO_PEEK_OFF, -1);
    peer_ok("send 6");
    wait_bytes(fd, 6);
    say_data("peek", recv(fd, data, 3, MSG_PEEK), data);
    say_data("peek", recv(fd, data, 3, MSG_PEEK), data);
}

CASE(low_water_mark)
{
    int fd = active_pair();
    option(fd, SOL_SOCKET, SO_RCVLOWAT, 10);
    peer_ok("send 5");
    wait_bytes(fd, 5);
    say("events %s", events_name(wait_events_ms(fd, POLLIN, 0)));
    say_data("nonblocking", recv(fd, data, 3, MSG_DONTWAIT), data);
    peer("after 50 send 20");
    long n = recv(fd, data, 100, 0);
    say("at least the mark: %d", n >= 10);
    while (n < 22 && n > 0)
        n += recv(fd, data, 1, 0);
    peer_ok("shutdown w");
    wait_events(fd, POLLRDHUP);
    say_ret("end", recv(fd, data, 100, 0));
}

CASE(low_water_mark_and_the_end)
{
    int fd = active_pair();
    option(fd, SOL_SOCKET, SO_RCVLOWAT, 50);
    peer_ok("send 5");
    wait_bytes(fd, 5);
    peer("after 50 shutdown w");
    say_data("recv", recv(fd, data, 100, 0), data);
    say_ret("recv", recv(fd, data, 100, 0));
}

CASE(low_water_mark_and_a_time_limit)
{
    int fd = active_pair();
    struct timeval t = {0, 100000};
    option(fd, SOL_SOCKET, SO_RCVLOWAT, 50);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    peer_ok("send 5");
    wait_bytes(fd, 5);
    say_data("recv", recv(fd, data, 100, 0), data);
    say_ret("recv", recv(fd, data, 100, 0));
}

CASE(send_messages_on_a_stream)
{
    int fd = active_pair(), v = 5;
    _Alignas(16) char control[CMSG_SPACE(4)];
    struct iovec io = {"abc", 3};
    static const int kinds[][2] = {{IPPROTO_IP, IP_TTL}, {SOL_SOCKET, SO_MARK}, {SOL_SOCKET, 77}, {4711, 1}, {IPPROTO_TCP, 1}};
    for (int i = 0; i < 5; i++) {
        struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        *c = (struct cmsghdr){.cmsg_level = kinds[i][0], .cmsg_type = kinds[i][1], .cmsg_len = CMSG_LEN(4)};
        memcpy(CMSG_DATA(c), &v, 4);
        say("%d %d: %s", kinds[i][0], kinds[i][1], sendmsg(fd, &m, 0) < 0 ? errno_name(errno) : "sent");
    }
    struct msghdr m = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    CMSG_FIRSTHDR(&m)->cmsg_len = 5;
    say_ret("bad length", sendmsg(fd, &m, 0));
}
