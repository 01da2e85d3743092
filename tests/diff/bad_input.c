/*
 * Every call with every wrong argument: closed descriptors, wrong kinds of descriptors, pointers to nothing, lengths
 * that are negative or too long, headers that make no sense.
 */
#include "diff.h"

static char buf[4096];

/* ---- pointers to nothing --------------------------------------------------------------------------------------- */

/* Reads of all kinds into `p`, on a socket that is non-blocking. */
static void reads_into(int fd, void *p, size_t n)
{
    struct iovec one = {p, n}, two[2] = {{buf, 2}, {p, n}}, *bad = bad_memory();
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = m};
    say_ret("read", read(fd, p, n));
    say_ret("recv", recv(fd, p, n, 0));
    say_ret("recv peek", recv(fd, p, n, MSG_PEEK));
    say_ret("recvfrom", recvfrom(fd, p, n, 0, NULL, NULL));
    say_ret("readv", readv(fd, &one, 1));
    say_ret("readv bad vector", readv(fd, bad, 1));
    say_ret("recvmsg", recvmsg(fd, &m, 0));
    say_ret("recvmmsg", recvmmsg(fd, &mm, 1, 0, NULL));
    say_data("readv two", readv(fd, two, 2), buf);
    say_ret("recvmsg null", recvmsg(fd, NULL, 0));
    say_ret("recvmsg bad", recvmsg(fd, bad_memory(), 0));
    say_ret("recvmmsg bad", recvmmsg(fd, bad_memory(), 1, 0, NULL));
}

CASE(read_null_nothing_there) { int fd = active_pair(); nonblocking(fd); reads_into(fd, NULL, 10); }
CASE(read_unmapped_nothing_there) { int fd = active_pair(); nonblocking(fd); reads_into(fd, bad_memory(), 10); }

static void with_data(void *p, size_t n)
{
    int fd = passive_pair();
    nonblocking(fd);
    peer_ok("send 30");
    wait_bytes(fd, 30);
    reads_into(fd, p, n);
    say_data("all is still there", recv(fd, buf, sizeof buf, 0), buf);
}

CASE(read_null) { with_data(NULL, 10); }
CASE(read_unmapped) { with_data(bad_memory(), 10); }
CASE(read_kernel_address) { with_data((void *)-4096L, 10); }
CASE(read_no_address) { with_data((void *)0x8000000000000000UL, 10); }

CASE(read_into_constant)
{
    char *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    with_data(page, 10);
}

CASE(read_at_eof)
{
    int fd = active_pair();
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE_WAIT");
    reads_into(fd, NULL, 10);
}

CASE(length_beyond_memory)
{
    int fd = active_pair();
    char *p = edge(16);
    peer_ok("send 10");
    wait_bytes(fd, 10);
    say_data("recv", recv(fd, p, 100000, 0), p);
    peer_ok("send 16");
    wait_bytes(fd, 16);
    say_data("read", read(fd, p, 0x7ffff000), p);
    nonblocking(fd);
    say_ret("recv nothing", recv(fd, p, -1UL / 2, 0));
    peer_ok("send 5");
    wait_bytes(fd, 5);
    say_data("recv huge", recv(fd, p, -1UL / 2, 0), p);
}

/* MSG_TRUNC on a stream needs no buffer. */
CASE(trunc_needs_no_buffer)
{
    int fd = active_pair();
    peer_ok("send 100");
    wait_bytes(fd, 100);
    say_ret("recv", recv(fd, NULL, 10, MSG_TRUNC));
    say_ret("recv", recv(fd, bad_memory(), 20, MSG_TRUNC));
    say_data("recv", recv(fd, buf, 10, 0), buf);
    say_ret("recv all", recv(fd, NULL, 1000, MSG_TRUNC | MSG_DONTWAIT));
    say_ret("recv more", recv(fd, NULL, 1000, MSG_TRUNC | MSG_DONTWAIT));
}

