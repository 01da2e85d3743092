/* The flags of send and recv, and the plural calls, on streams and datagrams. diff: modes=v4,v6,xdp */
#include "diff.h"

static char buf[300000];

static int with(int n)
{
    int fd = active_pair();
    if (n) {
        peer_ok("send %d", n);
        wait_bytes(fd, n);
    }
    return fd;
}

CASE(dontwait)
{
    int fd = with(0);
    say_ret("recv", recv(fd, buf, 10, MSG_DONTWAIT));
    say_ret("recvmsg", recvmsg(fd, &(struct msghdr){.msg_iov = &(struct iovec){buf, 9}, .msg_iovlen = 1}, MSG_DONTWAIT));
    long sent = 0, n;
    memset(buf, 'x', sizeof buf);
    while ((n = send(fd, buf, sizeof buf, MSG_DONTWAIT)) > 0)
        sent += n;
    say_ret("send when full", n);
    say("some was sent: %d", sent > 10000);
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT, 0)));
    say_ret("blocking is as before", fcntl(fd, F_GETFL) & O_NONBLOCK);
    peer_ok("after 0 recv %ld", sent);
    say("events %s", events_name(wait_events(fd, POLLOUT)));
}

CASE(peek)
{
    int fd = with(20);
    say_data("peek 5", recv(fd, buf, 5, MSG_PEEK), buf);
    say_data("peek 100", recv(fd, buf, 100, MSG_PEEK), buf);
    say_data("recv 7", recv(fd, buf, 7, 0), buf);
    say_data("peek", recv(fd, buf, 100, MSG_PEEK | MSG_DONTWAIT), buf);
    say_data("recv", recv(fd, buf, 100, 0), buf);
    say_data("peek nothing", recv(fd, buf, 100, MSG_PEEK | MSG_DONTWAIT), buf);
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE_WAIT");
    say_data("peek at the end", recv(fd, buf, 100, MSG_PEEK), buf);
}

