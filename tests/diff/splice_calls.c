/* splice, tee, vmsplice, copy_file_range and sendfile with sockets at one end. diff: modes=v4,v6 */
#include "diff.h"
#include <sys/sendfile.h>

static char buf[400000];

static int a_file(int n)
{
    int fd = memfd_create("data", 0);
    fill_pattern(buf, 0, n);
    if (write(fd, buf, n) != n)
        give_up("write");
    lseek(fd, 0, SEEK_SET);
    return fd;
}

static int end_of(int p[2], int which)
{
    if (pipe(p))
        give_up("pipe");
    return p[which];
}

CASE(from_socket)
{
    int p[2], fd = active_pair();
    int w = end_of(p, 1);
    peer_ok("send 10");
    wait_bytes(fd, 10);
    say_ret("splice 4", splice(fd, NULL, w, NULL, 4, 0));
    say_ret("splice rest", splice(fd, NULL, w, NULL, 100, SPLICE_F_MOVE));
    say_data("pipe", read(p[0], buf, 100), buf);
    nonblocking(fd);
    say_ret("nothing there, O_NONBLOCK", splice(fd, NULL, w, NULL, 100, 0));
    peer_ok("shutdown w");
    wait_events(fd, POLLIN | POLLRDHUP);
    say_ret("at the end", splice(fd, NULL, w, NULL, 100, 0));
    say_ret("send after all that", send(fd, "abc", 3, 0));
    say_peer("recv 3");
}

CASE(from_socket_blocks)
{
    int p[2], fd = passive_pair();
    int w = end_of(p, 1);
    peer_ok("after 100 send 7");
    say_ret("splice", splice(fd, NULL, w, NULL, 100, 0));
    say_data("pipe", read(p[0], buf, 100), buf);
}

CASE(from_socket_bulk)
{
    int p[2], fd = active_pair();
    int w = end_of(p, 1);
    peer_ok("after 0 send 300000");
    long got = 0, n = 1;
    while (got < 300000 && n > 0) {
        n = splice(fd, NULL, w, NULL, 300000 - got, 0);
        for (long left = n; left > 0;) {
            long r = read(p[0], buf + got, left);
            if (r <= 0)
                give_up("read");
            got += r;
            left -= r;
        }
    }
    say_data("all", got, buf);
}

CASE(to_socket)
{
    int p[2], fd = active_pair();
    int r = end_of(p, 0);
    say_ret("empty pipe", splice(r, NULL, fd, NULL, 10, SPLICE_F_NONBLOCK));
    if (write(p[1], "hello world", 11) != 11)
        give_up("write");
    say_ret("splice 5", splice(r, NULL, fd, NULL, 5, SPLICE_F_MORE));
    say_ret("splice rest", splice(r, NULL, fd, NULL, 100, 0));
    say_peer("recv 11");
    close(p[1]);
    say_ret("no writers", splice(r, NULL, fd, NULL, 100, 0));
    say_ret("shutdown", shutdown(fd, SHUT_WR));
    say_peer("recvall");
}

CASE(to_socket_full)
{
    int p[2], fd = active_pair();
    int r = end_of(p, 0);
    nonblocking(fd);
    fcntl(p[1], F_SETFL, O_NONBLOCK);
    long in = 0, out = 0, n;
    memset(buf, 'x', sizeof buf);
    for (;;) {
        while ((n = write(p[1], buf, 4096)) > 0)
            in += n;
        n = splice(r, NULL, fd, NULL, 65536, SPLICE_F_NONBLOCK);
        if (n <= 0)
            break;
        out += n;
    }
    say_ret("full", n);
    long left = 0;
    while ((n = read(r, buf, 4096)) > 0 && (left += n) < in - out)
        ;
    say("nothing lost %d", left == in - out);
    char order[64];
    close(fd);
    snprintf(order, sizeof order, "recvall");
    (void)order;
}

CASE(to_socket_after_shutdown)
{
    int p[2], fd = active_pair();
    int r = end_of(p, 0);
    signal(SIGPIPE, SIG_IGN);
    if (write(p[1], "xyz", 3) != 3)
        give_up("write");
    shutdown(fd, SHUT_WR);
    say_ret("splice", splice(r, NULL, fd, NULL, 3, 0));
    say_data("still there", read(r, buf, 10), buf);
}

CASE(splice_nonsense)
{
    int p[2], q[2], fd = active_pair(), other = active_pair();
    loff_t off = 0;
    int w = end_of(p, 1), f = a_file(100);
    end_of(q, 1);
    say_ret("socket to socket", splice(fd, NULL, other, NULL, 10, 0));
    say_ret("socket to file", splice(fd, NULL, f, NULL, 10, 0));
    say_ret("file to socket", splice(f, NULL, fd, NULL, 10, 0));
    say_ret("offset of the socket", splice(fd, &off, w, NULL, 10, 0));
    say_ret("offset of the pipe", splice(fd, NULL, w, &off, 10, 0));
    say_ret("offset of the target socket", splice(p[0], NULL, fd, &off, 10, 0));
    say_ret("no length", splice(fd, NULL, w, NULL, 0, 0));
    say_ret("bad flags", splice(fd, NULL, w, NULL, 10, 0x80));
    say_ret("bad flags, no length", splice(fd, NULL, w, NULL, 0, 0x80));
    say_ret("bad source", splice(-1, NULL, fd, NULL, 10, 0));
    say_ret("bad target", splice(fd, NULL, -1, NULL, 10, 0));
    say_ret("wrong end", splice(fd, NULL, p[0], NULL, 10, SPLICE_F_NONBLOCK));
    say_ret("wrong end as source", splice(w, NULL, fd, NULL, 10, SPLICE_F_NONBLOCK));
    say_ret("tee from socket", tee(fd, w, 10, SPLICE_F_NONBLOCK));
    say_ret("tee to socket", tee(p[0], fd, 10, SPLICE_F_NONBLOCK));
    struct iovec v = {.iov_base = buf, .iov_len = 10};
    say_ret("vmsplice", vmsplice(fd, &v, 1, SPLICE_F_NONBLOCK));
    say_ret("copy_file_range from", copy_file_range(fd, NULL, f, NULL, 10, 0));
    say_ret("copy_file_range to", copy_file_range(f, NULL, fd, NULL, 10, 0));
}

