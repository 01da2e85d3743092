/* Urgent data: MSG_OOB, SIOCATMARK, SO_OOBINLINE, SIGURG, POLLPRI. diff: modes=v4,v6 */
#include "diff.h"

static char buf[1000];

static void say_mark(int fd)
{
    say("at mark %d, events %s", sockatmark(fd),
        events_name(wait_events_ms(fd, POLLIN | POLLPRI | POLLRDBAND | POLLRDNORM, 0)));
}

static void mark_on(int fd)
{
    say_ret("nothing urgent", recv(fd, buf, 1, MSG_OOB));
    peer_ok("text abc");
    peer_ok("oob X");
    peer_ok("text def");
    say("events %s", events_name(wait_events(fd, POLLPRI)));
    wait_bytes(fd, 3);
    peer_ok("quiet");
    say_mark(fd);
    say_data("up to the mark", recv(fd, buf, 100, 0), buf);
    say_mark(fd);
    say_data("peek oob", recv(fd, buf, 10, MSG_OOB | MSG_PEEK), buf);
    say_data("oob", recv(fd, buf, 10, MSG_OOB), buf);
    say_ret("oob again", recv(fd, buf, 10, MSG_OOB));
    say_mark(fd);
    say_data("behind the mark", recv(fd, buf, 100, 0), buf);
    say_mark(fd);
    say_ret("oob at last", recv(fd, buf, 10, MSG_OOB));
}

CASE(mark_active) { mark_on(active_pair()); }
CASE(mark_passive) { mark_on(passive_pair()); }

CASE(read_past_it)
{
    int fd = active_pair();
    peer_ok("text abc");
    peer_ok("oob X");
    peer_ok("text def");
    peer_ok("quiet");
    wait_bytes(fd, 3);
    say_data("recv", recv(fd, buf, 100, 0), buf);
    say_data("recv", recv(fd, buf, 100, 0), buf);
    say_ret("oob too late", recv(fd, buf, 10, MSG_OOB));
    say_mark(fd);
}

CASE(in_line)
{
    int fd = active_pair(), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
    peer_ok("text abc");
    peer_ok("oob X");
    peer_ok("text def");
    peer_ok("quiet");
    wait_bytes(fd, 3);
    say_ret("oob", recv(fd, buf, 10, MSG_OOB));
    say_data("recv", recv(fd, buf, 100, 0), buf);
    say_mark(fd);
    say_data("recv", recv(fd, buf, 100, 0), buf);
    say_mark(fd);
}