static void writes_from(int fd, void *p, size_t n)
{
    signal(SIGPIPE, SIG_IGN);
    struct iovec one = {p, n}, two[2] = {{"ab", 2}, {p, n}}, *bad = bad_memory();
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1};
    struct mmsghdr mm = {.msg_hdr = m};
    say_ret("write", write(fd, p, n));
    say_ret("send", send(fd, p, n, 0));
    say_ret("sendto", sendto(fd, p, n, 0, NULL, 0));
    say_ret("writev", writev(fd, &one, 1));
    say_ret("writev two", writev(fd, two, 2));
    say_ret("writev bad vector", writev(fd, bad, 1));
    say_ret("sendmsg", sendmsg(fd, &m, 0));
    say_ret("sendmmsg", sendmmsg(fd, &mm, 1, 0));
    say_ret("sendmsg null", sendmsg(fd, NULL, 0));
    say_ret("sendmsg bad", sendmsg(fd, bad_memory(), 0));
    say_ret("sendmmsg bad", sendmmsg(fd, bad_memory(), 1, 0));
    say_ret("send after all", send(fd, "ok", 2, 0));
}

static void writes_on_connection(void *p)
{
    int fd = active_pair();
    writes_from(fd, p, 10);
    close(fd);
    say_peer("recvall");
}

CASE(write_null) { writes_on_connection(NULL); }
CASE(write_unmapped) { writes_on_connection(bad_memory()); }
CASE(write_kernel_address) { writes_on_connection((void *)-4096L); }

CASE(write_beyond_memory)
{
    int fd = active_pair();
    say_ret("send", send(fd, edge(100), 200, 0));
    say_ret("send huge", send(fd, edge(100), -1UL / 2, MSG_DONTWAIT));
    close(fd);
    say_peer("recvall");
}

CASE(write_null_when_shut)
{
    int fd = active_pair();
    shutdown(fd, SHUT_WR);
    writes_from(fd, NULL, 10);
}

CASE(write_null_when_fresh) { writes_from(tcp_socket(), NULL, 10); }

CASE(udp_pointers)
{
    int fd = udp_pair();
    nonblocking(fd);
    say("nothing there");
    reads_into(fd, NULL, 10);
    say("sends");
    writes_from(fd, bad_memory(), 10);
    say_peer("recvfrom");
    peer_ok("reply 5");
    peer_ok("reply 6");
    wait_events(fd, POLLIN);
    usleep(20000);
    say_ret("recv peek", recv(fd, NULL, 10, MSG_PEEK));
    say_ret("recv", recv(fd, NULL, 10, 0));
    say_data("the next one", recv(fd, buf, sizeof buf, 0), buf);
}

static volatile int pipes;
static void on_pipe(int sig) { pipes++; (void)sig; }

