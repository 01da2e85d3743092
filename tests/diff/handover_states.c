/* Sockets that move to the kernel because the program wants what only the kernel does: nothing else may change.
   diff: modes=v4,v6,xdp */
#include "diff.h"
#include <linux/filter.h>

static char buf[400000];

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

/* Something that the stack does not do. */
static void move(int fd)
{
    say_ret("SO_ZEROCOPY", setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, sizeof(int)));
}

static void both_ways(int fd)
{
    peer_ok("send 10");
    wait_bytes(fd, 10);
    say_data("recv", recv(fd, buf, sizeof buf, 0), buf);
    fill_pattern(buf, 0, 20);
    say_ret("send", send(fd, buf, 20, 0));
    say_peer("recv 20");
}

static void whole_life(int fd)
{
    both_ways(fd);
    move(fd);
    both_ways(fd);
    say("state %s", tcp_state(fd));
    peer_ok("shutdown w");
    say("events %s", events_name(wait_events(fd, POLLIN | POLLRDHUP)));
    say_ret("recv at the end", recv(fd, buf, sizeof buf, 0));
    say_ret("send", send(fd, "bye", 3, 0));
    say_ret("close", close(fd));
    say_peer("recvall");
}

CASE(active) { whole_life(active_pair()); }
CASE(passive) { whole_life(passive_pair()); }

CASE(with_unread_data)
{
    int fd = active_pair();
    peer_ok("send 100000");
    wait_bytes(fd, 60000);
    say_data("recv", recv(fd, buf, 1000, 0), buf);
    move(fd);
    long got = 1000, n = 1;
    while (got < 100000 && (n = recv(fd, buf + got, sizeof buf - got, 0)) > 0)
        got += n;
    say_data("all", got, buf);
}

CASE(with_unsent_data)
{
    int fd = passive_pair();
    fill_pattern(buf, 0, sizeof buf);
    nonblocking(fd);
    long sent = 0, n;
    while (sent < 400000 && (n = send(fd, buf + sent, sizeof buf - sent, 0)) > 0)
        sent += n;
    move(fd);
    fcntl(fd, F_SETFL, 0);
    peer_ok("after 0 recv 400000");
    while (sent < 400000 && (n = send(fd, buf + sent, sizeof buf - sent, 0)) > 0)
        sent += n;
    say("sent %ld", sent);
    close(fd);
    say_peer("recvall");
}

CASE(after_shutdown)
{
    int fd = active_pair();
    send(fd, "last", 4, 0);
    say_ret("shutdown", shutdown(fd, SHUT_WR));
    move(fd);
    say_peer("recvall");
    peer_ok("send 5");
    say_data("recv", recv(fd, buf, 5, MSG_WAITALL), buf);
    peer_ok("close");
    say_ret("recv", recv(fd, buf, 10, 0));
    signal(SIGPIPE, SIG_IGN);
    say_ret("send", send(fd, "x", 1, 0));
}

CASE(in_fin_wait_2)
{
    int fd = active_pair();
    shutdown(fd, SHUT_WR);
    say_peer("recvall");
    wait_state(fd, "FIN_WAIT2");
    move(fd);
    peer_ok("send 5");
    say_data("recv", recv(fd, buf, 10, 0), buf);
    peer_ok("close");
    say_ret("recv", recv(fd, buf, 10, 0));
}

CASE(in_close_wait)
{
    int fd = passive_pair();
    peer_ok("send 3");
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE_WAIT");
    move(fd);
    say_data("recv", recv(fd, buf, 10, 0), buf);
    say_ret("recv", recv(fd, buf, 10, 0));
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT | POLLRDHUP, 100)));
    say("state %s", tcp_state(fd));
    say_ret("send", send(fd, "abc", 3, 0));
    close(fd);
    say_peer("recvall");
}

CASE(reset_afterwards)
{
    int fd = active_pair();
    move(fd);
    peer_ok("rst");
    say("events %s", events_name(wait_events(fd, POLLIN)));
    say_ret("recv", recv(fd, buf, 10, 0));
    say_ret("recv", recv(fd, buf, 10, 0));
}

CASE(unread_data_resets)
{
    int fd = active_pair();
    peer_ok("send 100");
    wait_bytes(fd, 100);
    move(fd);
    close(fd);
    say_peer("recvall");
}

