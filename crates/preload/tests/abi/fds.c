#include "say.h"

int main(void)
{
	int s[2];
	char b[8];
	connected(s);
	int d = SAY_FD(dup(s[0]));
	SAY(write(d, "dup", 3));
	SAY(read(s[1], b, 8));
	SAY(close(s[0]));
	SAY(write(d, "still", 5));
	SAY(read(s[1], b, 8));
	SAY(dup2(d, 100));
	SAY(dup2(d, d));
	SAY(dup3(d, 101, O_CLOEXEC));
	SAY(fcntl(101, F_GETFD));
	SAY(fcntl(d, F_DUPFD, 200));
	SAY(fcntl(d, F_DUPFD_CLOEXEC, 210));
	SAY(write(210, "x", 1));
	SAY(read(s[1], b, 8));
	int e = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = 5};
	SAY(epoll_ctl(e, EPOLL_CTL_ADD, s[1], &ev));
	SAY(dup2(e, 120));
	SAY(write(100, "y", 1));
	SAY(epoll_wait(120, &ev, 1, 1000));
	SAY(dup2(open("/dev/null", O_RDWR), s[1]));
	SAY(read(s[1], b, 8));
	SAY(epoll_wait(e, &ev, 1, 0));
	SAY(send(d, "z", 1, MSG_NOSIGNAL));
	SAY(close_range(100, 130, 0));
	SAY(fcntl(100, F_GETFD));
	SAY(fcntl(d, F_GETFD));
	closefrom(200);
	SAY(fcntl(200, F_GETFD));
	SAY(fcntl(210, F_GETFD));
	SAY(fcntl(d, F_GETFD));
	for (int i = 3; i < 1024; i++)
		close(i);
	int t = socket(AF_INET, SOCK_STREAM, 0);
	printf("lowest %d\n", t);
	SAY(close(t));
	int f = open("/dev/zero", O_RDONLY);
	printf("re-used %d\n", f == t);
	SAY(read(f, b, 8));
	return 0;
}
