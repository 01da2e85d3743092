#include "say.h"

static void show(int e, const char *what)
{
	struct epoll_event ev[8];
	int n = epoll_wait(e, ev, 8, 30);
	printf("%s: %d", what, n);
	unsigned seen[8] = {0};
	for (int i = 0; i < n; i++)
		if (ev[i].data.u64 < 8)
			seen[ev[i].data.u64] = ev[i].events;
	for (int i = 0; i < 8; i++)
		if (seen[i])
			printf(" %d:%x", i, seen[i]);
	printf("\n");
}

static void add(int e, int op, int fd, unsigned events, unsigned data)
{
	struct epoll_event ev = {.events = events, .data.u64 = data};
	SAY(epoll_ctl(e, op, fd, &ev));
}

int main(void)
{
	int e = epoll_create1(EPOLL_CLOEXEC), p[2], s[2], fresh = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a;
	char buf[16];
	if (pipe(p))
		return 1;
	add(e, EPOLL_CTL_ADD, fresh, EPOLLIN | EPOLLOUT, 1);
	add(e, EPOLL_CTL_ADD, fresh, EPOLLIN | EPOLLOUT, 1);
	show(e, "fresh");
	int l = listener(&a);
	add(e, EPOLL_CTL_ADD, l, EPOLLIN, 2);
	SAY(connect(fresh, (struct sockaddr *)&a, sizeof a));
	show(e, "connected, level");
	add(e, EPOLL_CTL_MOD, fresh, EPOLLOUT | EPOLLET, 1);
	show(e, "edge once");
	show(e, "edge twice");
	add(e, EPOLL_CTL_ADD, p[0], EPOLLIN | EPOLLONESHOT, 3);
	SAY(write(p[1], "x", 1));
	show(e, "oneshot once");
	show(e, "oneshot twice");
	add(e, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT, 3);
	show(e, "re-armed");
	SAY(close(p[0]));
	add(e, EPOLL_CTL_DEL, fresh, 0, 0);
	add(e, EPOLL_CTL_DEL, fresh, 0, 0);
	show(e, "listener only");
	SAY(close(l));
	show(e, "nothing");
	connected(s);
	fd_set r, w;
	struct timeval t = {1, 0};
	FD_ZERO(&r);
	FD_ZERO(&w);
	FD_SET(s[0], &r);
	FD_SET(s[1], &w);
	SAY(select(64, &r, &w, NULL, &t));
	printf("r %d w %d\n", !!FD_ISSET(s[0], &r), !!FD_ISSET(s[1], &w));
	SAY(write(s[1], "abc", 3));
	FD_ZERO(&r);
	FD_SET(s[0], &r);
	SAY(select(64, &r, NULL, NULL, NULL));
	struct pollfd pf[3] = {{s[0], POLLIN | POLLOUT, 0}, {-1, POLLIN, 7}, {999, POLLIN, 0}};
	SAY(poll(pf, 3, -1));
	printf("%x %x %x\n", pf[0].revents, pf[1].revents, pf[2].revents);
	FD_ZERO(&r);
	FD_SET(40, &r);
	SAY(select(41, &r, NULL, NULL, &t));
	SAY(read(s[0], buf, 16));
	struct timespec ts = {0, 10000000};
	pf[0].events = POLLIN;
	SAY(ppoll(pf, 1, &ts, NULL));
	ts.tv_nsec = -1;
	SAY(ppoll(pf, 1, &ts, NULL));
	SAY(close(e));
	SAY(epoll_wait(e, &(struct epoll_event){0}, 1, 0));
	return 0;
}
