/* syscall() with the numbers of socket calls; glibc's fortified functions. diff: cflags=-O2,-D_FORTIFY_SOURCE=3 */
#include "diff.h"

static char buf[4096];

CASE(by_number_data)
{
    int fd = active_pair();
    struct iovec one = {buf, 3};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = m};
    peer_ok("send 30");
    wait_bytes(fd, 30);
    say_data("read", syscall(SYS_read, fd, buf, 3), buf);
    say_data("readv", syscall(SYS_readv, fd, &one, 1), buf);
    say_data("recvfrom", syscall(SYS_recvfrom, fd, buf, 3, 0, NULL, NULL), buf);
    say_data("recvmsg", syscall(SYS_recvmsg, fd, &m, 0), buf);
    say_ret("recvmmsg", syscall(SYS_recvmmsg, fd, &mm, 1, 0, NULL));
    say_data("preadv2", syscall(SYS_preadv2, fd, &one, 1, -1L, 0L, 0), buf);
    say_ret("write", syscall(SYS_write, fd, "a", 1));
    say_ret("writev", syscall(SYS_writev, fd, &one, 1));
    say_ret("sendto", syscall(SYS_sendto, fd, "b", 1, 0, NULL, 0));
    say_ret("sendmsg", syscall(SYS_sendmsg, fd, &m, 0));
    say_ret("sendmmsg", syscall(SYS_sendmmsg, fd, &mm, 1, 0));
    say_ret("pwritev2", syscall(SYS_pwritev2, fd, &one, 1, -1L, 0L, 0));
    say_ret("shutdown", syscall(SYS_shutdown, fd, SHUT_WR));
    say_peer("recvall");
    say_ret("close", syscall(SYS_close, fd));
    say_ret("read closed", syscall(SYS_read, fd, buf, 3));
}

CASE(by_number_life)
{
    int fd = syscall(SYS_socket, family, SOCK_STREAM | SOCK_CLOEXEC, 0), value = 0;
    struct addr a = peer_addr(peer_number("listen")), name = {.len = sizeof name.storage};
    socklen_t len = sizeof value;
    say_ret("connect", syscall(SYS_connect, fd, &a.sa, a.len));
    peer_ok("accept");
    say_ret("getsockname", syscall(SYS_getsockname, fd, &name.sa, &name.len));
    say("%s", addr_name(&name.sa, name.len));
    name.len = sizeof name.storage;
    say_ret("getpeername", syscall(SYS_getpeername, fd, &name.sa, &name.len));
    say("%s", addr_name(&name.sa, name.len));
    value = 1;
    say_ret("setsockopt", syscall(SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value));
    value = 0;
    say_ret("getsockopt", syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &value, &len));
    say("%d", value);
    say_ret("ioctl", syscall(SYS_ioctl, fd, FIONREAD, &value));
    say_ret("fcntl", syscall(SYS_fcntl, fd, F_SETFL, O_NONBLOCK));
    say_ret("read", syscall(SYS_read, fd, buf, 1));
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};
    say_ret("poll", syscall(SYS_poll, &p, 1, 0));
    say("%s", events_name(p.revents));
    int copy = syscall(SYS_dup, fd);
    say_ret("write to a copy", syscall(SYS_write, copy, "hello", 5));
    say_peer("recv 5");
}

CASE(by_number_accept)
{
    int l = syscall(SYS_socket, family, SOCK_STREAM, 0);
    struct addr a = my_addr(0);
    say_ret("bind", syscall(SYS_bind, l, &a.sa, a.len));
    say_ret("listen", syscall(SYS_listen, l, 5));
    peer_ok("connect %d", port_of(l));
    int fd = say_fd("accept4", syscall(SYS_accept4, l, &a.sa, &a.len, SOCK_NONBLOCK));
    say("%s", addr_name(&a.sa, a.len));
    say_ret("read", read(fd, buf, 1));
    peer_ok("connect %d", port_of(l));
    say_fd("accept", syscall(SYS_accept, l, NULL, NULL));
    int set = syscall(SYS_epoll_create1, 0);
    struct epoll_event event = {.events = EPOLLOUT, .data.u64 = 0x123456789abcdef0};
    say_ret("epoll_ctl", syscall(SYS_epoll_ctl, set, EPOLL_CTL_ADD, fd, &event));
    memset(&event, 0, sizeof event);
    say_ret("epoll_wait", syscall(SYS_epoll_wait, set, &event, 1, 0));
    say("%s %lx", events_name(event.events), (long)event.data.u64);
}