/* A datagram socket that is shut down raises no signal, and says so before it looks at the memory. */
CASE(udp_shut_down)
{
    int fd = udp_pair();
    signal(SIGPIPE, on_pipe);
    say_ret("shutdown", shutdown(fd, SHUT_WR));
    say_ret("send", send(fd, "x", 1, 0));
    say_ret("send bad", send(fd, bad_memory(), 1, 0));
    struct addr a = peer_addr(9);
    say_ret("sendto bad", sendto(fd, NULL, 1, 0, &a.sa, a.len));
    say("signals %d", pipes);
    int other = bound(udp_socket());
    say_ret("unconnected", send(other, NULL, 1, 0));
    say_ret("unconnected, with an address", sendto(other, NULL, 1, 0, &a.sa, a.len));
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

static void names(int fd)
{
    struct addr a = {.len = sizeof a.storage};
    socklen_t len;
    say_ret("getsockname null", getsockname(fd, NULL, &a.len));
    say_ret("getsockname null null", getsockname(fd, NULL, NULL));
    say_ret("getsockname no length", getsockname(fd, &a.sa, NULL));
    say_ret("getsockname bad", getsockname(fd, bad_memory(), &a.len));
    say_ret("getsockname bad length", getsockname(fd, &a.sa, bad_memory()));
    len = -1;
    say_ret("getsockname negative", getsockname(fd, &a.sa, &len));
    len = 0;
    say_ret("getsockname 0", getsockname(fd, NULL, &len));
    say("length %u", len);
    len = 3;
    memset(&a, 0xee, sizeof a);
    say_ret("getsockname 3", getsockname(fd, &a.sa, &len));
    say("length %u, fourth byte %02x", len, ((unsigned char *)&a)[3]);
    len = sizeof a.storage;
    say_ret("getpeername null", getpeername(fd, NULL, &len));
    say_ret("getpeername no length", getpeername(fd, &a.sa, NULL));
    say_ret("getpeername bad", getpeername(fd, bad_memory(), &len));
    len = -5;
    say_ret("getpeername negative", getpeername(fd, &a.sa, &len));
    len = 7;
    say_ret("getpeername 7", getpeername(fd, &a.sa, &len));
    say("length %u", len);
}

CASE(names_active) { names(active_pair()); }
CASE(names_passive) { names(passive_pair()); }
CASE(names_listening) { names(listening()); }
CASE(names_fresh) { names(tcp_socket()); }
CASE(names_udp) { names(udp_pair()); }

CASE(recvfrom_address)
{
    int fd = udp_pair();
    struct addr a;
    socklen_t len;
    send(fd, "x", 1, 0);
    say_peer("recvfrom");
    for (int i = 1; i <= 6; i++)
        peer_ok("reply %d", i);
    say_ret("no length", recvfrom(fd, buf, 100, 0, &a.sa, NULL));
    len = -1;
    say_ret("negative", recvfrom(fd, buf, 100, 0, &a.sa, &len));
    len = 5;
    say_ret("short", recvfrom(fd, buf, 100, 0, &a.sa, &len));
    say("length %u", len);
    len = sizeof a.storage;
    say_ret("bad address", recvfrom(fd, buf, 100, 0, bad_memory(), &len));
    say_ret("bad length", recvfrom(fd, buf, 100, 0, &a.sa, bad_memory()));
    say_ret("null address", recvfrom(fd, buf, 100, 0, NULL, bad_memory()));
    int tcp = active_pair();
    peer_ok("send 4");
    say_ret("tcp no length", recvfrom(tcp, buf, 1, 0, &a.sa, NULL));
    say_ret("tcp bad length", recvfrom(tcp, buf, 1, 0, &a.sa, bad_memory()));
    len = -1;
    say_ret("tcp negative", recvfrom(tcp, buf, 1, 0, &a.sa, &len));
    say_data("tcp last", recvfrom(tcp, buf, 1, 0, NULL, bad_memory()), buf);
}

CASE(accept_address)
{
    int l = listening();
    struct addr a = {.len = sizeof a.storage};
    socklen_t len = -1;
    for (int i = 0; i < 5; i++)
        peer_ok("connect %d", port_of(l));
    say_fd("no length", accept(l, &a.sa, NULL));
    say_fd("negative", accept(l, &a.sa, &len));
    say_fd("bad address", accept(l, bad_memory(), &a.len));
    say_fd("bad flags", accept4(l, &a.sa, &a.len, 0x40000));
    len = 4;
    say_fd("short", accept(l, &a.sa, &len));
    say("length %u", len);
    a.len = sizeof a.storage;
    say_fd("null", accept(l, NULL, bad_memory()));
    nonblocking(l);
    say_fd("none left", accept(l, &a.sa, &a.len));
    say_fd("none left, no length", accept(l, &a.sa, NULL));
    /* What became of the three that were accepted into nowhere. */
    peer_ok("use 0");
    say_peer("recvall");
    peer_ok("use 2");
    say_peer("recvall");
}

static void connects(int fd)
{
    struct addr a = peer_addr(9), bad = peer_addr(0);
    nonblocking(fd);
    say_ret("null", connect(fd, NULL, a.len));
    say_ret("null 0", connect(fd, NULL, 0));
    say_ret("length 0", connect(fd, &a.sa, 0));
    say_ret("length 1", connect(fd, &a.sa, 1));
    say_ret("length 2", connect(fd, &a.sa, 2));
    say_ret("length 8", connect(fd, &a.sa, 8));
    say_ret("negative", connect(fd, &a.sa, -1));
    say_ret("too long", connect(fd, &a.sa, 129));
    say_ret("unmapped", connect(fd, bad_memory(), a.len));
    bad.sa.sa_family = 77;
    say_ret("family 77", connect(fd, &bad.sa, bad.len));
    bad = family == AF_INET6 ? addr_of("10.77.0.1", 9) : addr_of("fd77::1", 9);
    say_ret("other family", connect(fd, &bad.sa, bad.len));
}

CASE(connect_fresh) { connects(tcp_socket()); }
CASE(connect_active) { connects(active_pair()); }
CASE(connect_listening) { connects(listening()); }
CASE(connect_udp) { connects(udp_socket()); }
CASE(connect_udp_bound) { connects(bound(udp_socket())); }

static void binds(int fd)
{
    struct addr a = my_addr(0), bad = my_addr(0);
    say_ret("null", bind(fd, NULL, a.len));
    say_ret("null 0", bind(fd, NULL, 0));
    say_ret("length 1", bind(fd, &a.sa, 1));
    say_ret("length 8", bind(fd, &a.sa, 8));
    say_ret("negative", bind(fd, &a.sa, -1));
    say_ret("too long", bind(fd, &a.sa, 129));
    say_ret("unmapped", bind(fd, bad_memory(), a.len));
    bad.sa.sa_family = 77;
    say_ret("family 77", bind(fd, &bad.sa, bad.len));
    bad.sa.sa_family = AF_UNSPEC;
    say_ret("AF_UNSPEC", bind(fd, &bad.sa, bad.len));
    say_ret("good", bind(fd, &a.sa, a.len));
}

CASE(bind_fresh) { binds(tcp_socket()); }
CASE(bind_udp) { binds(udp_socket()); }
CASE(bind_active) { binds(active_pair()); }
CASE(bind_passive) { binds(passive_pair()); }

/* ---- messages --------------------------------------------------------------------------------------------------- */

static void vectors(int fd)
{
    static struct iovec many[1030];
    struct iovec negative = {buf, -1UL}, two[2] = {{buf, 1}, {buf, 1UL << 63}};
    for (int i = 0; i < 1030; i++)
        many[i] = (struct iovec){"x", 1};
    struct msghdr m = {.msg_iov = many, .msg_iovlen = 1024};
    say_ret("writev 1024", writev(fd, many, 1024));
    say_ret("writev 1025", writev(fd, many, 1025));
    say_ret("writev -1", writev(fd, many, -1));
    say_ret("writev negative", writev(fd, &negative, 1));
    say_ret("writev two", writev(fd, two, 2));
    say_ret("writev null", writev(fd, NULL, 1));
    say_ret("sendmsg 1024", sendmsg(fd, &m, 0));
    m.msg_iovlen = 1025;
    say_ret("sendmsg 1025", sendmsg(fd, &m, 0));
    m.msg_iovlen = -1;
    say_ret("sendmsg -1", sendmsg(fd, &m, 0));
    m.msg_iov = &negative;
    m.msg_iovlen = 1;
    say_ret("sendmsg negative", sendmsg(fd, &m, 0));
    m.msg_iov = NULL;
    say_ret("sendmsg no vector", sendmsg(fd, &m, 0));
    for (int i = 0; i < 1030; i++)
        many[i] = (struct iovec){buf + i, 1};
    m.msg_iov = many;
    m.msg_iovlen = 1025;
    say_ret("recvmsg 1025", recvmsg(fd, &m, MSG_DONTWAIT));
    say_ret("readv 1025", readv(fd, many, 1025));
    say_ret("readv -1", readv(fd, many, -1));
    say_ret("readv negative", readv(fd, &negative, 1));
    m = (struct msghdr){.msg_iov = &negative, .msg_iovlen = 1};
    say_ret("recvmsg negative", recvmsg(fd, &m, MSG_DONTWAIT));
    m = (struct msghdr){.msg_iov = many, .msg_iovlen = 1, .msg_name = buf, .msg_namelen = -1};
    say_ret("recvmsg negative name", recvmsg(fd, &m, MSG_DONTWAIT));
    say_ret("sendmsg negative name", sendmsg(fd, &m, MSG_DONTWAIT));
}

CASE(vectors_tcp) { int fd = active_pair(); vectors(fd); close(fd); say_peer("recvall"); }
CASE(vectors_udp) { vectors(udp_pair()); }

static void controls(int fd)
{
    union {
        char bytes[256];
        struct cmsghdr head;
    } c = {0};
    struct iovec one = {"x", 1};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = CMSG_SPACE(4)};
    static const int levels[] = {SOL_SOCKET, IPPROTO_TCP, 12345};
    for (int i = 0; i < 3; i++) {
        c.head = (struct cmsghdr){.cmsg_len = CMSG_LEN(4), .cmsg_level = levels[i], .cmsg_type = 99};
        say_ret("unknown type", sendmsg(fd, &m, 0));
    }
    c.head = (struct cmsghdr){.cmsg_len = 3, .cmsg_level = SOL_SOCKET, .cmsg_type = 99};
    say_ret("length 3", sendmsg(fd, &m, 0));
    c.head = (struct cmsghdr){.cmsg_len = 0, .cmsg_level = SOL_SOCKET, .cmsg_type = 99};
    say_ret("length 0", sendmsg(fd, &m, 0));
    c.head = (struct cmsghdr){.cmsg_len = 1000, .cmsg_level = SOL_SOCKET, .cmsg_type = 99};
    say_ret("length 1000", sendmsg(fd, &m, 0));
    c.head = (struct cmsghdr){.cmsg_len = -1UL, .cmsg_level = SOL_SOCKET, .cmsg_type = 99};
    say_ret("length -1", sendmsg(fd, &m, 0));
    m.msg_controllen = 7;
    say_ret("control of 7", sendmsg(fd, &m, 0));
    m.msg_controllen = -1UL;
    say_ret("control of -1", sendmsg(fd, &m, 0));
    m.msg_controllen = 1UL << 31;
    say_ret("control of 2 GiB", sendmsg(fd, &m, 0));
    m.msg_controllen = 100;
    m.msg_control = NULL;
    say_ret("no control", sendmsg(fd, &m, 0));
    m.msg_control = bad_memory();
    say_ret("unmapped control", sendmsg(fd, &m, 0));
}

