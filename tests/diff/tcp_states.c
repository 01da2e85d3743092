/* Every call in every state of a TCP socket. diff: modes=v4,v6 */
#include "tcp_states.h"

static char buf[4096];

static void say_state(int fd)
{
    int error = -1;
    socklen_t len = sizeof error;
    say("state %s, events %s", tcp_state(fd),
        events_name(wait_events_ms(fd, POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM, 0)));
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    say("SO_ERROR %s, events %s", errno_name(error), events_name(wait_events_ms(fd, POLLIN | POLLOUT | POLLRDHUP, 0)));
}

static void say_name(const char *what, int ret, struct addr *a)
{
    if (ret)
        say_ret(what, ret);
    else
        say("%s = 0 %s port %s", what, addr_name(&a->sa, a->len),
            (family == AF_INET6 ? a->in6.sin6_port : a->in.sin_port) ? "set" : "0");
}

static void op_names(int fd)
{
    int value = -1;
    socklen_t len = sizeof value;
    struct addr a = {.len = sizeof a.storage};
    say_name("getsockname", getsockname(fd, &a.sa, &a.len), &a);
    a.len = sizeof a.storage;
    say_name("getpeername", getpeername(fd, &a.sa, &a.len), &a);
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &len);
    say("SO_ACCEPTCONN %d", value);
    say_state(fd);
}
IN_EVERY_STATE(names)
IN_STATE(names, passive)

static void op_recv(int fd)
{
    struct addr a = {.len = sizeof a.storage};
    struct iovec iov[2] = {{buf, 2}, {buf + 2, 1}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2, .msg_name = &a.storage, .msg_namelen = sizeof a.storage};
    say_data("peek", recv(fd, buf, 2, MSG_PEEK), buf);
    say_data("recv", recv(fd, buf, 2, 0), buf);
    say_data("read", read(fd, buf, 2), buf);
    say_data("readv", readv(fd, iov, 2), buf);
    say_data("recvfrom", recvfrom(fd, buf, 1, 0, &a.sa, &a.len), buf);
    say("address length %u", a.len);
    long n = recvmsg(fd, &m, 0);
    say_data("recvmsg", n, buf);
    say("flags %x, name length %u, control length %zu", n < 0 ? 0 : m.msg_flags, m.msg_namelen, m.msg_controllen);
    say_data("recv again", recv(fd, buf, 1, MSG_DONTWAIT), buf);
    say_data("waitall", recv(fd, buf, 4, MSG_WAITALL | MSG_DONTWAIT), buf);
    say_state(fd);
}
IN_EVERY_STATE(recv)
IN_STATE(recv, passive)

static void op_recv_nothing(int fd)
{
    struct iovec iov[2] = {{buf, 0}, {buf, 0}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 0};
    say_ret("recv 0", recv(fd, buf, 0, 0));
    say_ret("recv 0 peek", recv(fd, buf, 0, MSG_PEEK));
    say_ret("read 0", read(fd, buf, 0));
    say_ret("read 0 null", read(fd, NULL, 0));
    say_ret("readv 0", readv(fd, iov, 0));
    say_ret("readv 2 empty", readv(fd, iov, 2));
    say_ret("recvmsg 0", recvmsg(fd, &m, 0));
    say_ret("send 0", send(fd, buf, 0, MSG_NOSIGNAL));
    say_ret("send 0 null", send(fd, NULL, 0, MSG_NOSIGNAL));
    signal(SIGPIPE, SIG_IGN);
    say_ret("write 0", write(fd, buf, 0));
    say_ret("writev 0", writev(fd, iov, 0));
    say_ret("writev 2 empty", writev(fd, iov, 2));
    say_ret("sendmsg 0", sendmsg(fd, &m, 0));
    say_state(fd);
}
IN_EVERY_STATE(recv_nothing)
IN_STATE(recv_nothing, passive)

