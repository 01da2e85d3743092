#include "say.h"
#include <pthread.h>

enum { THREADS = 8, ROUNDS = 300 };
static struct sockaddr_in where;
static int lis, done;

static void *serve(void *arg)
{
	char b[64];
	for (;;) {
		int c = accept(lis, NULL, NULL);
		if (c < 0)
			return NULL;
		ssize_t n;
		while ((n = recv(c, b, sizeof b, 0)) > 0)
			if (send(c, b, n, 0) != n)
				exit(3);
		close(c);
	}
}

static void *ask(void *arg)
{
	char b[16];
	for (int i = 0; i < ROUNDS; i++) {
		int c = socket(AF_INET, SOCK_STREAM, 0), e = epoll_create1(0);
		struct epoll_event ev = {.events = EPOLLIN};
		if (connect(c, (struct sockaddr *)&where, sizeof where))
			exit(4);
		epoll_ctl(e, EPOLL_CTL_ADD, c, &ev);
		if (send(c, "0123456789", 10, 0) != 10 || epoll_wait(e, &ev, 1, 5000) != 1)
			exit(5);
		if (recv(c, b, 10, MSG_WAITALL) != 10 || memcmp(b, "0123456789", 10))
			exit(6);
		close(c);
		close(e);
	}
	__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Alone: both sides over loopback. `threads serve` and `threads ask ADDRESS`: one side each, on port 9100. */
int main(int argc, char **argv)
{
	pthread_t s[THREADS], c[THREADS];
	int serves = argc < 2 || !strcmp(argv[1], "serve"), asks = argc < 2 || argc == 3;
	if (argc < 2)
		lis = listener(&where);
	else
		where = loopback(9100);
	if (argc == 3)
		inet_pton(AF_INET, argv[2], &where.sin_addr);
	if (argc == 2) {
		int on = 1;
		where.sin_addr.s_addr = INADDR_ANY;
		lis = socket(AF_INET, SOCK_STREAM, 0);
		setsockopt(lis, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
		if (bind(lis, (struct sockaddr *)&where, sizeof where) || listen(lis, 64))
			return 2;
	}
	for (int i = 0; i < THREADS; i++) {
		if (serves)
			pthread_create(&s[i], NULL, serve, NULL);
		if (asks)
			pthread_create(&c[i], NULL, ask, NULL);
	}
	if (!asks)
		pthread_join(s[0], NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(c[i], NULL);
	printf("%d threads asked %d times each\n", done, ROUNDS);
	return 0;
}
