/* What a call answered, without anything that differs from run to run. */
#pragma once
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAY(expr)                                                                                  \
	do {                                                                                       \
		errno = 0;                                                                         \
		long say_r = (long)(expr);                                                         \
		printf("%s = %ld%s%s\n", #expr, say_r, say_r < 0 ? " " : "",                       \
		       say_r < 0 ? strerrorname_np(errno) : "");                                   \
		fflush(stdout);                                                                    \
	} while (0)

/* As SAY for calls that make descriptors: which number is not told. */
#define SAY_FD(expr)                                                                               \
	({                                                                                         \
		errno = 0;                                                                         \
		int say_fd = (expr);                                                               \
		printf("%s = %s\n", #expr, say_fd >= 0 ? "fd" : strerrorname_np(errno));           \
		fflush(stdout);                                                                    \
		say_fd;                                                                            \
	})

static inline struct sockaddr_in loopback(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return a;
}

/* A listening socket on a free loopback port, and its address. */
static inline int listener(struct sockaddr_in *a)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	socklen_t n = sizeof *a;
	*a = loopback(0);
	if (fd < 0 || bind(fd, (struct sockaddr *)a, n) || listen(fd, 16) || getsockname(fd, (struct sockaddr *)a, &n))
		exit(9);
	return fd;
}

/* Two connected sockets. With FLYOVER_TEST_RELAY set to an address, both are connections to a relay on another host
 * (port 9000) that joins them in the order of their arrival, so that they can be accelerated. */
static inline void connected(int pair[2])
{
	struct sockaddr_in a;
	const char *relay = getenv("FLYOVER_TEST_RELAY");
	if (relay) {
		a = loopback(9000);
		inet_pton(AF_INET, relay, &a.sin_addr);
		for (int i = 0; i < 2; i++) {
			char go;
			pair[i] = socket(AF_INET, SOCK_STREAM, 0);
			if (connect(pair[i], (struct sockaddr *)&a, sizeof a) || read(pair[i], &go, 1) != 1)
				exit(9);
		}
		return;
	}
	int l = listener(&a);
	pair[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(pair[0], (struct sockaddr *)&a, sizeof a))
		exit(9);
	pair[1] = accept(l, NULL, NULL);
	close(l);
}
