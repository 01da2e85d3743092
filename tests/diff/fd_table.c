/* Descriptor numbers: dup in all forms, close_range, numbers used again, what is asked of a descriptor. diff: modes=v4,v6 */
#include "diff.h"
#include <dirent.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

static char buf[4096];

static void still_works(int fd)
{
    say_ret("send", send(fd, "abc", 3, MSG_NOSIGNAL));
    say_peer("recv 3");
    peer_ok("send 4");
    wait_bytes(fd, 4);
    say_data("recv", recv(fd, buf, sizeof buf, 0), buf);
}

CASE(dup_shares)
{
    int fd = active_pair(), d = say_fd("dup", dup(fd));
    nonblocking(fd);
    say("O_NONBLOCK of the copy %d", !!(fcntl(d, F_GETFL) & O_NONBLOCK));
    say_ret("recv by the copy", recv(d, buf, 10, 0));
    int off = 0;
    say_ret("FIONBIO", ioctl(d, FIONBIO, &off));
    say("O_NONBLOCK of the first %d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    int one = 1, got = 0;
    socklen_t len = sizeof got;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    say_ret("getsockopt", getsockopt(d, IPPROTO_TCP, TCP_NODELAY, &got, &len));
    say("nodelay %d", got);
    say_ret("close the first", close(fd));
    say("peer %s", peer("quiet 30"));
    still_works(d);
    say_ret("shutdown", shutdown(d, SHUT_WR));
    say_peer("recvall");
    say_ret("close", close(d));
    say_ret("closed", recv(d, buf, 1, 0));
}

CASE(dup_then_fin_on_last_close)
{
    int fd = passive_pair(), d = dup(fd), e = fcntl(d, F_DUPFD, 100), f = dup2(d, 200), g = dup3(d, 201, O_CLOEXEC);
    say("numbers %d %d %d", e >= 100, f == 200, g == 201);
    say("cloexec %d %d %d %d", fcntl(d, F_GETFD), fcntl(e, F_GETFD), fcntl(f, F_GETFD), fcntl(g, F_GETFD));
    close(fd);
    close(e);
    close(d);
    close(g);
    still_works(f);
    close(f);
    say_peer("recvall");
}

CASE(dup_nonsense)
{
    int fd = active_pair(), other = active_pair();
    say_ret("dup -1", dup(-1));
    say_ret("dup2 onto itself", dup2(fd, fd) == fd);
    say_ret("dup2 bad onto itself", dup2(950, 950));
    say_ret("dup2 bad", dup2(-1, fd));
    say_ret("dup2 closed", dup2(950, fd));
    say_ret("dup2 onto -1", dup2(fd, -1));
    say_ret("dup2 too high", dup2(fd, 1 << 30));
    say_ret("dup3 onto itself", dup3(fd, fd, 0));
    say_ret("dup3 bad onto itself", dup3(950, 950, 0));
    say_ret("dup3 bad flags", dup3(fd, other, 1));
    say_ret("dup3 bad flags, bad descriptor", dup3(-1, other, 1));
    say_ret("F_DUPFD -1", fcntl(fd, F_DUPFD, -1));
    say_ret("F_DUPFD too high", fcntl(fd, F_DUPFD, 1 << 30));
    say_ret("F_DUPFD bad", fcntl(-1, F_DUPFD, 0));
    int d = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    say("F_DUPFD_CLOEXEC %d %d", d > 0, fcntl(d, F_GETFD));
    still_works(other);
}

CASE(dup2_closes_the_target)
{
    int fd = active_pair(), other = active_pair();
    say("same number %d", dup2(fd, other) == other);
    say_peer("recvall");
    say_ret("send", send(other, "xyz", 3, 0));
    say_ret("close", close(fd));
    say_ret("send", send(other, "uvw", 3, 0));
}

CASE(dup2_over_other_kinds)
{
    int fd = active_pair(), f = memfd_create("f", 0), e = epoll_create1(0), t = eventfd(0, 0);
    dup2(fd, f);
    dup2(fd, e);
    say_ret("send by what was a file", send(f, "a", 1, 0));
    say_ret("send by what was a set", send(e, "b", 1, 0));
    say_ret("eventfd over it", dup2(t, f) == f);
    uint64_t n = 5;
    say_ret("write", write(f, &n, 8));
    say_ret("read", read(t, &n, 8));
    close(fd);
    say_ret("send", send(e, "c", 1, 0));
    say_peer("recv 3");
}

CASE(dup2_onto_stdin)
{
    int fd = active_pair();
    say("onto 0 %d", dup2(fd, 0));
    close(fd);
    say_ret("write", write(0, "abc", 3));
    say_peer("recv 3");
    peer_ok("send 4");
    say_data("read", read(0, buf, 10), buf);
    peer_ok("shutdown w");
    say_ret("read", read(0, buf, 10));
}

CASE(dup_in_epoll)
{
    int fd = active_pair(), d = dup(fd), ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = 1}, got[4];
    say_ret("add first", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
    e.data.u64 = 2;
    say_ret("add copy", epoll_ctl(ep, EPOLL_CTL_ADD, d, &e));
    peer_ok("send 1");
    wait_bytes(fd, 1);
    say_ret("both", epoll_wait(ep, got, 4, 1000));
    say_ret("del copy", epoll_ctl(ep, EPOLL_CTL_DEL, d, NULL));
    say_ret("one", epoll_wait(ep, got, 4, 1000));
    say("data %d", (int)got[0].data.u64);
    close(fd);
    say_ret("closed, but open", epoll_wait(ep, got, 4, 1000));
    say("data %d", (int)got[0].data.u64);
    close(d);
    say_ret("gone", epoll_wait(ep, got, 4, 50));
}

CASE(number_used_again)
{
    int fd = active_pair(), p[2];
    close(fd);
    say_peer("recvall");
    int f = memfd_create("f", 0);
    say("same number %d", f == fd);
    say_ret("write", write(f, "data", 4));
    say_ret("recv", recv(f, buf, 10, 0));
    struct stat st;
    fstat(f, &st);
    say("file %d size %d", S_ISREG(st.st_mode), (int)st.st_size);
    close(f);
    say_ret("pipe", pipe(p));
    say("same number %d", p[0] == fd);
    say_ret("write", write(p[1], "xy", 2));
    say_data("read", read(p[0], buf, 10), buf);
    close(p[0]);
    close(p[1]);
    int t = timerfd_create(CLOCK_MONOTONIC, 0);
    say("same number %d", t == fd);
    struct itimerspec it = {.it_value.tv_nsec = 1000};
    timerfd_settime(t, 0, &it, NULL);
    uint64_t n;
    say_ret("read", read(t, &n, 8));
    close(t);
    int again = active_pair();
    still_works(again);
}

CASE(closed_inside_libc)
{
    int fd = active_pair();
    FILE *f = fdopen(fd, "r+");
    setvbuf(f, NULL, _IONBF, 0);
    say("fdopen %d", f != NULL);
    say("fputs %d", fputs("line\n", f) >= 0);
    say_peer("recv 5");
    peer_ok("send 5");
    say_data("fread", fread(buf, 1, 5, f), buf);
    say_ret("fclose", fclose(f));
    say_peer("recvall");
    int other = active_pair();
    say("same number %d", other == fd);
    still_works(other);
}

CASE_KERNEL(fdopen_before_connect)
{
    int fd = tcp_socket();
    FILE *f = fdopen(fd, "r+");
    struct addr a = peer_addr(peer_number("listen"));
    setvbuf(f, NULL, _IONBF, 0);
    say_ret("connect", connect(fd, &a.sa, a.len));
    peer_ok("accept");
    say("fputs %d", fputs("line\n", f) >= 0);
    say_peer("recv 5");
    say_ret("fclose", fclose(f));
}

CASE(close_range_and_closefrom)
{
    int fd = active_pair();
    int a = dup2(fd, 300), b = dup2(fd, 310), c = dup2(fd, 320);
    close(fd);
    say_ret("bad flags", close_range(300, 300, 0x100));
    say_ret("wrong order", close_range(310, 300, 0));
    say_ret("cloexec", close_range(300, 310, CLOSE_RANGE_CLOEXEC));
    say("flags %d %d %d", fcntl(a, F_GETFD), fcntl(b, F_GETFD), fcntl(c, F_GETFD));
    still_works(a);
    say_ret("close", close_range(300, 310, 0));
    say_ret("closed", send(a, "x", 1, MSG_NOSIGNAL));
    say_ret("closed", send(b, "x", 1, MSG_NOSIGNAL));
    still_works(c);
    say_ret("unshare", close_range(301, 302, CLOSE_RANGE_UNSHARE));
    still_works(c);
    int f = dup2(c, 890);
    close_range(300, 890, 0);
    say_ret("closed", send(f, "x", 1, MSG_NOSIGNAL));
    say_peer("recvall");
}

/* One descriptor through a Unix socket: sends `fd`, or receives one when it is -1. */
static int pass(int through, int fd)
{
    char control[CMSG_SPACE(sizeof fd)] = {0}, byte = 'x';
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (fd == -1) {
        if (recvmsg(through, &m, 0) < 1)
            give_up("recvmsg");
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
        return fd;
    }
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    if (sendmsg(through, &m, 0) < 1)
        give_up("sendmsg");
    return fd;
}

CASE(passed_to_itself)
{
    int fd = active_pair(), sv[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, sv);
    pass(sv[0], fd);
    close(fd);
    say("peer %s", peer("quiet 30"));
    int f = memfd_create("takes the number", 0);
    (void)f;
    int got = pass(sv[1], -1);
    still_works(got);
    close(got);
    say_peer("recvall");
}

/* The first socket that this program ever has is one that another process made. */
static int passed_by_a_child(int (*make)(void))
{
    int sv[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, sv);
    peer_ok("sleep 0");
    pid_t child = fork();
    if (child == 0) {
        pass(sv[0], make());
        _exit(0);
    }
    close(sv[0]);
    int fd = pass(sv[1], -1);
    waitpid(child, NULL, 0);
    return fd;
}

static int used_pair(void)
{
    int fd = active_pair();
    still_works(fd);
    return fd;
}

CASE(passed_to_one_who_had_none)
{
    int fd = passed_by_a_child(used_pair);
    still_works(fd);
    close(fd);
    say_peer("recvall");
}

CASE(datagrams_passed_to_one_who_had_none)
{
    int fd = passed_by_a_child(udp_pair);
    say_ret("send", send(fd, "abc", 3, 0));
    say_peer("recvfrom");
    peer_ok("reply 4");
    say_data("recv", recv(fd, buf, sizeof buf, 0), buf);
    close(fd);
}

CASE(passed_into_a_set_of_one_who_had_none)
{
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = 7};
    int set = epoll_create1(0), fd = passed_by_a_child(used_pair);
    say_ret("add", epoll_ctl(set, EPOLL_CTL_ADD, fd, &e));
    peer_ok("after 50 send 4");
    memset(&e, 0, sizeof e);
    say_ret("epoll_wait", epoll_wait(set, &e, 1, 3000));
    say("%s %d", events_name(e.events), (int)e.data.u64);
    say_data("recv", recv(fd, buf, sizeof buf, 0), buf);
    still_works(fd);
}

