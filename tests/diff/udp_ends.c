/* Datagrams: refusals, shutdown, binding, sharing of ports. */
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

CASE(refused)
{
    int port = peer_number("udp");
    int fd = bound(udp_socket());
    peer_ok("close");
    struct addr a = peer_addr(port);
    connect(fd, &a.sa, a.len);
    say_ret("send", send(fd, "x", 1, 0));
    say("events %s", events_name(wait_events_ms(fd, 0, 5000)));
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT, 0)));
    say_ret("recv", recv(fd, data, 10, MSG_DONTWAIT));
    say_ret("recv again", recv(fd, data, 10, MSG_DONTWAIT));
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT, 0)));
}

CASE(refused_told_by_send)
{
    int port = peer_number("udp");
    int fd = bound(udp_socket());
    peer_ok("close");
    struct addr a = peer_addr(port);
    connect(fd, &a.sa, a.len);
    say_ret("send", send(fd, "x", 1, 0));
    say("events %s", events_name(wait_events_ms(fd, 0, 5000)));
    say_ret("send", send(fd, "x", 1, 0));
    say_ret("send", send(fd, "x", 1, 0));
}

CASE(refused_told_by_so_error)
{
    int port = peer_number("udp"), v = -1;
    int fd = bound(udp_socket());
    socklen_t len = sizeof v;
    peer_ok("close");
    struct addr a = peer_addr(port);
    connect(fd, &a.sa, a.len);
    say_ret("send", send(fd, "x", 1, 0));
    say("events %s", events_name(wait_events_ms(fd, 0, 5000)));
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &v, &len);
    say("%s", errno_name(v));
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &v, &len);
    say("%s", errno_name(v));
    say_ret("recv", recv(fd, data, 10, MSG_DONTWAIT));
}

CASE(refused_wakes_a_reader)
{
    int port = peer_number("udp");
    int fd = bound(udp_socket());
    peer_ok("close");
    struct addr a = peer_addr(port);
    connect(fd, &a.sa, a.len);
    struct timeval limit = {3, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    say_ret("send", send(fd, "x", 1, 0));
    say_ret("recv", recv(fd, data, 10, 0));
}

CASE(not_refused_when_unconnected)
{
    int port = peer_number("udp");
    int fd = bound(udp_socket());
    peer_ok("close");
    say_ret("sendto", to_peer(fd, port, 3, 0));
    usleep(50000);
    say_ret("recv", recv(fd, data, 10, MSG_DONTWAIT));
    say_ret("sendto", to_peer(fd, port, 3, 0));
}

CASE(shutdowns)
{
    int fd = bound(udp_socket());
    say_ret("unconnected", shutdown(fd, SHUT_RDWR));
    fd = udp_pair();
    send(fd, "x", 1, 0);
    peer("recvfrom");
    peer_ok("reply 5");
    wait_events(fd, POLLIN);
    say_ret("bad how", shutdown(fd, 7));
    say_ret("read", shutdown(fd, SHUT_RD));
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT | POLLRDHUP, 0)));
    say_data("queued", recv(fd, data, 10, 0), data);
    say_ret("then", recv(fd, data, 10, 0));
    say_ret("send", send(fd, "x", 1, MSG_NOSIGNAL));
    say_ret("write", shutdown(fd, SHUT_WR));
    say_ret("send", send(fd, "x", 1, MSG_NOSIGNAL));
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT | POLLRDHUP, 0)));
}

CASE(shut_for_reading_still_receives)
{
    int fd = udp_pair();
    say_ret("send", send(fd, "abc", 3, 0));
    say_peer("recvfrom");
    say_ret("shutdown", shutdown(fd, SHUT_RD));
    peer_ok("reply 10");
    usleep(50000);
    say_data("recv", recv(fd, data, sizeof data, MSG_DONTWAIT), data);
    say_ret("recv", recv(fd, data, sizeof data, MSG_DONTWAIT));
    peer_ok("reply 20");
    usleep(50000);
    say_data("recv that could wait", recv(fd, data, sizeof data, 0), data);
    say_ret("nothing left", recv(fd, data, sizeof data, 0));
}

CASE(shutdown_wakes_a_reader)
{
    int fd = udp_pair();
    if (fork() == 0) {
        usleep(100000);
        shutdown(fd, SHUT_RD);
        _exit(0);
    }
    say_ret("recv", recv(fd, data, 10, 0));
    wait(NULL);
}

CASE(binding)
{
    int fd = udp_socket();
    struct addr a = my_addr(0), n = {.len = sizeof n.storage};
    say_ret("bind", bind(fd, &a.sa, a.len));
    say_ret("again", bind(fd, &a.sa, a.len));
    getsockname(fd, &n.sa, &n.len);
    say("%s", addr_name(&n.sa, n.len));
    a = my_addr(port_of(fd));
    int other = udp_socket();
    say_ret("taken", bind(other, &a.sa, a.len));
    a = any_addr(port_of(fd));
    say_ret("taken, any address", bind(other, &a.sa, a.len));
    a = peer_addr(0);
    say_ret("not ours", bind(other, &a.sa, a.len));
    a = my_addr(0);
    say_ret("short", bind(other, &a.sa, 3));
    close(fd);
    a = my_addr(0);
    say_ret("free", bind(other, &a.sa, a.len));
}

CASE(any_address)
{
    int port = peer_number("udp");
    int fd = udp_socket();
    struct addr a = any_addr(0);
    bind(fd, &a.sa, a.len);
    peer_ok("sendto %d 11", port_of(fd));
    struct addr n = {.len = sizeof n.storage};
    say_data("recv", recvfrom(fd, data, 100, 0, &n.sa, &n.len), data);
    say("%s", addr_name(&n.sa, n.len));
    say_ret("sendto", to_peer(fd, port, 5, 0));
    say_peer("recvfrom");
}

CASE(address_reuse)
{
    int port = peer_number("udp"), one = 1;
    int first = udp_socket(), second = udp_socket();
    setsockopt(first, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(second, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct addr a = my_addr(0);
    say_ret("first", bind(first, &a.sa, a.len));
    a = my_addr(port_of(first));
    say_ret("second", bind(second, &a.sa, a.len));
    peer_ok("sendto %d 5", port_of(first));
    struct pollfd p[2] = {{.fd = first, .events = POLLIN}, {.fd = second, .events = POLLIN}};
    say_ret("poll", poll(p, 2, 2000));
    say("first %s second %s", events_name(p[0].revents), events_name(p[1].revents));
    close(second);
    peer_ok("sendto %d 6", port_of(first));
    p[1].fd = -1;
    say_ret("poll", poll(p, 2, 2000));
    while (recv(first, data, 100, MSG_DONTWAIT) > 0)
        say("one");
    (void)port;
}

CASE_KERNEL(port_reuse_group)
{
    int one = 1, got = 0;
    int fds[3];
    struct addr a = my_addr(0);
    for (int i = 0; i < 3; i++) {
        fds[i] = udp_socket();
        setsockopt(fds[i], SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
        say_ret("bind", bind(fds[i], &a.sa, a.len));
        a = my_addr(port_of(fds[0]));
    }
    for (int i = 0; i < 12; i++) {
        peer("udp");
        peer_ok("sendto %d 5", port_of(fds[0]));
    }
    usleep(50000);
    for (int i = 0; i < 3; i++)
        while (recv(fds[i], data, 100, MSG_DONTWAIT) > 0)
            got++;
    say("%d received", got);
}