CASE(options_survive)
{
    int fd = active_pair(), v;
    struct linger l = {1, 7};
    struct timeval t = {3, 250000}, got;
    static const struct { int level, name; const char *text; int value; } list[] = {
        {IPPROTO_TCP, TCP_NODELAY, "nodelay", 1}, {SOL_SOCKET, SO_KEEPALIVE, "keepalive", 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, "keepidle", 77}, {IPPROTO_TCP, TCP_KEEPINTVL, "keepintvl", 7},
        {IPPROTO_TCP, TCP_KEEPCNT, "keepcnt", 5}, {SOL_SOCKET, SO_RCVBUF, "rcvbuf", 50000},
        {SOL_SOCKET, SO_SNDBUF, "sndbuf", 60000}, {SOL_SOCKET, SO_RCVLOWAT, "rcvlowat", 1},
        {SOL_SOCKET, SO_OOBINLINE, "oobinline", 1}, {IPPROTO_TCP, TCP_USER_TIMEOUT, "user timeout", 5000},
        {IPPROTO_TCP, TCP_LINGER2, "linger2", 9}, {SOL_SOCKET, SO_REUSEADDR, "reuseaddr", 1},
        {SOL_SOCKET, SO_PRIORITY, "priority", 3}};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        say_ret(list[i].text, setsockopt(fd, list[i].level, list[i].name, &list[i].value, sizeof(int)));
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    move(fd);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        socklen_t len = sizeof v;
        getsockopt(fd, list[i].level, list[i].name, &v, &len);
        say("%s %d", list[i].text, v);
    }
    socklen_t len = sizeof l;
    getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len);
    say("linger %d %d", l.l_onoff, l.l_linger);
    len = sizeof got;
    getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &got, &len);
    say("rcvtimeo %ld %ld", (long)got.tv_sec, (long)got.tv_usec);
    both_ways(fd);
}

CASE(options_of_the_listener_survive)
{
    int l = bound(tcp_socket()), one = 1, v;
    setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(l, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    setsockopt(l, SOL_SOCKET, SO_RCVBUF, &(int){70000}, sizeof(int));
    listen(l, 5);
    peer_ok("connect %d", port_of(l));
    int fd = accept(l, NULL, NULL);
    move(fd);
    socklen_t len = sizeof v;
    getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &v, &len);
    say("nodelay %d", v);
    getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &v, &len);
    say("keepalive %d", v);
    getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &v, &len);
    say("rcvbuf %d", v);
    struct addr a = {.len = sizeof a.storage};
    say_ret("getsockname", getsockname(fd, &a.sa, &a.len));
    say("%s, port of the listener %d", addr_name(&a.sa, a.len), port_of(fd) == port_of(l));
    a.len = sizeof a.storage;
    say_ret("getpeername", getpeername(fd, &a.sa, &a.len));
    say("%s", addr_name(&a.sa, a.len));
    both_ways(fd);
}

CASE(names)
{
    int fd = active_pair(), port = port_of(fd);
    struct addr a = {.len = sizeof a.storage}, b = {.len = sizeof b.storage};
    getpeername(fd, &a.sa, &a.len);
    move(fd);
    say_ret("getpeername", getpeername(fd, &b.sa, &b.len));
    say("same %d %d", a.len == b.len && !memcmp(&a, &b, a.len), port == port_of(fd));
    a = peer_addr(1);
    say_ret("connect again", connect(fd, &a.sa, a.len));
    say_ret("listen", listen(fd, 1));
}

CASE(attach_filter)
{
    int fd = active_pair();
    struct sock_filter all[] = {{BPF_RET | BPF_K, 0, 0, 0xffff}}, none[] = {{BPF_RET | BPF_K, 0, 0, 0}};
    struct sock_fprog take = {1, all}, drop = {1, none};
    say_ret("attach", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &take, sizeof take));
    both_ways(fd);
    say_ret("attach", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &drop, sizeof drop));
    peer_ok("send 3");
    say("events %s", events_name(wait_events_ms(fd, POLLIN, 100)));
    say_ret("detach", setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, sizeof(int)));
    say_data("recv", recv(fd, buf, 10, 0), buf);
}

CASE_KERNEL(udp_filter)
{
    int fd = udp_pair();
    struct sock_filter none[] = {{BPF_RET | BPF_K, 0, 0, 0}};
    struct sock_fprog drop = {1, none};
    say_ret("send", send(fd, "hello", 5, 0));
    say_peer("recvfrom");
    say_ret("attach", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &drop, sizeof drop));
    peer_ok("reply 30");
    say("events %s", events_name(wait_events_ms(fd, POLLIN, 100)));
    say_ret("detach", setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, sizeof(int)));
    say_ret("send", send(fd, "again", 5, 0));
    say_peer("recvfrom");
    peer_ok("reply 31");
    say_data("recv", recv(fd, buf, sizeof buf, 0), buf);
}

CASE(ulp)
{
    int fd = active_pair(), l = listening();
    say_ret("unknown", setsockopt(fd, IPPROTO_TCP, TCP_ULP, "nonsense", 8));
    both_ways(fd);
    say_ret("listener", setsockopt(l, IPPROTO_TCP, TCP_ULP, "nonsense", 8));
}