CASE(fionread_stops_at_the_mark)
{
    int fd = active_pair(), n = -1;
    peer_ok("text abc");
    peer_ok("oob X");
    peer_ok("text defgh");
    peer_ok("quiet");
    wait_bytes(fd, 3);
    ioctl(fd, FIONREAD, &n);
    say("FIONREAD %d", n);
    recv(fd, buf, 3, 0);
    ioctl(fd, FIONREAD, &n);
    say("FIONREAD at the mark %d", n);
    recv(fd, buf, 1, MSG_OOB);
    ioctl(fd, FIONREAD, &n);
    say("FIONREAD at the mark, byte taken %d", n);
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

CASE(peek_at_the_mark)
{
    int fd = active_pair();
    peer_ok("text abc");
    peer_ok("oob X");
    peer_ok("text def");
    peer_ok("quiet");
    wait_bytes(fd, 3);
    say_data("peek", recv(fd, buf, 100, MSG_PEEK), buf);
    say_data("recv", recv(fd, buf, 3, 0), buf);
    say_data("peek at the mark", recv(fd, buf, 100, MSG_PEEK), buf);
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

CASE(nothing_asked_for_at_the_mark)
{
    int fd = active_pair();
    peer_ok("oob X");
    peer_ok("quiet");
    wait_events(fd, POLLPRI);
    say_ret("recv of nothing", recv(fd, buf, 0, MSG_DONTWAIT));
    say_mark(fd);
    say_data("oob", recv(fd, buf, 1, MSG_OOB), buf);
}

CASE(waitall_across_the_mark)
{
    int fd = active_pair();
    peer_ok("text abc");
    peer_ok("oob X");
    peer_ok("text def");
    peer_ok("quiet");
    wait_bytes(fd, 3);
    say_data("waitall", recv(fd, buf, 5, MSG_WAITALL), buf);
    say_data("recv", recv(fd, buf, 100, MSG_DONTWAIT), buf);
}

CASE(two_urgent_bytes)
{
    int fd = active_pair();
    peer_ok("oob X");
    peer_ok("quiet");
    say("events %s", events_name(wait_events(fd, POLLPRI)));
    peer_ok("oob Y");
    peer_ok("quiet");
    say_data("recv", recv(fd, buf, 100, MSG_DONTWAIT), buf);
    say_data("oob", recv(fd, buf, 10, MSG_OOB), buf);
    say_data("recv", recv(fd, buf, 100, MSG_DONTWAIT), buf);
}

CASE(only_urgent)
{
    int fd = active_pair();
    peer_ok("oob X");
    peer_ok("quiet");
    wait_events(fd, POLLPRI);
    say_mark(fd);
    say_ret("recv", recv(fd, buf, 100, MSG_DONTWAIT));
    say_data("oob", recv(fd, buf, 10, MSG_OOB), buf);
    say_mark(fd);
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE_WAIT");
    say_ret("recv", recv(fd, buf, 100, MSG_DONTWAIT));
    say_ret("oob", recv(fd, buf, 100, MSG_OOB));
}

CASE(oob_message)
{
    int fd = active_pair();
    peer_ok("oob XYZ");
    peer_ok("quiet");
    wait_events(fd, POLLPRI);
    struct iovec one = {buf, 10};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1};
    say_data("recv", recv(fd, buf, 100, MSG_DONTWAIT), buf);
    say_data("recvmsg", recvmsg(fd, &m, MSG_OOB), buf);
    say("flags %x", m.msg_flags);
    say_ret("oob of nothing", recv(fd, buf, 0, MSG_OOB));
}

CASE(sent)
{
    int fd = active_pair();
    say_ret("send", send(fd, "abc", 3, 0));
    say_ret("send oob", send(fd, "X", 1, MSG_OOB));
    say_ret("send", send(fd, "def", 3, 0));
    say_peer("recvoob");
    say_peer("recv 3");
    say_peer("atmark");
    say_peer("recv 3");
    say_ret("send oob long", send(fd, "uvwxyz", 6, MSG_OOB));
    say_peer("recvoob");
    say_peer("recv 5");
    say_ret("send oob nothing", send(fd, "", 0, MSG_OOB));
    say_ret("sendmsg oob", sendmsg(fd, &(struct msghdr){.msg_iov = &(struct iovec){"Q", 1}, .msg_iovlen = 1}, MSG_OOB));
    say_peer("recvoob");
}

static volatile int urgent;
static void on_urgent(int sig) { urgent++; (void)sig; }

CASE(sigurg)
{
    int fd = active_pair();
    signal(SIGURG, on_urgent);
    say_ret("F_SETOWN", fcntl(fd, F_SETOWN, getpid()));
    say_ret("F_GETOWN is ours", fcntl(fd, F_GETOWN) == getpid());
    peer_ok("oob X");
    peer_ok("quiet");
    for (int i = 0; i < 200 && !urgent; i++)
        usleep(5000);
    say("signals %d", urgent);
    say_data("oob", recv(fd, buf, 10, MSG_OOB), buf);
}

CASE(sigurg_unowned)
{
    int fd = active_pair();
    signal(SIGURG, on_urgent);
    peer_ok("oob X");
    peer_ok("quiet");
    wait_events(fd, POLLPRI);
    usleep(20000);
    say("signals %d", urgent);
}

CASE(in_other_states)
{
    say_ret("fresh", recv(tcp_socket(), buf, 1, MSG_OOB));
    say_ret("listening", recv(listening(), buf, 1, MSG_OOB));
    int fd = active_pair();
    peer_ok("oob X");
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE_WAIT");
    say_data("after the FIN", recv(fd, buf, 1, MSG_OOB), buf);
    fd = active_pair();
    peer_ok("rst");
    wait_state(fd, "CLOSE");
    say_ret("reset", recv(fd, buf, 1, MSG_OOB));
    say_ret("reset again", recv(fd, buf, 1, MSG_OOB));
    say_ret("recv", recv(fd, buf, 1, 0));
}

/* How often it is asked for, and how the connection ended, say different things. */
CASE(asked_again_after_the_end)
{
    for (int read_it = 0; read_it < 2; read_it++) {
        int fd = active_pair();
        peer_ok("oob X");
        wait_events(fd, POLLPRI);
        if (read_it)
            say_ret("recv OOB", recv(fd, buf, 10, MSG_OOB));
        peer_ok("rst");
        wait_state(fd, "CLOSE");
        say_ret("recv", recv(fd, buf, 10, 0));
        say_ret("recv OOB", recv(fd, buf, 10, MSG_OOB));
        say_ret("recv OOB", recv(fd, buf, 10, MSG_OOB));
        close(fd);
    }
}

CASE(select_exception)
{
    int fd = active_pair();
    fd_set e;
    peer_ok("oob X");
    peer_ok("quiet");
    FD_ZERO(&e);
    FD_SET(fd, &e);
    struct timeval limit = {.tv_sec = 3};
    say_ret("select", select(fd + 1, NULL, NULL, &e, &limit));
    say("set %d", !!FD_ISSET(fd, &e));
}

/* A vector is filled up to the mark, also by a look that takes nothing. */
CASE(peek_into_pieces_before_the_mark)
{
    int fd = active_pair();
    peer_ok("text abcdef");
    peer_ok("oob X");
    peer_ok("text gh");
    peer_ok("quiet");
    wait_bytes(fd, 6);
    static const int flags[] = {MSG_PEEK, MSG_PEEK | MSG_DONTWAIT, 0, MSG_PEEK, 0};
    for (int i = 0; i < 5; i++) {
        memset(buf, '.', 12);
        struct iovec iov[3] = {{buf, 2}, {buf + 2, 1}, {buf + 3, 7}};
        struct msghdr m = {.msg_iov = iov, .msg_iovlen = 3};
        long n = recvmsg(fd, &m, flags[i]);
        say("recvmsg %x = %ld %.10s", flags[i], n, buf);
    }
}