static void op_send(int fd)
{
    signal(SIGPIPE, SIG_IGN);
    struct addr a = peer_addr(9);
    struct iovec iov[2] = {{"ab", 2}, {"c", 1}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    say_ret("send", send(fd, "x", 1, 0));
    say_ret("write", write(fd, "y", 1));
    say_ret("writev", writev(fd, iov, 2));
    say_ret("sendto null", sendto(fd, "z", 1, 0, NULL, 0));
    say_ret("sendto address", sendto(fd, "z", 1, 0, &a.sa, a.len));
    say_ret("sendmsg", sendmsg(fd, &m, 0));
    m.msg_name = &a.storage;
    m.msg_namelen = a.len;
    say_ret("sendmsg address", sendmsg(fd, &m, 0));
    say_ret("send more", send(fd, "x", 1, MSG_MORE | MSG_NOSIGNAL | MSG_CONFIRM));
    say("state %s", tcp_state(fd));
}
IN_EVERY_STATE(send)
IN_STATE(send, passive)

static volatile int pipes;
static void on_pipe(int sig) { pipes++; (void)sig; }

static void op_sigpipe(int fd)
{
    signal(SIGPIPE, on_pipe);
    struct iovec iov = {"ab", 2};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = m};
    send(fd, "x", 1, MSG_NOSIGNAL);
    say("no signal: %d", pipes);
    send(fd, "x", 1, 0);
    say("send: %d", pipes);
    write(fd, "x", 1);
    say("write: %d", pipes);
    sendmsg(fd, &m, 0);
    say("sendmsg: %d", pipes);
    sendmmsg(fd, &mm, 1, 0);
    say("sendmmsg: %d", pipes);
}
IN_EVERY_STATE(sigpipe)
IN_STATE(sigpipe, passive)

static void op_shutdown_rd(int fd)
{
    say_ret("shutdown RD", shutdown(fd, SHUT_RD));
    say_state(fd);
    say_data("recv", recv(fd, buf, 20, 0), buf);
    say_data("recv", recv(fd, buf, 20, 0), buf);
    say_ret("send", send(fd, "x", 1, MSG_NOSIGNAL));
    say_ret("shutdown RD again", shutdown(fd, SHUT_RD));
}
IN_EVERY_STATE(shutdown_rd)
IN_STATE(shutdown_rd, passive)

static void op_shutdown_wr(int fd)
{
    say_ret("shutdown WR", shutdown(fd, SHUT_WR));
    say_ret("send", send(fd, "x", 1, MSG_NOSIGNAL));
    say_data("recv", recv(fd, buf, 20, 0), buf);
    /* The acknowledgement of our FIN may end the connection: it has the time. */
    usleep(30000);
    wait_events_ms(fd, POLLIN, 0);
    say_ret("shutdown WR again", shutdown(fd, SHUT_WR));
    say_ret("shutdown 3", shutdown(fd, 3));
    say_ret("shutdown -1", shutdown(fd, -1));
}
IN_EVERY_STATE(shutdown_wr)
IN_STATE(shutdown_wr, passive)

static void op_shutdown_rdwr(int fd)
{
    say_ret("shutdown RDWR", shutdown(fd, SHUT_RDWR));
    say("events %s", events_name(wait_events_ms(fd, POLLIN | POLLOUT | POLLRDHUP, 0)));
    say_data("recv", recv(fd, buf, 20, 0), buf);
    say_ret("send", send(fd, "x", 1, MSG_NOSIGNAL));
    say_ret("shutdown RDWR again", shutdown(fd, SHUT_RDWR));
}
IN_EVERY_STATE(shutdown_rdwr)
IN_STATE(shutdown_rdwr, passive)

static void op_listen(int fd)
{
    struct addr a = {.len = sizeof a.storage};
    int error = 0;
    socklen_t len = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
    say_ret("accept", accept(fd, &a.sa, &a.len));
    say_ret("listen", listen(fd, 5));
    say_ret("listen again", listen(fd, -1));
    say_ret("accept", accept(fd, &a.sa, &a.len));
    say_ret("accept4 bad flags", accept4(fd, &a.sa, &a.len, 1));
    say_state(fd);
}
IN_EVERY_STATE(listen)
IN_STATE(listen, passive)