CASE_KERNEL(listener_goes_on)
{
    int l = listening();
    peer_ok("connect %d", port_of(l));
    int first = accept(l, NULL, NULL);
    peer_ok("connect %d", port_of(l));
    say("events %s", events_name(wait_events(l, POLLIN)));
    move(l);
    int second = accept(l, NULL, NULL);
    say("accepted %d %d", first >= 0, second >= 0);
    both_ways(second);
    peer_ok("connect %d", port_of(l));
    int third = accept(l, NULL, NULL);
    both_ways(third);
    say_ret("close", close(third));
    say_peer("recvall");
}

CASE(copies_and_children_see_it)
{
    int fd = active_pair(), d = dup(fd);
    pid_t child = fork();
    if (child == 0) {
        usleep(100000);
        send(fd, "child", 5, 0);
        _exit(0);
    }
    move(d);
    waitpid(child, NULL, 0);
    say_peer("recv 5");
    close(d);
    both_ways(fd);
    close(fd);
    say_peer("recvall");
}

static void *move_later(void *fd)
{
    usleep(50000);
    setsockopt((int)(intptr_t)fd, SOL_SOCKET, SO_ZEROCOPY, &(int){1}, sizeof(int));
    peer_ok("send 6");
    return NULL;
}

static pthread_t later(int fd)
{
    pthread_t t;
    pthread_create(&t, NULL, move_later, (void *)(intptr_t)fd);
    return t;
}

CASE(blocked_in_recv)
{
    int fd = active_pair();
    pthread_t t = later(fd);
    say_data("recv", recv(fd, buf, 100, 0), buf);
    pthread_join(t, NULL);
}

CASE(blocked_in_poll)
{
    int fd = passive_pair(), other = active_pair();
    pthread_t t;
    struct pollfd p[3] = {{other, POLLIN, 0}, {fd, POLLIN, 0}, {-1, 0, 0}};
    t = later(other);
    say_ret("poll", poll(p, 3, 5000));
    say("%s %s", events_name(p[0].revents), events_name(p[1].revents));
    pthread_join(t, NULL);
}

CASE(blocked_in_select)
{
    int fd = active_pair();
    fd_set r, w;
    FD_ZERO(&r);
    FD_ZERO(&w);
    FD_SET(fd, &r);
    pthread_t t = later(fd);
    say_ret("select", select(fd + 1, &r, &w, NULL, &(struct timeval){5, 0}));
    say("%d", FD_ISSET(fd, &r));
    pthread_join(t, NULL);
}

static void in_epoll(unsigned how)
{
    int fd = active_pair(), ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN | how, .data.u64 = 0x1122334455667788}, got[4];
    say_ret("add", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    pthread_t t = later(fd);
    int n = epoll_wait(ep, got, 4, 5000);
    say("%d %s %llx", n, events_name(got[0].events), (unsigned long long)got[0].data.u64);
    pthread_join(t, NULL);
    say_ret("again", epoll_wait(ep, got, 4, 50));
    say_data("recv", recv(fd, buf, 100, 0), buf);
    say_ret("empty", epoll_wait(ep, got, 4, 50));
    peer_ok("send 2");
    wait_bytes(fd, 2);
    say_ret("more", epoll_wait(ep, got, 4, how & EPOLLONESHOT ? 50 : 1000));
    e.events = EPOLLOUT;
    say_ret("mod", epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e));
    say_ret("writable", epoll_wait(ep, got, 4, 1000));
    say_ret("add again", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    say_ret("del", epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL));
    say_ret("nothing", epoll_wait(ep, got, 4, 50));
}

CASE(epoll_level) { in_epoll(0); }
CASE(epoll_edge) { in_epoll(EPOLLET); }
CASE(epoll_oneshot) { in_epoll(EPOLLONESHOT); }

CASE(epoll_oneshot_fired)
{
    int fd = active_pair(), ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 5}, got[4];
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    peer_ok("send 1");
    say_ret("fired", epoll_wait(ep, got, 4, 1000));
    move(fd);
    say_ret("not armed", epoll_wait(ep, got, 4, 50));
    say_ret("mod", epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e));
    say_ret("armed", epoll_wait(ep, got, 4, 1000));
    say("data %d", (int)got[0].data.u64);
}

static void *write_all(void *fd)
{
    fill_pattern(buf, 0, sizeof buf);
    return (void *)(intptr_t)send((int)(intptr_t)fd, buf, sizeof buf, 0);
}

CASE(blocked_in_send)
{
    int fd = active_pair();
    pthread_t t;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &(int){20000}, sizeof(int));
    pthread_create(&t, NULL, write_all, (void *)(intptr_t)fd);
    usleep(100000);
    move(fd);
    peer_ok("after 0 recv 400000");
    void *sent;
    pthread_join(t, &sent);
    say("sent %ld", (long)(intptr_t)sent);
    close(fd);
    say_peer("recvall");
}
