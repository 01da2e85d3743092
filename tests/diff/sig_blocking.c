/* A handler interrupts each blocking call: EINTR, a restart, or what was done so far. */
#include "sig.h"

/* SIGALRM after 60 ms, once, with these flags. */
static void soon(int flags)
{
    hits = 0;
    handle(SIGALRM, count, flags);
    alarm_in(60);
}

static void tell(void) { say("handler ran %d", (int)hits); }

static void receives(int flags)
{
    int fd = active_pair();
    struct iovec v = {buf, 100};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = m};
    for (int call = 0; call < 6; call++) {
        if (flags & SA_RESTART)
            peer_ok("after 150 send 10");
        soon(flags);
        switch (call) {
        case 0: say_data("recv", recv(fd, buf, 100, 0), buf); break;
        case 1: say_data("read", read(fd, buf, 100), buf); break;
        case 2: say_data("readv", readv(fd, &v, 1), buf); break;
        case 3: say_data("recvfrom", recvfrom(fd, buf, 100, 0, NULL, NULL), buf); break;
        case 4: say_data("recvmsg", recvmsg(fd, &m, 0), buf); break;
        case 5: say_ret("recvmmsg", recvmmsg(fd, &mm, 1, 0, NULL)); break;
        }
        tell();
    }
}

CASE(receives_interrupted) { receives(0); }
CASE(receives_restarted) { receives(SA_RESTART); }

static void sends(int flags)
{
    int fd = active_pair();
    struct iovec v = {buf, 100};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    for (int call = 0; call < 4; call++) {
        fill(fd);
        if (flags & SA_RESTART)
            peer_ok("after 200 recv 3000000");
        soon(flags);
        switch (call) {
        case 0: say_ret("send", send(fd, buf, 100, 0)); break;
        case 1: say_ret("write", write(fd, buf, 100)); break;
        case 2: say_ret("writev", writev(fd, &v, 1)); break;
        case 3: say_ret("sendmsg", sendmsg(fd, &m, 0)); break;
        }
        tell();
    }
}

CASE(sends_interrupted) { sends(0); }
CASE(sends_restarted) { sends(SA_RESTART); }

/* What was moved before the handler came is the result, also with SA_RESTART. */
static void partly(int flags)
{
    int fd = active_pair();
    peer_ok("send 10");
    wait_bytes(fd, 10);
    soon(flags);
    say_data("recv WAITALL", recv(fd, buf, 20, MSG_WAITALL), buf);
    tell();
    soon(flags);
    static char much[20000000];
    long n = send(fd, much, sizeof much, 0);
    say("send of much: %s", n > 0 && n < (long)sizeof much ? "a part" : n < 0 ? errno_name(errno) : "all");
    tell();
}

CASE(partly_interrupted) { partly(0); }
CASE(partly_restarted) { partly(SA_RESTART); }

static void accepts(int flags)
{
    int l = listening();
    if (flags & SA_RESTART)
        peer_ok("after 150 connect %d", port_of(l));
    soon(flags);
    say_fd("accept", accept(l, NULL, NULL));
    tell();
    if (!(flags & SA_RESTART)) {
        peer_ok("connect %d", port_of(l));
        say_fd("accept again", accept4(l, NULL, NULL, SOCK_CLOEXEC));
    }
}

CASE(accept_interrupted) { accepts(0); }
CASE(accept_restarted) { accepts(SA_RESTART); }

static void datagrams(int flags)
{
    int fd = udp_pair();
    send(fd, "hello", 5, 0);
    peer("recvfrom");
    if (flags & SA_RESTART)
        peer_ok("after 150 reply 10");
    soon(flags);
    say_data("recv", recv(fd, buf, 100, 0), buf);
    tell();
}

CASE(udp_interrupted) { datagrams(0); }
CASE(udp_restarted) { datagrams(SA_RESTART); }

/* With a time-out of the socket no call is ever restarted. */
CASE(receive_timeout_never_restarts)
{
    int fd = active_pair();
    timeout_option(fd, SO_RCVTIMEO, 3000);
    soon(SA_RESTART);
    say_data("recv", recv(fd, buf, 100, 0), buf);
    tell();
    timeout_option(fd, SO_RCVTIMEO, 50);
    say_data("recv at the end of the time", recv(fd, buf, 100, 0), buf);
}

CASE(send_timeout_never_restarts)
{
    int fd = active_pair();
    fill(fd);
    timeout_option(fd, SO_SNDTIMEO, 3000);
    soon(SA_RESTART);
    say_ret("send", send(fd, buf, 100, 0));
    tell();
    timeout_option(fd, SO_SNDTIMEO, 50);
    say_ret("send at the end of the time", send(fd, buf, 100, 0));
}

CASE(accept_timeout_never_restarts)
{
    int l = listening();
    timeout_option(l, SO_RCVTIMEO, 3000);
    soon(SA_RESTART);
    say_fd("accept", accept(l, NULL, NULL));
    tell();
    timeout_option(l, SO_RCVTIMEO, 50);
    say_fd("accept at the end of the time", accept(l, NULL, NULL));
}

