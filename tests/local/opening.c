/* Connections that are still being opened when `connect` returns, because the listener's queue is full: they have no peer's
 * name yet, and their first calls find nothing. opening PORT COUNT */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static int state_of(int fd)
{
    struct tcp_info i;
    socklen_t len = sizeof i;
    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &len) ? -1 : i.tcpi_state;
}

static void await(int how, int fd, short events)
{
    if (how == 0) {
        struct pollfd p = {.fd = fd, .events = events};
        if (poll(&p, 1, 10000) != 1 || !(p.revents & events))
            die("poll");
        return;
    }
    int set = epoll_create1(0);
    struct epoll_event e = {.events = events};
    if (epoll_ctl(set, EPOLL_CTL_ADD, fd, &e) || epoll_wait(set, &e, 1, 10000) != 1 || !(e.events & events))
        die("epoll");
    close(set);
}

static void one(int listener, const struct sockaddr_in *to, int how)
{
    int full[8], fd = -1, n = 0;
    /* Until one of them is not taken. */
    for (;; n++) {
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(fd, (const void *)to, sizeof *to) && errno != EINPROGRESS)
            die("connect");
        if (state_of(fd) == TCP_SYN_SENT)
            break;
        if (n == 8) {
            printf("the queue takes everybody\n");
            exit(1);
        }
        full[n] = fd;
    }
    char byte = 'x';
    if (how < 2 && (write(fd, &byte, 1) != -1 || errno != EAGAIN))
        die("a write before the connection is there");
    for (int i = 0; i < n; i++) {
        close(accept(listener, NULL, NULL));
        close(full[i]);
    }
    await(how & 1, fd, POLLOUT);
    int error = 1;
    socklen_t len = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) || error)
        die("SO_ERROR");
    int other = accept(listener, NULL, NULL);
    for (int i = 0; i < 50; i++) {
        char got = 0;
        byte = 'a' + i % 26;
        if (write(fd, &byte, 1) != 1 || read(other, &got, 1) != 1 || got != byte)
            die("there");
        if (write(other, &byte, 1) != 1)
            die("back");
        await(how & 1, fd, POLLIN);
        if (read(fd, &got, 1) != 1 || got != byte)
            die("read");
    }
    close(fd);
    close(other);
}

int main(int argc, char **argv)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 1))
        die("listen");
    for (int i = 0; i < atoi(argv[2]); i++)
        one(listener, &at, i % 4);
    return argc - 3;
}