CASE(fortified)
{
    int fd = active_pair();
    volatile size_t n = 10;
    char small[20];
    peer_ok("send 40");
    wait_bytes(fd, 40);
    say_data("read", read(fd, small, n), small);
    say_data("recv", recv(fd, small, n, 0), small);
    say_data("recvfrom", recvfrom(fd, small, n, 0, NULL, NULL), small);
    say_ret("pread", pread(fd, small, n, 0));
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}};
    say_ret("poll", poll(p, n / 10, 0));
    struct timespec now = {0};
    say_ret("ppoll", ppoll(p, n / 10, &now, NULL));
}

static void on_abort(int sig)
{
    say("aborted");
    _exit(7);
    (void)sig;
}

#define OVERFLOW(NAME, CALL)                                                                                   \
    CASE(NAME)                                                                                                 \
    {                                                                                                          \
        int fd = active_pair();                                                                                \
        volatile size_t n = 30;                                                                                \
        char small[20];                                                                                        \
        signal(SIGABRT, on_abort);                                                                             \
        peer_ok("send 40");                                                                                    \
        wait_bytes(fd, 40);                                                                                    \
        say_ret(#NAME, CALL);                                                                                  \
    }
OVERFLOW(overflow_read, read(fd, small, n))
OVERFLOW(overflow_recv, recv(fd, small, n, 0))
OVERFLOW(overflow_recvfrom, recvfrom(fd, small, n, 0, NULL, NULL))

/* ---- descriptors --------------------------------------------------------------------------------------------------- */

CASE(close_range_over_a_socket)
{
    int keep = dup2(tcp_socket(), 100), fd = dup2(active_pair(), 101), l = dup2(listening(), 102);
    say_ret("close_range", close_range(101, 102, 0));
    say_ret("fd", fcntl(fd, F_GETFD));
    say_ret("listener", fcntl(l, F_GETFD));
    say_ret("kept", fcntl(keep, F_GETFD));
    say_ret("backwards", close_range(10, 5, 0));
    say_ret("bad flags", close_range(5, 10, 64));
    say_ret("recv", recv(fd, buf, 1, 0));
}

CASE(close_range_ends_the_connection)
{
    int fd = active_pair();
    say_ret("close_range", close_range(fd, fd, 0));
    say_peer("recvall");
}

CASE(close_range_cloexec)
{
    int fd = active_pair();
    say_ret("close_range", close_range(fd, fd, CLOSE_RANGE_CLOEXEC));
    say_ret("flags", fcntl(fd, F_GETFD));
    say_ret("send", send(fd, "abc", 3, 0));
    say_peer("recv 3");
}

CASE(closefrom_ends_connections)
{
    int fd = active_pair();
    diff_has_control = 0;
    closefrom(fd);
    say_ret("recv", recv(fd, buf, 1, 0));
    int pipes[2];
    say_ret("pipe takes the number", pipe(pipes) == 0 && pipes[0] == fd);
    say_ret("write", write(pipes[1], "x", 1));
    say_data("read", read(pipes[0], buf, 10), buf);
}

CASE(number_used_again)
{
    int fd = active_pair();
    close(fd);
    int other = udp_socket();
    say("same number: %d", other == fd);
    say_ret("recv", recv(other, buf, 1, MSG_DONTWAIT));
    close(other);
    int file = open("/dev/null", O_RDWR);
    say("same number: %d", file == fd);
    say_ret("write", write(file, "abc", 3));
    say_ret("read", read(file, buf, 3));
    say_ret("recv", recv(file, buf, 3, 0));
}

CASE_KERNEL(socketpair_of_kinds)
{
    int sv[2] = {-1, -1};
    say_ret("unix", socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
    say_ret("send", send(sv[0], "abc", 3, 0));
    say_data("recv", recv(sv[1], buf, 10, 0), buf);
    say_ret("inet", socketpair(family, SOCK_STREAM, 0, sv));
    say_ret("bad", socketpair(AF_UNIX, SOCK_STREAM, 0, bad_memory()));
    say_ret("kind", socketpair(AF_UNIX, 77, 0, sv));
}

CASE_KERNEL(socket_of_kinds)
{
    say_fd("stream tcp", socket(family, SOCK_STREAM, IPPROTO_TCP));
    say_fd("stream udp", socket(family, SOCK_STREAM, IPPROTO_UDP));
    say_fd("dgram tcp", socket(family, SOCK_DGRAM, IPPROTO_TCP));
    say_fd("bad type", socket(family, 77, 0));
    say_fd("bad family", socket(77, SOCK_STREAM, 0));
    say_fd("bad protocol", socket(family, SOCK_STREAM, 300));
    say_fd("bad flags", socket(family, SOCK_STREAM | 0x100000, 0));
    int fd = say_fd("flags", socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    say("%d %d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK), fcntl(fd, F_GETFD));
}

/* Every call on descriptors that are no sockets, and on none. */
static void no_socket(int fd)
{
    struct addr a = peer_addr(9);
    struct iovec one = {buf, 1};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = m};
    int value = 0;
    socklen_t len = sizeof value;
    say_ret("bind", bind(fd, &a.sa, a.len));
    say_ret("listen", listen(fd, 1));
    say_ret("accept", accept(fd, NULL, NULL));
    say_ret("accept4", accept4(fd, NULL, NULL, SOCK_CLOEXEC));
    say_ret("connect", connect(fd, &a.sa, a.len));
    say_ret("shutdown", shutdown(fd, SHUT_WR));
    say_ret("getsockname", getsockname(fd, &a.sa, &a.len));
    say_ret("getpeername", getpeername(fd, &a.sa, &a.len));
    say_ret("getsockopt", getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &len));
    say_ret("setsockopt", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, len));
    say_ret("recv", recv(fd, buf, 1, MSG_DONTWAIT));
    say_ret("recvfrom", recvfrom(fd, buf, 1, MSG_DONTWAIT, NULL, NULL));
    say_ret("recvmsg", recvmsg(fd, &m, MSG_DONTWAIT));
    say_ret("recvmmsg", recvmmsg(fd, &mm, 1, MSG_DONTWAIT, NULL));
    say_ret("send", send(fd, buf, 1, 0));
    say_ret("sendto", sendto(fd, buf, 1, 0, NULL, 0));
    say_ret("sendmsg", sendmsg(fd, &m, 0));
    say_ret("sendmmsg", sendmmsg(fd, &mm, 1, 0));
    say_ret("sockatmark", sockatmark(fd));
    say_ret("isfdtype", isfdtype(fd, S_IFSOCK));
    say_ret("epoll_wait", epoll_wait(fd, (struct epoll_event *)buf, 1, 0));
}

CASE_KERNEL(no_socket_closed)
{
    int fd = tcp_socket();
    close(fd);
    no_socket(fd);
}

CASE(no_socket_that_was_one)
{
    int fd = active_pair();
    close(fd);
    no_socket(fd);
}

CASE_KERNEL(no_socket_negative) { no_socket(-1); }
CASE_KERNEL(no_socket_huge) { no_socket(0x7fffffff); }
CASE_KERNEL(no_socket_file) { no_socket(open("/etc/passwd", O_RDONLY)); }

CASE_KERNEL(no_socket_pipe)
{
    int p[2];
    say_ret("pipe", pipe(p));
    no_socket(p[0]);
}

CASE_KERNEL(no_socket_path) { no_socket(open("/etc", O_PATH)); }
CASE_KERNEL(no_socket_epoll) { no_socket(epoll_create1(0)); }
CASE_KERNEL(no_socket_unix) { no_socket(socket(AF_UNIX, SOCK_STREAM, 0)); }