CASE(shared_with_a_child)
{
    int fd = active_pair();
    pid_t child = fork();
    if (child == 0) {
        send(fd, "child", 5, 0);
        close(fd);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    say_peer("recv 5");
    still_works(fd);
    child = fork();
    if (child == 0) {
        usleep(50000);
        send(fd, "last", 4, 0);
        _exit(0);
    }
    close(fd);
    say_peer("recvall");
    waitpid(child, NULL, 0);
}

CASE(flags)
{
    int fd = active_pair(), u = udp_pair(), l = listening();
    int fds[] = {fd, u, l};
    for (int i = 0; i < 3; i++) {
        say("getfl %#x getfd %#x", fcntl(fds[i], F_GETFL), fcntl(fds[i], F_GETFD));
        say_ret("setfl", fcntl(fds[i], F_SETFL, O_NONBLOCK | O_APPEND));
        say("getfl %#x", fcntl(fds[i], F_GETFL));
        say_ret("setfl", fcntl(fds[i], F_SETFL, 0));
        say("getfl %#x", fcntl(fds[i], F_GETFL));
        say_ret("setfl direct", fcntl(fds[i], F_SETFL, O_DIRECT));
        say_ret("setown", fcntl(fds[i], F_SETOWN, getpid()));
        say("getown %d", fcntl(fds[i], F_GETOWN) == getpid());
        say_ret("setfd", fcntl(fds[i], F_SETFD, FD_CLOEXEC));
        say("getfd %d", fcntl(fds[i], F_GETFD));
        say_ret("getpipe", fcntl(fds[i], F_GETPIPE_SZ));
        say_ret("getlk", fcntl(fds[i], F_GETLK, &(struct flock){.l_type = F_WRLCK}));
        say_ret("bad command", fcntl(fds[i], 9999));
    }
    say_ret("bad", fcntl(-1, F_GETFL));
    say_ret("bad", fcntl(950, F_SETFL, 0));
}

CASE(ioctls)
{
    int fd = active_pair(), l = listening(), n = -1;
    peer_ok("send 9");
    wait_bytes(fd, 9);
    say_ret("FIONREAD", ioctl(fd, FIONREAD, &n));
    say("%d", n);
    say_ret("SIOCINQ", ioctl(fd, SIOCINQ, &n));
    say("%d", n);
    say_ret("SIOCOUTQ", ioctl(fd, SIOCOUTQ, &n));
    say("%d", n);
    say_ret("SIOCOUTQNSD", ioctl(fd, SIOCOUTQNSD, &n));
    say("%d", n);
    say_ret("SIOCATMARK", ioctl(fd, SIOCATMARK, &n));
    say("%d", n);
    say_ret("sockatmark", sockatmark(fd));
    say_ret("FIONREAD listener", ioctl(l, FIONREAD, &n));
    say_ret("SIOCOUTQ listener", ioctl(l, SIOCOUTQ, &n));
    say_ret("SIOCATMARK listener", ioctl(l, SIOCATMARK, &n));
    say_ret("FIOASYNC off", ioctl(fd, FIOASYNC, &(int){0}));
    say_ret("FIOCLEX", ioctl(fd, FIOCLEX));
    say("%d", fcntl(fd, F_GETFD));
    say_ret("FIONCLEX", ioctl(fd, FIONCLEX));
    say("%d", fcntl(fd, F_GETFD));
    say_ret("TCGETS", ioctl(fd, 0x5401, buf));
    say_ret("unknown", ioctl(fd, 0x12345678, buf));
    say_ret("FIONREAD null", ioctl(fd, FIONREAD, NULL));
    say_ret("FIONREAD bad memory", ioctl(fd, FIONREAD, bad_memory()));
    say_ret("FIONBIO bad memory", ioctl(fd, FIONBIO, bad_memory()));
    say_ret("bad", ioctl(-1, FIONREAD, &n));
    say_data("recv", recv(fd, buf, 20, 0), buf);
}

CASE(vectors_with_offset_minus_one)
{
    int fd = active_pair();
    struct iovec v[2] = {{buf, 2}, {buf + 2, 10}};
    peer_ok("send 5");
    wait_bytes(fd, 5);
    say_data("preadv2", preadv2(fd, v, 2, -1, 0), buf);
    say_ret("nothing", preadv2(fd, v, 2, -1, RWF_NOWAIT));
    fill_pattern(buf, 0, 12);
    say_ret("pwritev2", pwritev2(fd, v, 2, -1, 0));
    say_ret("pwritev2 now", pwritev2(fd, v, 2, -1, RWF_NOWAIT));
    say_ret("offset", preadv2(fd, v, 2, 0, 0));
    say_ret("offset", pwritev2(fd, v, 2, 0, 0));
    say_ret("bad flags", preadv2(fd, v, 2, -1, 0x4000));
    say_ret("append", pwritev2(fd, v, 2, -1, RWF_APPEND));
    say_ret("shutdown", shutdown(fd, SHUT_WR));
    say_peer("recvall");
}

CASE(not_files)
{
    int fd = active_pair();
    struct stat st;
    say_ret("fstat", fstat(fd, &st));
    say("socket %d size %ld", S_ISSOCK(st.st_mode), (long)st.st_size);
    extern int isfdtype(int, int);
    say_ret("isfdtype", isfdtype(fd, S_IFSOCK));
    say_ret("lseek", lseek(fd, 0, SEEK_CUR));
    say_ret("pread", pread(fd, buf, 1, 0));
    say_ret("pwrite", pwrite(fd, buf, 1, 0));
    say_ret("preadv", preadv(fd, &(struct iovec){buf, 1}, 1, 0));
    say_ret("preadv2 at -1", preadv2(fd, &(struct iovec){buf, 1}, 1, -1, RWF_NOWAIT));
    say_ret("fsync", fsync(fd));
    say_ret("fdatasync", fdatasync(fd));
    say_ret("ftruncate", ftruncate(fd, 0));
    say_ret("posix_fadvise", posix_fadvise(fd, 0, 0, 0));
    say_ret("fallocate", fallocate(fd, 0, 0, 1));
    say_ret("isatty", isatty(fd));
    say("errno %s", errno_name(errno));
    say("mmap %s", mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? errno_name(errno) : "mapped");
    say("fdopendir %s", fdopendir(fd) ? "opened" : errno_name(errno));
    say_ret("fchdir", fchdir(fd));
    say_ret("getdents", syscall(SYS_getdents64, fd, buf, sizeof buf));
    say_ret("readahead", readahead(fd, 0, 10));
    still_works(fd);
}
