/*
 * What a socket keeps of the time before its connection, and what can be done with it afterwards. diff: modes=v4,v6
 */
#include "diff.h"

static void say_name(int fd)
{
    struct addr a = {.len = sizeof a.storage};
    int ret = getsockname(fd, &a.sa, &a.len);
    say("name %s", ret ? errno_name(errno) : addr_name(&a.sa, a.len));
}

static void say_events(int fd)
{
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT | POLLRDHUP, 0)));
}

/* connect to AF_UNSPEC opens again what was shut down. */
CASE(dissolved_after_shutdown)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    int fd = tcp_socket(), port = peer_number("listen");
    say_ret("shutdown", shutdown(fd, SHUT_RDWR));
    say_ret("dissolve", connect(fd, &none, sizeof none));
    struct addr a = peer_addr(port);
    say_ret("connect", connect(fd, &a.sa, a.len));
    peer_ok("accept");
    say_events(fd);
    say_ret("send", send(fd, "abc", 3, MSG_NOSIGNAL));
    say_peer("recv 3");
}

/* A child takes what its listener had shut down before it listened: the FIN follows the handshake. */
CASE(child_of_a_shut_listener)
{
    int l = bound(tcp_socket());
    say_ret("shutdown", shutdown(l, SHUT_WR));
    say_ret("listen", listen(l, 5));
    peer_ok("connect %d", port_of(l));
    int fd = accept(l, NULL, NULL);
    say_peer("wait CLOSE_WAIT");
    wait_state(fd, "FIN_WAIT2");
    say_events(fd);
    say_ret("send", send(fd, "abc", 3, MSG_NOSIGNAL));
}

/* The same with the other direction: it reads the end at once, and may send. */
CASE(child_of_a_listener_shut_for_reading)
{
    char buf[10];
    int l = bound(tcp_socket());
    say_ret("shutdown", shutdown(l, SHUT_RD));
    say_ret("listen", listen(l, 5));
    peer_ok("connect %d", port_of(l));
    int fd = accept(l, NULL, NULL);
    say_events(fd);
    say_ret("recv", recv(fd, buf, sizeof buf, MSG_DONTWAIT));
    say_ret("send", send(fd, "abc", 3, MSG_NOSIGNAL));
    say_peer("recv 3");
    peer_ok("send 2");
    wait_bytes(fd, 2);
    say_events(fd);
    say_ret("recv", recv(fd, buf, sizeof buf, MSG_DONTWAIT));
    say_ret("recv", recv(fd, buf, sizeof buf, MSG_DONTWAIT));
}

/* Once connect has said that it is done, the socket is connected also when it is reset. */
CASE(connect_after_a_reset_that_connect_has_told)
{
    int fd = tcp_socket(), port = peer_number("listen");
    nonblocking(fd);
    struct addr a = peer_addr(port);
    say_ret("connect", connect(fd, &a.sa, a.len));
    wait_events(fd, POLLOUT);
    say_ret("connect", connect(fd, &a.sa, a.len));
    peer_ok("accept");
    peer_ok("rst");
    wait_events(fd, POLLHUP);
    say_ret("connect", connect(fd, &a.sa, a.len));
    say_events(fd);
    say_ret("connect", connect(fd, &a.sa, a.len));
}

static void end_it(int fd)
{
    say_ret("shutdown", shutdown(fd, SHUT_WR));
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE");
}

static void bind_it_anew(int fd)
{
    struct addr any = any_addr(0);
    say_name(fd);
    say_ret("bind", bind(fd, &any.sa, any.len));
    say_name(fd);
    say_ret("bind again", bind(fd, &any.sa, any.len));
    say_ret("connect", connect(fd, &any.sa, any.len));
    say_ret("listen", listen(fd, 5));
}

CASE(bind_after_the_end_active)
{
    int fd = active_pair();
    end_it(fd);
    bind_it_anew(fd);
}

CASE(bind_after_the_end_passive)
{
    int fd = passive_pair();
    end_it(fd);
    bind_it_anew(fd);
}

/* The port was the kernel's choice at bind: a refused connect gives it back. */
CASE(bind_after_a_refusal)
{
    int fd = bound(tcp_socket());
    struct addr a = peer_addr(9);
    say_ret("connect", connect(fd, &a.sa, a.len));
    say_name(fd);
    a = my_addr(0);
    say_ret("bind", bind(fd, &a.sa, a.len));
    say_ret("bind again", bind(fd, &a.sa, a.len));
    say_name(fd);
}

/* The same with a port that the program named. */
CASE(bind_after_a_refusal_named)
{
    int fd = bound(tcp_socket()), port = port_of(fd);
    close(fd);
    fd = tcp_socket();
    struct addr a = my_addr(port), to = peer_addr(9);
    say_ret("bind", bind(fd, &a.sa, a.len));
    say_ret("connect", connect(fd, &to.sa, to.len));
    a = my_addr(0);
    say_ret("bind", bind(fd, &a.sa, a.len));
    say("the port is kept: %d", port_of(fd) == port);
}

/* What was bound between a refusal and its dissolution stays bound. */
CASE(bind_between_refusal_and_dissolution)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    int fd = tcp_socket();
    nonblocking(fd);
    struct addr to = peer_addr(9), a = my_addr(0);
    say_ret("connect", connect(fd, &to.sa, to.len));
    say("events %s", events_name(wait_events(fd, POLLOUT)));
    say_ret("bind", bind(fd, &a.sa, a.len));
    say_name(fd);
    say_ret("dissolve", connect(fd, &none, sizeof none));
    say_name(fd);
    say_ret("bind again", bind(fd, &a.sa, a.len));
    say_ret("connect", connect(fd, &to.sa, to.len));
    say("events %s", events_name(wait_events(fd, POLLOUT)));
}
