#include "say.h"

int main(void)
{
	char buf[8];
	struct sockaddr_in a = loopback(1);
	socklen_t n = sizeof a;
	int p[2], t = socket(AF_INET, SOCK_STREAM, 0), e = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLIN};
	if (pipe(p))
		return 1;
	int fds[] = {-1, 1000, 1 << 30, p[0], t, e};
	for (unsigned i = 0; i < sizeof fds / sizeof *fds; i++) {
		int fd = fds[i];
		printf("-- %u\n", i);
		SAY(bind(fd, NULL, 0));
		SAY(bind(fd, (struct sockaddr *)&a, 3));
		SAY(connect(fd, NULL, 0));
		SAY(connect(fd, (struct sockaddr *)&a, 1));
		SAY(accept(fd, NULL, NULL));
		SAY(accept4(fd, NULL, NULL, 1 << 30));
		SAY(shutdown(fd, 7));
		SAY(shutdown(fd, SHUT_RDWR));
		SAY(getsockname(fd, NULL, NULL));
		SAY(getpeername(fd, (struct sockaddr *)&a, &n));
		SAY(getsockopt(fd, SOL_SOCKET, SO_TYPE, NULL, NULL));
		SAY(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, NULL, 4));
		SAY(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, buf, 0));
		SAY(send(fd, buf, 1, MSG_NOSIGNAL));
		SAY(sendto(fd, buf, 1, MSG_NOSIGNAL, (struct sockaddr *)&a, 200));
		SAY(sendmsg(fd, NULL, MSG_NOSIGNAL));
		SAY(recv(fd, buf, 1, MSG_DONTWAIT));
		SAY(recvmsg(fd, NULL, MSG_DONTWAIT));
		SAY(recvmmsg(fd, NULL, 1, MSG_DONTWAIT, NULL));
		SAY(listen(fd, -5));
		SAY(epoll_ctl(e, EPOLL_CTL_ADD, fd, NULL));
		SAY(epoll_ctl(e, 99, fd, &ev));
		SAY(epoll_ctl(e, EPOLL_CTL_DEL, fd, &ev));
		SAY(epoll_ctl(fd, EPOLL_CTL_ADD, p[0], &ev));
		SAY(epoll_ctl(fd, EPOLL_CTL_DEL, p[0], &ev));
		SAY(epoll_wait(fd, &(struct epoll_event){0}, 1, 0));
		SAY(epoll_wait(fd, &ev, 0, 0));
		SAY(fcntl(fd, F_SETFL, fd == e ? 0 : O_NONBLOCK));
		SAY(fcntl(fd, 9999, 0));
		int out = -7;
		if (fd != t)
			SAY(ioctl(fd, FIONREAD, &out));
		SAY(ioctl(fd, FIONREAD, NULL));
		SAY(dup3(fd, fd, 0));
		SAY(dup2(fd, -1));
		SAY(sendfile(fd, fd, NULL, 1));
		SAY(splice(fd, NULL, fd, NULL, 1, 0));
		SAY(close_range(20, 10, 0));
	}
	SAY(dup2(1000, t));
	SAY(fcntl(t, F_GETFD));
	SAY(socket(AF_INET, 77, 0));
	SAY(socket(999, SOCK_STREAM, 0));
	SAY(socket(AF_INET, SOCK_STREAM, 9999));
	SAY(poll(NULL, 1, 0));
	SAY(poll(NULL, 0, 0));
	SAY(select(-1, NULL, NULL, NULL, NULL));
	struct timeval bad = {0, -1};
	SAY(select(0, NULL, NULL, NULL, &bad));
	SAY(read(p[0], NULL, 0));
	SAY(epoll_create1(12345));
	SAY(epoll_create(0));
	SAY(sigaction(SIGKILL, &(struct sigaction){.sa_handler = SIG_IGN}, NULL));
	SAY(sigaction(0, NULL, NULL));
	SAY(sigaction(99, NULL, NULL));
	return 0;
}