CASE(peek_blocks)
{
    int fd = with(0);
    peer_ok("after 50 send 5");
    say_data("peek", recv(fd, buf, 100, MSG_PEEK), buf);
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

CASE(peek_waitall)
{
    int fd = with(5);
    peer_ok("after 50 send 5");
    say_data("peek", recv(fd, buf, 10, MSG_PEEK | MSG_WAITALL), buf);
    wait_bytes(fd, 10);
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

CASE(peek_waitall_in_pieces)
{
    int fd = with(5);
    for (int i = 1; i < 8; i++)
        peer_ok("after %d send 5", 30 * i);
    say_data("peek", recv(fd, buf, 40, MSG_PEEK | MSG_WAITALL), buf);
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

CASE(peek_waitall_to_the_end)
{
    int fd = with(5);
    peer_ok("after 50 send 5");
    peer_ok("after 100 shutdown w");
    say_data("peek", recv(fd, buf, 40, MSG_PEEK | MSG_WAITALL), buf);
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

CASE(peek_waitall_in_time)
{
    int fd = with(5);
    struct timeval limit = {.tv_usec = 150000};
    say_ret("SO_RCVTIMEO", setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
    say_data("peek", recv(fd, buf, 40, MSG_PEEK | MSG_WAITALL), buf);
    say_data("recv", recv(fd, buf, 100, 0), buf);
    say_data("peek of nothing", recv(fd, buf, 40, MSG_PEEK | MSG_WAITALL), buf);
}

CASE(waitall)
{
    int fd = with(10);
    peer_ok("after 50 send 10");
    say_data("recv", recv(fd, buf, 20, MSG_WAITALL), buf);
    peer_ok("send 5");
    peer_ok("after 50 shutdown w");
    say_data("recv to the end", recv(fd, buf, 20, MSG_WAITALL), buf);
    say_data("recv at the end", recv(fd, buf, 20, MSG_WAITALL), buf);
}

CASE(waitall_nonblocking)
{
    int fd = with(10);
    nonblocking(fd);
    say_data("recv", recv(fd, buf, 20, MSG_WAITALL), buf);
    say_data("recv", recv(fd, buf, 20, MSG_WAITALL), buf);
}

CASE(waitall_reset)
{
    int fd = with(10);
    peer_ok("after 50 rst");
    say_data("recv", recv(fd, buf, 20, MSG_WAITALL), buf);
    say_data("recv", recv(fd, buf, 20, MSG_WAITALL), buf);
    say_data("recv", recv(fd, buf, 20, MSG_WAITALL), buf);
}

CASE(waitall_timeout)
{
    int fd = with(10);
    struct timeval limit = {.tv_usec = 50000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    say_data("recv", recv(fd, buf, 20, MSG_WAITALL), buf);
    say_data("recv", recv(fd, buf, 20, MSG_WAITALL), buf);
}

CASE(waitall_vector)
{
    int fd = with(3);
    char a[2], b[4], c[30][1];
    struct iovec iov[32] = {{a, 2}, {b, 4}};
    for (int i = 0; i < 30; i++)
        iov[i + 2] = (struct iovec){c[i], 1};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 32};
    peer_ok("after 30 send 33");
    say_ret("recvmsg", recvmsg(fd, &m, MSG_WAITALL));
    say("%s %s %s", show(a, 2), show(b, 4), show(c, 30));
}

CASE(waitall_large)
{
    int fd = with(0);
    peer_ok("after 0 send 250000");
    say_data("recv", recv(fd, buf, 250000, MSG_WAITALL), buf);
}

CASE(trunc_stream)
{
    int fd = with(30);
    say_ret("recv", recv(fd, buf, 10, MSG_TRUNC));
    say_ret("recv peek", recv(fd, buf, 5, MSG_TRUNC | MSG_PEEK));
    say_data("recv", recv(fd, buf, 10, 0), buf);
    peer_ok("after 50 send 10");
    say_ret("recv waitall", recv(fd, buf, 20, MSG_TRUNC | MSG_WAITALL));
    say_data("recv", recv(fd, buf, 10, MSG_DONTWAIT), buf);
}

CASE(trunc_datagram)
{
    int fd = udp_pair();
    send(fd, "x", 1, 0);
    peer("recvfrom");
    for (int i = 0; i < 4; i++)
        peer_ok("reply 30");
    struct iovec one = {buf, 10};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1};
    say_ret("recv", recv(fd, buf, 10, 0));
    say_ret("recv peek trunc", recv(fd, buf, 10, MSG_PEEK | MSG_TRUNC));
    say_ret("recv trunc", recv(fd, buf, 10, MSG_TRUNC));
    say_ret("recvmsg", recvmsg(fd, &m, 0));
    say("flags %x", m.msg_flags);
    say_ret("recvmsg trunc", recvmsg(fd, &m, MSG_TRUNC));
    say("flags %x", m.msg_flags);
    say_ret("recv", recv(fd, buf, 10, MSG_DONTWAIT));
}

CASE(datagram_of_nothing)
{
    int fd = udp_pair();
    say_ret("send 0", send(fd, NULL, 0, 0));
    say_peer("recvfrom");
    peer_ok("reply 0");
    peer_ok("reply 3");
    wait_events(fd, POLLIN);
    usleep(10000);
    say_ret("recv", recv(fd, buf, 10, 0));
    say_ret("recv 0", recv(fd, buf, 0, 0));
    say_ret("recv", recv(fd, buf, 10, MSG_DONTWAIT));
    say_ret("write 0", write(fd, buf, 0));
    say_ret("writev 0", writev(fd, &(struct iovec){buf, 0}, 1));
    say_peer("recvfrom");
    say_ret("read 0", read(fd, buf, 0));
}

CASE_KNOWN_LOCAL(more, "what MSG_MORE holds back is at the other end of a pair at once")
{
    int fd = with(0);
    say_ret("send more", send(fd, "abc", 3, MSG_MORE));
    usleep(20000);
    say_peer("inq");
    say_ret("send", send(fd, "def", 3, 0));
    say_peer("recv 6");
    say_ret("send more", send(fd, "ghi", 3, MSG_MORE));
    say_ret("shutdown", shutdown(fd, SHUT_WR));
    say_peer("recvall");
}

CASE(nosignal_and_confirm)
{
    int fd = with(0);
    say_ret("send", send(fd, "abc", 3, MSG_NOSIGNAL | MSG_CONFIRM | MSG_DONTROUTE));
    say_peer("recv 3");
    say_ret("unknown flags", send(fd, "abc", 3, 0x00800000 | 0x1000000));
    say_peer("recv 3");
    say_ret("MSG_EOR", send(fd, "abc", 3, MSG_EOR));
    say_peer("recv 3");
    int udp = udp_pair();
    say_ret("udp", send(udp, "abc", 3, MSG_NOSIGNAL | MSG_CONFIRM));
    say_peer("recvfrom");
    say_ret("udp oob", send(udp, "abc", 3, MSG_OOB));
    say_ret("udp recv oob", recv(udp, buf, 3, MSG_OOB | MSG_DONTWAIT));
    peer_ok("reply 7");
    wait_events(udp, POLLIN);
    say_data("udp recv oob of a datagram", recv(udp, buf, 9, MSG_OOB | MSG_DONTWAIT), buf);
}

CASE(errqueue_empty)
{
    int fd = with(5), udp = udp_pair();
    say_ret("tcp", recv(fd, buf, 10, MSG_ERRQUEUE));
    say_ret("udp", recv(udp, buf, 10, MSG_ERRQUEUE));
    say_ret("fresh", recv(tcp_socket(), buf, 10, MSG_ERRQUEUE));
}

CASE(fastopen_when_connected)
{
    int fd = with(0);
    struct addr a = peer_addr(7);
    say_ret("sendto", sendto(fd, "abc", 3, MSG_FASTOPEN, &a.sa, a.len));
    say_ret("send", send(fd, "abc", 3, MSG_FASTOPEN));
}

CASE_KERNEL(fastopen)
{
    int fd = tcp_socket();
    struct addr a = peer_addr(peer_number("listen"));
    say_ret("no address", send(fd, "abc", 3, MSG_FASTOPEN));
    long n = say_ret("sendto", sendto(fd, "abc", 3, MSG_FASTOPEN, &a.sa, a.len));
    if (n < 0)
        return;
    peer_ok("accept");
    say_peer("recv 3");
    peer_ok("send 4");
    say_data("recv", recv(fd, buf, 10, 0), buf);
    say_ret("connect", connect(fd, &a.sa, a.len));
}

CASE(zerocopy_without_option)
{
    int fd = with(0);
    say_ret("send", send(fd, "abc", 3, MSG_ZEROCOPY));
    say_peer("recv 3");
}

/* ---- recvmmsg, sendmmsg ------------------------------------------------------------------------------------------ */

static struct mmsghdr mm[8];
static struct iovec pieces[8];
static struct addr names[8];

static void prepare(int room)
{
    memset(buf, '.', 1000);
    for (int i = 0; i < 8; i++) {
        pieces[i] = (struct iovec){buf + 100 * i, room};
        names[i].len = sizeof names[i].storage;
        mm[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1, .msg_name = &names[i].storage,
            .msg_namelen = sizeof names[i].storage};
        mm[i].msg_len = 4711;
    }
}

static void say_many(const char *what, int n)
{
    say_ret(what, n);
    for (int i = 0; i < n; i++)
        say("  %u \"%s\" from %s flags %x", mm[i].msg_len, show(pieces[i].iov_base, mm[i].msg_len),
            mm[i].msg_hdr.msg_namelen ? addr_name(&names[i].sa, mm[i].msg_hdr.msg_namelen) : "nobody",
            mm[i].msg_hdr.msg_flags);
    if (n >= 0 && n < 8)
        say("  length of the next %u", mm[n].msg_len);
}

static int udp_with(int n)
{
    int fd = udp_pair();
    send(fd, "x", 1, 0);
    peer("recvfrom");
    for (int i = 1; i <= n; i++)
        peer_ok("reply %d", i);
    if (n)
        wait_events(fd, POLLIN);
    usleep(10000);
    return fd;
}

CASE(recvmmsg_datagrams)
{
    int fd = udp_with(5);
    prepare(50);
    say_many("three of five", recvmmsg(fd, mm, 3, 0, NULL));
    prepare(3);
    say_many("the rest, waiting for one", recvmmsg(fd, mm, 8, MSG_WAITFORONE, NULL));
    say_many("none", recvmmsg(fd, mm, 8, MSG_DONTWAIT, NULL));
    say_many("zero", recvmmsg(fd, mm, 0, MSG_DONTWAIT, NULL));
}

CASE(recvmmsg_time_limit)
{
    int fd = udp_with(2);
    prepare(50);
    struct timespec limit = {.tv_nsec = 1}, bad = {.tv_nsec = 2000000000}, negative = {.tv_sec = -1};
    say_many("bad", recvmmsg(fd, mm, 8, 0, &bad));
    say_many("negative", recvmmsg(fd, mm, 8, 0, &negative));
    say_many("short", recvmmsg(fd, mm, 8, 0, &limit));
    limit = (struct timespec){.tv_sec = 5};
    say_many("long", recvmmsg(fd, mm, 1, 0, &limit));
    say("time is left: %d", limit.tv_sec <= 5 && limit.tv_nsec != 0);
    peer_ok("after 30 reply 9");
    say_many("one blocking", recvmmsg(fd, mm, 1, 0, NULL));
}

CASE(recvmmsg_stream)
{
    int fd = with(25);
    prepare(10);
    say_many("stream", recvmmsg(fd, mm, 2, 0, NULL));
    say_many("stream, rest", recvmmsg(fd, mm, 3, MSG_WAITFORONE, NULL));
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE_WAIT");
    prepare(10);
    say_many("stream, end", recvmmsg(fd, mm, 3, 0, NULL));
    peer_ok("use 1");
}

CASE(recvmmsg_error_after_data)
{
    int fd = with(10);
    peer_ok("rst");
    wait_state(fd, "CLOSE");
    prepare(10);
    say_many("data and error", recvmmsg(fd, mm, 3, 0, NULL));
    say_many("again", recvmmsg(fd, mm, 3, 0, NULL));
    say_many("and again", recvmmsg(fd, mm, 3, 0, NULL));
}

CASE(sendmmsg_datagrams)
{
    int fd = udp_pair();
    prepare(0);
    for (int i = 0; i < 8; i++) {
        pieces[i].iov_len = i + 1;
        mm[i].msg_hdr.msg_name = NULL;
        mm[i].msg_hdr.msg_namelen = 0;
    }
    say_ret("sendmmsg", sendmmsg(fd, mm, 4, 0));
    say("lengths %u %u %u %u %u", mm[0].msg_len, mm[1].msg_len, mm[2].msg_len, mm[3].msg_len, mm[4].msg_len);
    for (int i = 0; i < 4; i++)
        say_peer("recvfrom");
    mm[2].msg_hdr.msg_iovlen = 2000;
    say_ret("third is bad", sendmmsg(fd, mm, 4, 0));
    say_ret("first is bad", sendmmsg(fd, mm + 2, 4, 0));
    say_ret("none", sendmmsg(fd, mm, 0, 0));
}

CASE(sendmmsg_stream)
{
    int fd = with(0);
    prepare(5);
    for (int i = 0; i < 8; i++)
        mm[i].msg_hdr.msg_name = NULL;
    say_ret("sendmmsg", sendmmsg(fd, mm, 3, 0));
    shutdown(fd, SHUT_WR);
    say_ret("after shutdown", sendmmsg(fd, mm, 3, MSG_NOSIGNAL));
    say_peer("recvall");
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

CASE(recvmsg_fields)
{
    int fd = with(10);
    char control[100];
    struct addr a;
    struct iovec iov[3] = {{buf, 3}, {NULL, 0}, {buf + 3, 20}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 3, .msg_name = &a.storage, .msg_namelen = sizeof a.storage,
        .msg_control = control, .msg_controllen = sizeof control, .msg_flags = -1};
    say_data("recvmsg", recvmsg(fd, &m, MSG_PEEK | MSG_CMSG_CLOEXEC), buf);
    say("name %u control %zu flags %x iovlen %zu", m.msg_namelen, m.msg_controllen, m.msg_flags, m.msg_iovlen);
    m.msg_name = NULL;
    m.msg_namelen = 50;
    say_data("recvmsg without a name", recvmsg(fd, &m, 0), buf);
    say("name %u control %zu flags %x", m.msg_namelen, m.msg_controllen, m.msg_flags);
}

CASE(long_vectors)
{
    int fd = with(0);
    static struct iovec iov[1024];
    for (int i = 0; i < 1024; i++)
        iov[i] = (struct iovec){"abcdefgh", i % 9};
    say_ret("writev", writev(fd, iov, 1024));
    say_peer("recv %d", 4083);
    peer_ok("send 3000");
    wait_bytes(fd, 3000);
    for (int i = 0; i < 1024; i++)
        iov[i] = (struct iovec){buf + 2 * i, 2};
    say_data("readv", readv(fd, iov, 1024), buf);
    say_data("rest", recv(fd, buf, 3000, 0), buf);
}

CASE(preadv2_and_pwritev2)
{
    int fd = with(10);
    struct iovec one = {buf, 4};
    say_data("-1", preadv2(fd, &one, 1, -1, 0), buf);
    say_data("-1 nowait", preadv2(fd, &one, 1, -1, RWF_NOWAIT), buf);
    say_data("-1 hipri", preadv2(fd, &one, 1, -1, RWF_HIPRI), buf);
    say_ret("-1 nowait, nothing there", preadv2(fd, &one, 1, -1, RWF_NOWAIT));
    say_ret("0", preadv2(fd, &one, 1, 0, 0));
    say_ret("-2", preadv2(fd, &one, 1, -2, 0));
    say_ret("bad flags", preadv2(fd, &one, 1, -1, 0x4000));
    say_ret("preadv", preadv(fd, &one, 1, 0));
    say_ret("pwritev", pwritev(fd, &one, 1, 0));
    say_ret("pwritev2 -1", pwritev2(fd, &one, 1, -1, 0));
    say_ret("pwritev2 -1 nowait", pwritev2(fd, &one, 1, -1, RWF_NOWAIT));
    say_ret("pwritev2 0", pwritev2(fd, &one, 1, 0, 0));
    say_ret("pwritev2 -1 append", pwritev2(fd, &one, 1, -1, RWF_APPEND));
    close(fd);
    say_peer("recvall");
}
