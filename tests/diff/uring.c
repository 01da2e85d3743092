/* io_uring on sockets, by liburing and by system calls of its own. diff: cflags=-Xlinker,--no-as-needed,-luring */
#include "diff.h"
#include <liburing.h>

static char buf[300000];
static struct io_uring ring;

static void begin(unsigned flags)
{
    int e = io_uring_queue_init(16, &ring, flags);
    if (e < 0) {
        errno = -e;
        give_up("io_uring_queue_init");
    }
}

static struct io_uring_sqe *entry(uint64_t mark)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    sqe->user_data = mark;
    return sqe;
}

/* The result of one request, as system calls have it. */
static long outcome(const char *what)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec limit = {.tv_sec = 5};
    int e = io_uring_wait_cqe_timeout(&ring, &cqe, &limit);
    long ret = e < 0 ? e : cqe->res;
    if (e >= 0)
        io_uring_cqe_seen(&ring, cqe);
    errno = ret < 0 ? -ret : 0;
    say_ret(what, ret < 0 ? -1 : ret);
    return ret;
}

static long finish(const char *what)
{
    int e = io_uring_submit(&ring);
    if (e < 0)
        say("submit %s", errno_name(-e));
    return outcome(what);
}

/* `wanted` bytes by requests of the ring. */
static void receive(int fd, long wanted)
{
    long got = 0;
    while (got < wanted) {
        struct io_uring_sqe *sqe = entry(1);
        io_uring_prep_recv(sqe, fd, buf + got, sizeof buf - got, 0);
        struct io_uring_cqe *cqe;
        if (io_uring_submit_and_wait(&ring, 1) < 0 || io_uring_wait_cqe(&ring, &cqe))
            give_up("wait");
        long ret = cqe->res;
        io_uring_cqe_seen(&ring, cqe);
        if (ret <= 0) {
            errno = -ret;
            say_ret("recv", ret < 0 ? -1 : 0);
            return;
        }
        got += ret;
    }
    say_data("received", got, buf);
}

CASE_KERNEL(connection_that_was_ours)
{
    int fd = active_pair();
    say_ret("send", send(fd, "before ", 7, 0));
    peer_ok("send 30");
    wait_bytes(fd, 30);
    say_data("recv", recv(fd, buf, 10, 0), buf);
    begin(0);
    receive(fd, 20);
    io_uring_prep_send(entry(2), fd, "ring", 4, 0);
    finish("send");
    say_ret("send", send(fd, " after", 6, 0));
    say_peer("recv 17");
    say_ret("shutdown", shutdown(fd, SHUT_WR));
    say_peer("recvall");
    peer_ok("shutdown w");
    receive(fd, 1);
}

CASE_KERNEL(much_that_waits)
{
    int fd = active_pair();
    peer_ok("send 200000");
    wait_bytes(fd, 20000);
    say_data("recv", recv(fd, buf, 15000, MSG_WAITALL), buf);
    begin(0);
    receive(fd, 185000);
}

static int accept_one(int l)
{
    struct io_uring_cqe *cqe;
    io_uring_prep_accept(entry(1), l, NULL, NULL, 0);
    io_uring_submit(&ring);
    peer_ok("connect %d", port_of(l));
    if (io_uring_wait_cqe(&ring, &cqe) || cqe->res < 0)
        give_up("accept: %d", cqe->res);
    int fd = cqe->res;
    io_uring_cqe_seen(&ring, cqe);
    return fd;
}

/* Bytes that came before the next request stay with the first connection. */
CASE_KERNEL(accepting)
{
    begin(0);
    int l = listening(), fd = accept_one(l);
    peer_ok("send 10");
    say("another %d", accept_one(l) != fd);
    receive(fd, 10);
}

CASE_KERNEL(accepted_by_the_ring)
{
    begin(0);
    int l = listening(), fd = accept_one(l);
    peer_ok("send 10");
    receive(fd, 10);
    say_ret("send", send(fd, "hello", 5, 0));
    io_uring_prep_write(entry(1), fd, "world", 5, 0);
    finish("write");
    say_peer("recv 10");
    peer_ok("send 5");
    say_data("read", read(fd, buf, 5), buf);
    io_uring_prep_shutdown(entry(1), fd, SHUT_WR);
    finish("shutdown");
    say_peer("recvall");
    io_uring_prep_close(entry(1), fd);
    finish("close");
    say_ret("read", read(fd, buf, 5));
}