/* poll, select and epoll are never restarted. */
static void waits(int flags)
{
    int fd = active_pair();
    int ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN};
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct timespec second = {.tv_sec = 5};
    struct timeval t = {.tv_sec = 5};
    fd_set set;
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    for (int call = 0; call < 7; call++) {
        FD_ZERO(&set);
        FD_SET(fd, &set);
        soon(flags);
        switch (call) {
        case 0: say_ret("poll", poll(&p, 1, 5000)); break;
        case 1: say_ret("poll for ever", poll(&p, 1, -1)); break;
        case 2: say_ret("ppoll", ppoll(&p, 1, &second, NULL)); break;
        case 3: say_ret("select", select(fd + 1, &set, NULL, NULL, &t)); break;
        case 4: say_ret("pselect", pselect(fd + 1, &set, NULL, NULL, &second, NULL)); break;
        case 5: say_ret("epoll_wait", epoll_wait(ep, &e, 1, 5000)); break;
        case 6: say_ret("epoll_pwait", epoll_pwait(ep, &e, 1, -1, NULL)); break;
        }
        tell();
    }
    say("select leaves its set: %d", FD_ISSET(fd, &set));
}

CASE(waits_interrupted) { waits(0); }
CASE(waits_never_restarted) { waits(SA_RESTART); }

/* A connect that nobody answers: the listener's queue is full. */
static void connects(int flags, int ms)
{
    int first = tcp_socket(), fd = tcp_socket();
    struct addr to = peer_addr(peer_number("listen 0 0"));
    if (ms)
        timeout_option(fd, SO_SNDTIMEO, ms);
    say_ret("connect 1", connect(first, &to.sa, to.len));
    usleep(20000);
    soon(flags);
    say_ret("connect", connect(fd, &to.sa, to.len));
    tell();
    soon(0);
    say_ret("connect again", connect(fd, &to.sa, to.len));
    nonblocking(fd);
    say_ret("connect without waiting", connect(fd, &to.sa, to.len));
}

CASE(connect_interrupted) { connects(0, 0); }
CASE(connect_timeout_interrupted) { connects(SA_RESTART, 5000); }

CASE(connect_restarted)
{
    int first = tcp_socket(), fd = tcp_socket();
    struct addr to = peer_addr(peer_number("listen 0 0"));
    say_ret("connect 1", connect(first, &to.sa, to.len));
    usleep(20000);
    peer_ok("after 200 accept");
    soon(SA_RESTART);
    say_ret("connect", connect(fd, &to.sa, to.len));
    tell();
}

CASE(sendfile_partly)
{
    int fd = active_pair();
    int file = memfd_create("file", 0);
    if (ftruncate(file, 50000000))
        give_up("ftruncate");
    for (int round = 0; round < 2; round++) {
        soon(round ? 0 : SA_RESTART);
        long n = sendfile(fd, file, NULL, 50000000);
        say("sendfile: %s", n > 0 ? "a part" : n < 0 ? errno_name(errno) : "none");
        tell();
        fill(fd);
    }
}

/* close waits for the data to go (SO_LINGER) no longer than until a signal. */
CASE(linger_interrupted)
{
    int fd = active_pair();
    struct linger l = {1, 5};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    fill(fd);
    soon(0);
    say_ret("close", close(fd));
    tell();
}

/* Nor longer than it says. */
CASE(linger_ends)
{
    int fd = active_pair();
    struct linger l = {1, 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    fill(fd);
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    say_ret("close", close(fd));
    clock_gettime(CLOCK_MONOTONIC, &to);
    long ms = (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
    say("it took %s", ms < 900 ? "less than a second" : ms < 4000 ? "a second" : "too long");
}

/* An ignored signal, and one whose default is to be ignored, interrupt nothing. */
CASE(ignored_signals_interrupt_nothing)
{
    int fd = active_pair();
    signal(SIGALRM, SIG_IGN);
    alarm_in(30);
    timeout_option(fd, SO_RCVTIMEO, 150);
    say_data("recv", recv(fd, buf, 100, 0), buf);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    say_data("recv while a child dies", recv(fd, buf, 100, 0), buf);
    say_ret("wait", waitpid(child, NULL, 0) == child);
}

CASE(sigchld_interrupts)
{
    int fd = active_pair();
    handle(SIGCHLD, count, 0);
    pid_t child = fork();
    if (child == 0) {
        usleep(60000);
        _exit(7);
    }
    int status = 0;
    say_data("recv", recv(fd, buf, 100, 0), buf);
    tell();
    say_ret("wait", waitpid(child, &status, 0) == child);
    say("status %d", WEXITSTATUS(status));
}

CASE(default_action_ends_a_blocked_program)
{
    int fd = active_pair();
    signal(SIGALRM, SIG_DFL);
    alarm_in(50);
    say_data("recv", recv(fd, buf, 100, 0), buf);
}
