/* Streams of a few large writes, one after another, between two processes that are busy all the time.
 * warm PORT COUNT WRITES */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 64 << 10 };

static char block[SIZE];

static void die(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static void serve(int listener, int count, long all)
{
    for (int i = 0; i < count; i++) {
        int fd = accept(listener, NULL, NULL);
        for (long got = 0; got < all;) {
            ssize_t n = recv(fd, block, SIZE, 0);
            if (n <= 0)
                die("recv");
            for (ssize_t k = 0; k < n; k++)
                if (block[k] != (char)((got + k) % 251))
                    die("another byte");
            got += n;
        }
        if (send(fd, "k", 1, 0) != 1)
            die("answer");
        close(fd);
    }
}

int main(int argc, char **argv)
{
    int count = atoi(argv[2]), writes = atoi(argv[3]), on = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&at, sizeof at) || listen(listener, 64))
        die("listen");
    pid_t child = fork();
    if (child == 0) {
        serve(listener, count, (long)SIZE * writes);
        exit(0);
    }
    for (int i = 0; i < count; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (void *)&at, sizeof at))
            die("connect");
        long sent = 0;
        for (int w = 0; w < writes; w++) {
            for (int k = 0; k < SIZE; k++)
                block[k] = (char)((sent + k) % 251);
            if (send(fd, block, SIZE, 0) != SIZE)
                die("send");
            sent += SIZE;
        }
        char answer;
        if (recv(fd, &answer, 1, 0) != 1 || answer != 'k')
            die("no answer");
        close(fd);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return argc - 4 || status != 0;
}