CASE_KERNEL(number_that_comes_again)
{
    begin(0);
    int fd = active_pair();
    say_ret("send", send(fd, "first", 5, 0));
    say_peer("recv 5");
    io_uring_prep_close(entry(1), fd);
    finish("close");
    say_peer("recvall");
    int again = active_pair();
    say("same %d", fd == again);
    say_ret("send", send(again, "second", 6, 0));
    say_peer("recv 6");
    receive(again, 0);
    int l = listening();
    close(again);
    int third = accept_one(l);
    say("same %d", again == third);
    say_ret("send", send(third, "third", 5, 0));
    say_peer("recv 5");
}

CASE_KERNEL(connecting_by_the_ring)
{
    begin(0);
    int fd = tcp_socket();
    struct addr a = peer_addr(peer_number("listen"));
    io_uring_prep_connect(entry(1), fd, &a.sa, a.len);
    finish("connect");
    peer_ok("accept");
    say_ret("send", send(fd, "hello", 5, 0));
    say_peer("recv 5");
    peer_ok("send 7");
    receive(fd, 7);
    fd = tcp_socket();
    a = peer_addr(peer_number("free"));
    io_uring_prep_connect(entry(1), fd, &a.sa, a.len);
    finish("connect");
}

CASE_KERNEL(polling)
{
    begin(0);
    int fd = active_pair();
    struct io_uring_sqe *sqe = entry(1);
    io_uring_prep_poll_add(sqe, fd, POLLIN | POLLRDHUP);
    io_uring_submit(&ring);
    peer_ok("send 3");
    outcome("poll");
    say_data("recv", recv(fd, buf, 10, 0), buf);
    io_uring_prep_poll_add(entry(1), fd, POLLIN | POLLOUT);
    finish("poll");
    io_uring_prep_poll_add(entry(1), fd, POLLIN | POLLRDHUP);
    io_uring_submit(&ring);
    peer_ok("close");
    outcome("poll");
}

CASE_KERNEL(polling_a_set)
{
    begin(0);
    int fd = active_pair(), set = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = 77};
    say_ret("ADD", epoll_ctl(set, EPOLL_CTL_ADD, fd, &e));
    say_ret("epoll_wait", epoll_wait(set, &e, 1, 0));
    io_uring_prep_poll_add(entry(1), set, POLLIN);
    io_uring_submit(&ring);
    peer_ok("send 3");
    outcome("poll");
    say_ret("epoll_wait", epoll_wait(set, &e, 1, 1000));
    say("%d %s", (int)e.data.u64, events_name(e.events));
    say_data("recv", recv(fd, buf, 10, 0), buf);
    say_ret("epoll_wait", epoll_wait(set, &e, 1, 0));
}

CASE_KERNEL(set_filled_by_the_ring)
{
    begin(0);
    int fd = active_pair(), set = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = 78};
    io_uring_prep_epoll_ctl(entry(1), set, fd, EPOLL_CTL_ADD, &e);
    finish("epoll_ctl");
    peer_ok("send 3");
    say_ret("epoll_wait", epoll_wait(set, &e, 1, 5000));
    say("%d %s", (int)e.data.u64, events_name(e.events));
    say_data("recv", recv(fd, buf, 10, 0), buf);
}

CASE_KERNEL(registered_files)
{
    begin(0);
    int fds[2] = {active_pair(), -1};
    say_ret("register", io_uring_register_files(&ring, fds, 2));
    peer_ok("send 9");
    struct io_uring_sqe *sqe = entry(1);
    io_uring_prep_recv(sqe, 0, buf, 100, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    finish("recv");
    say_data("recv", 9, buf);
    int more = active_pair();
    say_ret("update", io_uring_register_files_update(&ring, 1, &more, 1));
    sqe = entry(1);
    io_uring_prep_send(sqe, 1, "indexed", 7, 0);
    sqe->flags |= IOSQE_FIXED_FILE;
    finish("send");
    say_peer("recv 7");
}

CASE_KERNEL(datagrams)
{
    begin(0);
    int fd = udp_pair();
    say_ret("send", send(fd, "one", 3, 0));
    say_peer("recvfrom");
    io_uring_prep_send(entry(1), fd, "two", 3, 0);
    finish("send");
    say_peer("recvfrom");
    struct iovec part = {buf, sizeof buf};
    struct addr from = {.len = sizeof from.storage};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_name = &from.sa, .msg_namelen = from.len};
    io_uring_prep_recvmsg(entry(1), fd, &m, 0);
    io_uring_submit(&ring);
    peer_ok("reply 50");
    say_data("recvmsg", outcome("recvmsg"), buf);
    say("%s", addr_name(&from.sa, m.msg_namelen));
    say_ret("send", send(fd, "three", 5, 0));
    say_peer("recvfrom");
}