static void op_bind(int fd)
{
    struct addr a = my_addr(0), other = addr_of("192.0.2.1", 0), wrong = {.len = sizeof a.storage};
    say_ret("bind not ours", bind(fd, &other.sa, other.len));
    wrong.sa.sa_family = AF_UNIX;
    say_ret("bind AF_UNIX", bind(fd, &wrong.sa, wrong.len));
    say_ret("bind short", bind(fd, &a.sa, 4));
    say_ret("bind", bind(fd, &a.sa, a.len));
    say_ret("bind again", bind(fd, &a.sa, a.len));
}
IN_EVERY_STATE(bind)
IN_STATE(bind, passive)

static void op_connect(int fd)
{
    int port = peer_number("listen");
    struct addr a = peer_addr(port), wrong = {.len = sizeof a.storage};
    wrong.sa.sa_family = AF_UNIX;
    say_ret("connect AF_UNIX", connect(fd, &wrong.sa, wrong.len));
    say_ret("connect short", connect(fd, &a.sa, 4));
    say_ret("connect", connect(fd, &a.sa, a.len));
    if (strcmp(tcp_state(fd), "SYN_SENT") == 0 && wait_events_ms(fd, POLLOUT, 200) == 0)
        say("still connecting");
    say_state(fd);
    say_ret("connect again", connect(fd, &a.sa, a.len));
    say_ret("connect a third time", connect(fd, &a.sa, a.len));
}
IN_EVERY_STATE(connect)
IN_STATE(connect, passive)

static void op_dissolve(int fd)
{
    struct addr a = {.len = sizeof a.storage};
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    say_ret("connect AF_UNSPEC", connect(fd, &none, sizeof none));
    say_state(fd);
    say_name("getsockname", getsockname(fd, &a.sa, &a.len), &a);
    a.len = sizeof a.storage;
    say_name("getpeername", getpeername(fd, &a.sa, &a.len), &a);
    say_data("recv", recv(fd, buf, 20, 0), buf);
    say_ret("send", send(fd, "x", 1, MSG_NOSIGNAL));
    a = peer_addr(peer_number("listen"));
    say_ret("connect", connect(fd, &a.sa, a.len));
    say("events %s", events_name(wait_events_ms(fd, POLLOUT, 500)));
}
IN_EVERY_STATE(dissolve)
CASE_KNOWN_WIRE(dissolve_passive, "getsockname of an accepted socket after connect to AF_UNSPEC: the port is not shown")
{
    op_dissolve(in_passive());
}

static void op_ioctl(int fd)
{
    int n = -77, off = 0;
    say_ret("FIONREAD", ioctl(fd, FIONREAD, &n));
    say("%d", n);
    n = -77;
    /* In a socket whose connection is over Linux leaves arbitrary numbers. */
    int over = !strcmp(tcp_state(fd), "CLOSE");
    say_ret("SIOCOUTQ", ioctl(fd, SIOCOUTQ, &n));
    say("%d", over ? 0 : n);
    n = -77;
    say_ret("SIOCOUTQNSD", ioctl(fd, 0x894B, &n));
    say("%d", over ? 0 : n);
    n = -77;
    say_ret("SIOCATMARK", ioctl(fd, SIOCATMARK, &n));
    say("%d", n);
    say_ret("sockatmark", sockatmark(fd));
    say_ret("isfdtype", isfdtype(fd, S_IFSOCK));
    say_ret("FIONBIO", ioctl(fd, FIONBIO, &off));
    say("nonblocking: %d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    say_ret("FIONREAD null", ioctl(fd, FIONREAD, NULL));
    say_ret("FIONREAD bad", ioctl(fd, FIONREAD, bad_memory()));
    say_ret("lseek", lseek(fd, 0, SEEK_CUR));
    say_ret("pread", pread(fd, buf, 1, 0));
    say_ret("pwrite", pwrite(fd, buf, 1, 0));
    say_ret("ftruncate", ftruncate(fd, 0));
    say_ret("fsync", fsync(fd));
}
IN_EVERY_STATE(ioctl)
IN_STATE(ioctl, passive)

static void op_close(int fd)
{
    say_ret("close", close(fd));
    say_ret("recv", recv(fd, buf, 1, 0));
    say_ret("send", send(fd, buf, 1, 0));
    say_ret("shutdown", shutdown(fd, SHUT_RD));
    say_ret("close again", close(fd));
}
IN_EVERY_STATE(close)
IN_STATE(close, passive)