CASE(control_tcp) { int fd = active_pair(); controls(fd); close(fd); say_peer("recvall"); }
CASE(control_udp) { controls(udp_pair()); }

CASE(control_received)
{
    int fd = active_pair();
    peer_ok("send 3");
    wait_bytes(fd, 3);
    struct iovec one = {buf, 1};
    struct msghdr m = {.msg_iov = &one, .msg_iovlen = 1, .msg_control = bad_memory(), .msg_controllen = 100};
    say_data("unmapped control", recvmsg(fd, &m, 0), buf);
    say("control length %zu flags %x", m.msg_controllen, m.msg_flags);
    m = (struct msghdr){.msg_iov = &one, .msg_iovlen = 1, .msg_control = buf + 9, .msg_controllen = 3, .msg_flags = -1};
    say_data("short control", recvmsg(fd, &m, 0), buf);
    say("control length %zu flags %x", m.msg_controllen, m.msg_flags);
    m = (struct msghdr){.msg_iov = &one, .msg_iovlen = 1, .msg_control = NULL, .msg_controllen = 300};
    say_data("no control", recvmsg(fd, &m, 0), buf);
    say("control length %zu flags %x", m.msg_controllen, m.msg_flags);
}

/* ---- options ---------------------------------------------------------------------------------------------------- */