CASE_KERNEL(linked)
{
    begin(0);
    int fd = active_pair();
    for (int i = 0; i < 3; i++) {
        struct io_uring_sqe *sqe = entry(i);
        io_uring_prep_send(sqe, fd, "abc" + i, 1, MSG_MORE);
        sqe->flags |= IOSQE_IO_LINK;
    }
    io_uring_prep_shutdown(entry(3), fd, SHUT_WR);
    say_ret("submit", io_uring_submit_and_wait(&ring, 4));
    for (int i = 0; i < 4; i++)
        outcome("part");
    say_peer("recvall");
}

CASE_KERNEL(thread_of_the_kernel)
{
    begin(IORING_SETUP_SQPOLL);
    int fd = active_pair();
    say_ret("send", send(fd, "one", 3, 0));
    io_uring_prep_send(entry(1), fd, "two", 3, 0);
    finish("send");
    say_peer("recv 6");
    peer_ok("send 6");
    receive(fd, 6);
}

/* A pipe beside a connection: the connection stays where it is. */
CASE(files_only)
{
    begin(0);
    int fd = active_pair(), ends[2];
    if (pipe(ends))
        give_up("pipe");
    io_uring_prep_write(entry(1), ends[1], "piped", 5, 0);
    finish("write");
    io_uring_prep_read(entry(1), ends[0], buf, 100, 0);
    finish("read");
    say_data("read", 5, buf);
    say_ret("send", send(fd, "hello", 5, 0));
    say_peer("recv 5");
    peer_ok("send 5");
    say_data("recv", recv(fd, buf, 5, 0), buf);
}

/* ---- without liburing ------------------------------------------------------------------------------------------- */

static struct {
    int fd;
    char *rings;
    struct io_uring_sqe *sqes;
    struct io_uring_params p;
} bare;

static void bare_begin(void)
{
    bare.fd = syscall(SYS_io_uring_setup, 8, &bare.p);
    if (bare.fd < 0)
        give_up("io_uring_setup");
    size_t size = bare.p.cq_off.cqes + bare.p.cq_entries * sizeof(struct io_uring_cqe);
    bare.rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, bare.fd, IORING_OFF_SQ_RING);
    bare.sqes = mmap(NULL, bare.p.sq_entries * sizeof *bare.sqes, PROT_READ | PROT_WRITE, MAP_SHARED, bare.fd,
        IORING_OFF_SQES);
    if (bare.rings == MAP_FAILED || bare.sqes == MAP_FAILED)
        give_up("mmap");
}

#define AT(FIELD) ((unsigned *)(bare.rings + (FIELD)))

static long bare_request(const char *what, int op, int fd, const void *data, unsigned length)
{
    unsigned tail = *AT(bare.p.sq_off.tail), at = tail & *AT(bare.p.sq_off.ring_mask);
    struct io_uring_sqe *sqe = bare.sqes + at;
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = op;
    sqe->fd = fd;
    sqe->addr = (uintptr_t)data;
    sqe->len = length;
    AT(bare.p.sq_off.array)[at] = at;
    __atomic_store_n(AT(bare.p.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
    long done = syscall(SYS_io_uring_enter, bare.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    if (done != 1)
        say_ret("enter", done);
    unsigned head = *AT(bare.p.cq_off.head);
    struct io_uring_cqe *cqes = (void *)(bare.rings + bare.p.cq_off.cqes);
    long ret = cqes[head & *AT(bare.p.cq_off.ring_mask)].res;
    __atomic_store_n(AT(bare.p.cq_off.head), head + 1, __ATOMIC_RELEASE);
    errno = ret < 0 ? -ret : 0;
    return say_ret(what, ret < 0 ? -1 : ret);
}

CASE_KERNEL(bare_ring)
{
    int fd = active_pair();
    say_ret("send", send(fd, "one", 3, 0));
    bare_begin();
    bare_request("send", IORING_OP_SEND, fd, "two", 3);
    say_peer("recv 6");
    peer_ok("send 20");
    wait_bytes(fd, 20);
    say_data("recv", bare_request("recv", IORING_OP_RECV, fd, buf, 100), buf);
    say_ret("send", send(fd, "three", 5, 0));
    bare_request("close", IORING_OP_CLOSE, fd, NULL, 0);
    say_peer("recvall");
}

CASE_KERNEL(bare_ring_with_files)
{
    bare_begin();
    int fd = active_pair();
    say_ret("register", syscall(SYS_io_uring_register, bare.fd, IORING_REGISTER_FILES, &fd, 1));
    say_ret("send", send(fd, "one", 3, 0));
    say_peer("recv 3");
    close(bare.fd);
    say_ret("send", send(fd, "two", 3, 0));
    say_peer("recv 3");
}
