/* The suite's own vocabulary: pairs of both kinds, data both ways, the peer's commands. diff: modes=v4,v6,xdp */
#include "diff.h"

static char buf[200000];

static void both_ways(int fd)
{
    peer_ok("send 10");
    wait_bytes(fd, 10);
    say_data("recv", recv(fd, buf, sizeof buf, 0), buf);
    fill_pattern(buf, 0, 20);
    say_ret("send", send(fd, buf, 20, 0));
    say_peer("recv 20");
    peer_ok("shutdown w");
    say("events %s", events_name(wait_events(fd, POLLIN | POLLRDHUP)));
    say_ret("recv at the end", recv(fd, buf, sizeof buf, 0));
    say_ret("close", close(fd));
    say_peer("recvall");
}

CASE(active) { both_ways(active_pair()); }
CASE(passive) { both_ways(passive_pair()); }

CASE(bulk)
{
    int fd = active_pair();
    peer_ok("after 0 send 200000");
    long got = 0, n;
    while (got < 200000 && (n = recv(fd, buf + got, sizeof buf - got, 0)) > 0)
        got += n;
    say_data("recv", got, buf);
    fill_pattern(buf, 0, sizeof buf);
    peer_ok("after 0 recv 200000");
    say_ret("send", send(fd, buf, sizeof buf, 0));
    close(fd);
    say_peer("recvall");
}

CASE(datagrams)
{
    int fd = udp_pair();
    say_ret("send", send(fd, "hello", 5, 0));
    say_peer("recvfrom");
    peer_ok("reply 30");
    say_data("recv", recv(fd, buf, sizeof buf, 0), buf);
}

CASE(reset)
{
    int fd = active_pair();
    peer_ok("rst");
    say("events %s", events_name(wait_events(fd, POLLIN)));
    say_ret("recv", recv(fd, buf, 10, 0));
    say_ret("recv again", recv(fd, buf, 10, 0));
}

CASE_KERNEL(over_loopback)
{
    int l = tcp_socket(), fd = tcp_socket();
    struct addr a = loopback_addr(0);
    say_ret("bind", bind(l, &a.sa, a.len));
    say_ret("listen", listen(l, 1));
    a = loopback_addr(port_of(l));
    say_ret("connect", connect(fd, &a.sa, a.len));
    int c = say_fd("accept", accept(l, NULL, NULL));
    say_ret("send", send(c, "x", 1, 0));
    say_data("recv", recv(fd, buf, 10, 0), buf);
}