static void options(int fd)
{
    int value = 1;
    socklen_t len = sizeof value;
    say_ret("get null", getsockopt(fd, SOL_SOCKET, SO_TYPE, NULL, &len));
    say_ret("get no length", getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, NULL));
    say_ret("get unmapped", getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, bad_memory(), &len));
    say_ret("get unmapped length", getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, bad_memory()));
    len = -1;
    say_ret("get negative", getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, &len));
    len = 0;
    say_ret("get 0", getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, &len));
    len = 2;
    value = -1;
    say_ret("get 2", getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, &len));
    say("length %u value %x", len, value);
    len = 100;
    say_ret("get 100", getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, buf, &len));
    say("length %u", len);
    len = 4;
    say_ret("get unknown", getsockopt(fd, SOL_SOCKET, 4711, &value, &len));
    say_ret("get unknown level", getsockopt(fd, 4711, 1, &value, &len));
    value = 1;
    say_ret("set null", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, NULL, 4));
    say_ret("set unmapped", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, bad_memory(), 4));
    say_ret("set 3", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, 3));
    say_ret("set 0", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, 0));
    say_ret("set negative", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, -1));
    say_ret("set long", setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, buf, 1000));
    say_ret("set unknown", setsockopt(fd, SOL_SOCKET, 4711, &value, 4));
    say_ret("set unknown level", setsockopt(fd, 4711, 1, &value, 4));
}

CASE(options_active) { options(active_pair()); }
CASE(options_fresh) { options(tcp_socket()); }
CASE(options_udp) { options(udp_pair()); }