CASE(splice_unconnected)
{
    int p[2], fd = tcp_socket(), l = listening();
    int w = end_of(p, 1);
    signal(SIGPIPE, SIG_IGN);
    say_ret("unconnected", splice(fd, NULL, w, NULL, 10, 0));
    say_ret("listener", splice(l, NULL, w, NULL, 10, 0));
    if (write(p[1], "x", 1) != 1)
        give_up("write");
    say_ret("to unconnected", splice(p[0], NULL, fd, NULL, 10, 0));
    say_ret("to listener", splice(p[0], NULL, l, NULL, 10, 0));
    active_pair();
}

CASE(sendfile_plain)
{
    int fd = active_pair(), f = a_file(5000);
    off_t off = 100;
    say_ret("no offset", sendfile(fd, f, NULL, 10));
    say("position %ld", (long)lseek(f, 0, SEEK_CUR));
    say_ret("offset", sendfile(fd, f, &off, 20));
    say("offset %ld position %ld", (long)off, (long)lseek(f, 0, SEEK_CUR));
    say_ret("nothing", sendfile(fd, f, NULL, 0));
    off = 4990;
    say_ret("beyond the end", sendfile(fd, f, &off, 100));
    say("offset %ld", (long)off);
    say_ret("at the end", sendfile(fd, f, &off, 100));
    off = 9000;
    say_ret("behind the end", sendfile(fd, f, &off, 100));
    say_ret("64", sendfile64(fd, f, NULL, 5));
    say_peer("recv 45");
}

CASE(sendfile_bulk)
{
    int fd = passive_pair(), f = a_file(300000);
    peer_ok("after 0 recv 300000");
    say_ret("sendfile", sendfile(fd, f, NULL, 1 << 30));
    say("position %ld", (long)lseek(f, 0, SEEK_CUR));
    close(fd);
    say_peer("recvall");
}

CASE(sendfile_nonsense)
{
    int p[2], fd = active_pair(), other = active_pair(), f = a_file(100);
    int d = open("/tmp", O_RDONLY | O_DIRECTORY), wo = open("/dev/null", O_WRONLY), s = socket(AF_UNIX, SOCK_STREAM, 0);
    off_t off = -1;
    end_of(p, 1);
    say_ret("negative offset", sendfile(fd, f, &off, 10));
    off = 0;
    say_ret("socket as input", sendfile(other, fd, NULL, 10));
    say_ret("socket as input, offset", sendfile(other, fd, &off, 10));
    say_ret("socket into file", sendfile(f, fd, NULL, 10));
    say_ret("pipe as input", sendfile(fd, p[0], NULL, 10));
    say_ret("pipe as input, offset", sendfile(fd, p[0], &off, 10));
    say_ret("directory", sendfile(fd, d, NULL, 10));
    say_ret("write-only input", sendfile(fd, wo, NULL, 10));
    say_ret("unix socket", sendfile(fd, s, NULL, 10));
    say_ret("bad input", sendfile(fd, -1, NULL, 10));
    say_ret("bad input, no length", sendfile(fd, -1, NULL, 0));
    say_ret("bad output", sendfile(-1, f, NULL, 10));
    say_ret("bad offset", sendfile(fd, f, bad_memory(), 10));
    say_ret("closed output", sendfile(998, f, NULL, 10));
    say_ret("null input", sendfile(fd, open("/dev/null", O_RDONLY), NULL, 10));
    say_ret("zero input", sendfile(fd, open("/dev/zero", O_RDONLY), NULL, 10));
}

CASE(sendfile_after_shutdown)
{
    int fd = active_pair(), f = a_file(100);
    off_t off = 3;
    signal(SIGPIPE, SIG_IGN);
    shutdown(fd, SHUT_WR);
    say_ret("sendfile", sendfile(fd, f, &off, 10));
    say("offset %ld", (long)off);
    say_ret("unconnected", sendfile(tcp_socket(), f, NULL, 10));
}

CASE(sendfile_full)
{
    int fd = active_pair(), f = a_file(300000);
    off_t off = 0;
    long n = 0;
    nonblocking(fd);
    for (int i = 0; i < 10000; i++) {
        off = 0;
        n = sendfile(fd, f, &off, 300000);
        if (n < 0)
            break;
        if (n != off)
            say("offset is not what was sent");
    }
    say_ret("full", n);
    say("offset %ld", (long)off);
}

CASE(sendfile_datagram)
{
    int fd = udp_pair(), f = a_file(5000);
    say_ret("sendfile", sendfile(fd, f, NULL, 1000));
    say_peer("recvfrom");
}
