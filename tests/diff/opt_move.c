/* Options that only the kernel honours, set in mid-connection: the connection goes on, with what was unread. */
#include "diff.h"
#include <linux/errqueue.h>
#include <linux/filter.h>
#include <linux/tls.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

static char data[100000];

/* Data in both directions. */
static void talk(int fd, const char *when)
{
    say("%s", when);
    peer_ok("send 10");
    say_data("recv", recv(fd, data, 10, MSG_WAITALL), data);
    say_ret("send", send(fd, "abcdef", 6, 0));
    say_peer("recv 6");
}

static void go_on(int fd, int level, int name, const void *value, int len)
{
    talk(fd, "before");
    peer_ok("send 5");
    wait_bytes(fd, 5);
    say_ret("set", setsockopt(fd, level, name, value, len));
    say_data("unread", recv(fd, data, 5, MSG_WAITALL), data);
    talk(fd, "after");
    struct addr a = {.len = sizeof a.storage};
    say_ret("getpeername", getpeername(fd, &a.sa, &a.len));
    say("%s", addr_name(&a.sa, a.len));
    say("state %s", tcp_state(fd));
    peer_ok("send 3");
    peer_ok("shutdown w");
    wait_events(fd, POLLRDHUP);
    say_data("last", recv(fd, data, 10, MSG_WAITALL), data);
    say_ret("end", recv(fd, data, 10, 0));
    say_ret("send", send(fd, "bye", 3, 0));
    close(fd);
    say_peer("recvall");
}

static void both_ways(int level, int name, const void *value, int len)
{
    say("opened");
    go_on(active_pair(), level, name, value, len);
    say("accepted");
    go_on(passive_pair(), level, name, value, len);
}

#define INT_MOVE(NAME, LEVEL, OPTION, VALUE)                                                         \
    CASE_KERNEL(NAME)                                                                                \
    {                                                                                                \
        int v = VALUE;                                                                               \
        both_ways(LEVEL, OPTION, &v, sizeof v);                                                      \
    }

INT_MOVE(mark, SOL_SOCKET, SO_MARK, 5)
INT_MOVE(priority, SOL_SOCKET, SO_PRIORITY, 4)
INT_MOVE(pacing, SOL_SOCKET, SO_MAX_PACING_RATE, 10000000)
INT_MOVE(zerocopy, SOL_SOCKET, SO_ZEROCOPY, 1)
INT_MOVE(dontroute, SOL_SOCKET, SO_DONTROUTE, 1)
INT_MOVE(minttl, IPPROTO_IP, IP_MINTTL, 2)
INT_MOVE(recverr, family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP, family == AF_INET6 ? IPV6_RECVERR : IP_RECVERR, 1)
INT_MOVE(tx_delay, IPPROTO_TCP, 37, 1000)

DIFF_CASE(device, DIFF_KERNEL | DIFF_KNOWN_LOCAL, "bound to another device, a connection over the loopback stands still") { both_ways(SOL_SOCKET, SO_BINDTODEVICE, "eth0", 4); }

CASE_KERNEL(filter)
{
    struct sock_filter pass[] = {{BPF_RET | BPF_K, 0, 0, 0xffffffff}};
    struct sock_fprog program = {1, pass};
    both_ways(SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

CASE_KERNEL(unknown_upper_layer) { both_ways(IPPROTO_TCP, TCP_ULP, "nothing", 7); }

CASE_KERNEL(tls)
{
    int fd = active_pair();
    talk(fd, "before");
    int ret = setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 3);
    say_ret("ulp", ret);
    char name[16] = "";
    socklen_t len = sizeof name;
    say_ret("get", getsockopt(fd, IPPROTO_TCP, TCP_ULP, name, &len));
    say("'%s' len %d", name, (int)len);
    talk(fd, "after");
}

CASE_KERNEL(repair)
{
    int fd = active_pair(), on = 1, off = 0, queue = TCP_SEND_QUEUE, v = -1;
    socklen_t len = sizeof v;
    talk(fd, "before");
    say_ret("on", setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on));
    say_ret("queue", setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof queue));
    say_ret("get queue", getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &v, &len));
    say("%d", v);
    say_ret("get repair", getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &v, &len));
    say("%d", v);
    say_ret("off", setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof off));
    talk(fd, "after");
}

CASE_KERNEL(zerocopy_tells_when_it_is_done)
{
    int fd = active_pair(), on = 1;
    say_ret("set", setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on));
    say_ret("send", send(fd, data, 50000, MSG_ZEROCOPY));
    peer("recv 50000");
    wait_sent(fd);
    say("events %s", events_name(wait_events_ms(fd, 0, 3000)));
    _Alignas(16) char control[128];
    struct msghdr m = {.msg_control = control, .msg_controllen = sizeof control};
    say_ret("recvmsg", recvmsg(fd, &m, MSG_ERRQUEUE));
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (c) {
        struct sock_extended_err *e = (void *)CMSG_DATA(c);
        say("origin %d from %u to %u", e->ee_origin, e->ee_info, e->ee_data);
    }
    say_ret("no more", recvmsg(fd, &m, MSG_ERRQUEUE));
}

CASE(zerocopy_flag_without_the_option)
{
    int fd = active_pair();
    say_ret("send", send(fd, "abc", 3, MSG_ZEROCOPY));
    say_peer("recv 3");
}

/* A value that asks for nothing leaves the connection where it is. */
CASE(values_that_ask_for_nothing)
{
    int fd = active_pair(), zero = 0, want = 1;
    unsigned long unlimited = -1;
    say_ret("mark", setsockopt(fd, SOL_SOCKET, SO_MARK, &zero, sizeof zero));
    say_ret("priority", setsockopt(fd, SOL_SOCKET, SO_PRIORITY, &zero, sizeof zero));
    say_ret("pacing", setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &unlimited, sizeof unlimited));
    say_ret("zerocopy", setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &zero, sizeof zero));
    say_ret("mtu", setsockopt(fd, IPPROTO_IP, IP_MTU_DISCOVER, &want, sizeof want));
    say_ret("device", setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0));
    say_ret("repair", setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &zero, sizeof zero));
    talk(fd, "after");
}

CASE_KERNEL(listener_goes_on)
{
    int l = listening(), mark = 5;
    peer_ok("connect %d", port_of(l));
    wait_events(l, POLLIN);
    say_ret("set", setsockopt(l, SOL_SOCKET, SO_MARK, &mark, sizeof mark));
    peer_ok("connect %d", port_of(l));
    int first = say_fd("accept", accept(l, NULL, NULL));
    int second = say_fd("accept", accept(l, NULL, NULL));
    int v = -1;
    socklen_t len = sizeof v;
    getsockopt(second, SOL_SOCKET, SO_MARK, &v, &len);
    say("mark of the second %d", v);
    talk(second, "second");
    peer("use 0");
    talk(first, "first");
}

CASE_KERNEL(fresh_stays_with_the_kernel)
{
    int port = peer_number("listen"), mark = 5, v = -1;
    socklen_t len = sizeof v;
    int fd = tcp_socket();
    say_ret("mark", setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof mark));
    struct addr a = peer_addr(port);
    say_ret("connect", connect(fd, &a.sa, a.len));
    peer_ok("accept");
    getsockopt(fd, SOL_SOCKET, SO_MARK, &v, &len);
    say("mark %d", v);
    talk(fd, "then");
}
