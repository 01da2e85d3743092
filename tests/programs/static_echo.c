/* A static program, which no library can be loaded into: `PORT` echoes each connection until it ends. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[argc - 1]))};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 16))
        return 1;
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        char buf[65536];
        long n;
        while ((n = read(fd, buf, sizeof buf)) > 0)
            for (long done = 0, w; done < n; done += w)
                if ((w = write(fd, buf + done, n - done)) < 0)
                    return 2;
        close(fd);
    }
}
