#include "say.h"
#include <sys/uio.h>

int main(void)
{
	struct sockaddr_in a, b;
	socklen_t n = sizeof b;
	int l = listener(&a);
	char buf[64] = {0};
	int c = SAY_FD(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
	SAY(recv(c, buf, 4, 0));
	SAY(send(c, buf, 4, MSG_NOSIGNAL));
	SAY(connect(c, (struct sockaddr *)&a, sizeof a));
	SAY(connect(c, (struct sockaddr *)&a, sizeof a));
	int s = SAY_FD(accept4(l, (struct sockaddr *)&b, &n, SOCK_NONBLOCK));
	printf("family %d len %d\n", b.sin_family, n);
	SAY(recv(s, buf, sizeof buf, 0));
	SAY(fcntl(s, F_GETFL));
	SAY(send(c, "hello", 5, MSG_MORE));
	SAY(send(c, " world", 6, 0));
	struct pollfd p = {.fd = s, .events = POLLIN | POLLOUT | POLLRDHUP};
	SAY(poll(&p, 1, 1000));
	int avail = 0;
	while (avail < 11)
		ioctl(s, FIONREAD, &avail);
	SAY(ioctl(s, FIONREAD, &avail));
	printf("avail %d\n", avail);
	SAY(recv(s, buf, 4, MSG_PEEK));
	struct iovec v[2] = {{buf, 3}, {buf + 3, 60}};
	SAY(readv(s, v, 2));
	printf("%.11s\n", buf);
	struct iovec w[3] = {{"a", 1}, {"", 0}, {"bc", 2}};
	SAY(writev(s, w, 3));
	SAY(recv(c, buf, 3, MSG_WAITALL));
	SAY(write(c, "x", 1));
	SAY(shutdown(c, SHUT_WR));
	SAY(send(c, "x", 1, MSG_NOSIGNAL));
	p.events = POLLIN | POLLRDHUP;
	poll(&p, 1, 1000);
	usleep(20000);
	SAY(poll(&p, 1, 1000));
	printf("revents %x\n", p.revents);
	SAY(read(s, buf, 10));
	SAY(read(s, buf, 10));
	int on = 1, got = 0;
	n = sizeof got;
	SAY(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
	SAY(getsockopt(s, IPPROTO_TCP, TCP_NODELAY, &got, &n));
	printf("nodelay %d len %d\n", got, n);
	SAY(getsockopt(s, SOL_SOCKET, SO_ERROR, &got, &n));
	SAY(getsockopt(s, SOL_SOCKET, 9999, &got, &n));
	SAY(getsockopt(s, SOL_SOCKET, SO_TYPE, &got, &n));
	printf("type %d\n", got);
	SAY(close(s));
	SAY(close(s));
	SAY(close(c));

	int f = open("/proc/self/exe", O_RDONLY), pair[2];
	connected(pair);
	off_t at = 100;
	SAY(sendfile(pair[0], f, &at, 1000));
	printf("offset %ld file at %ld\n", (long)at, (long)lseek(f, 0, SEEK_CUR));
	SAY(sendfile(pair[0], f, NULL, 50));
	printf("file at %ld\n", (long)lseek(f, 0, SEEK_CUR));
	int refused = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in gone;
	int g = listener(&gone);
	close(g);
	SAY(connect(refused, (struct sockaddr *)&gone, sizeof gone));
	SAY(getpeername(refused, (struct sockaddr *)&b, &n));
	struct linger hard = {1, 0};
	SAY(setsockopt(pair[0], SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
	close(pair[0]);
	char sink[2000];
	usleep(10000);
	SAY(recv(pair[1], sink, sizeof sink, 0));
	SAY(recv(pair[1], sink, sizeof sink, 0));
	return 0;
}
