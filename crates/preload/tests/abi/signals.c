#include "say.h"
#include <sys/time.h>

static volatile int hits;
static int sock[2];

static void count(int sig)
{
	hits++;
}

static void reply(int sig, siginfo_t *info, void *context)
{
	hits += info->si_signo == sig && context != NULL;
	if (write(sock[1], "s", 1) != 1)
		hits = -100;
}

static void alarm_in(int ms)
{
	struct itimerval t = {.it_value = {.tv_usec = ms * 1000}};
	setitimer(ITIMER_REAL, &t, NULL);
}

static void install(int flags, void *handler)
{
	struct sigaction a = {.sa_flags = flags};
	if (flags & SA_SIGINFO)
		a.sa_sigaction = handler;
	else
		a.sa_handler = handler;
	SAY(sigaction(SIGALRM, &a, NULL));
}

int main(void)
{
	char b[4];
	struct sigaction old;
	connected(sock);
	install(0, count);
	SAY(sigaction(SIGALRM, NULL, &old));
	printf("mine %d flags %x\n", old.sa_handler == count, old.sa_flags);
	alarm_in(20);
	SAY(recv(sock[0], b, 4, 0));
	install(SA_SIGINFO | SA_RESTART, reply);
	alarm_in(20);
	SAY(recv(sock[0], b, 4, 0));
	alarm_in(20);
	struct pollfd p = {.fd = sock[1], .events = POLLIN};
	SAY(poll(&p, 1, 1000));
	SAY(recv(sock[0], b, 4, 0));
	struct timeval limit = {0, 300000};
	SAY(setsockopt(sock[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
	install(SA_RESTART, count);
	alarm_in(20);
	SAY(recv(sock[1], b, 4, 0));
	printf("hits %d\n", hits);
	sigset_t block, none;
	sigemptyset(&none);
	sigemptyset(&block);
	sigaddset(&block, SIGALRM);
	SAY(sigprocmask(SIG_BLOCK, &block, NULL));
	raise(SIGALRM);
	printf("blocked %d\n", hits);
	SAY(ppoll(&p, 1, NULL, &none));
	printf("open %d\n", hits);
	SAY(sigprocmask(SIG_UNBLOCK, &block, NULL));
	printf("signal mine %d\n", signal(SIGUSR1, count) == SIG_DFL);
	printf("signal again %d\n", signal(SIGUSR1, SIG_IGN) == count);
	raise(SIGUSR1);
	SAY(signal(SIGUSR1, SIG_DFL) == SIG_IGN);
	install(SA_RESETHAND, count);
	raise(SIGALRM);
	SAY(sigaction(SIGALRM, NULL, &old));
	printf("reset %d hits %d\n", old.sa_handler == SIG_DFL, hits);
	install(SA_NODEFER | SA_RESTART, count);
	SAY(sigaction(SIGALRM, NULL, &old));
	printf("flags %x\n", old.sa_flags);
	signal(SIGPIPE, count);
	close(sock[0]);
	usleep(10000);
	SAY(send(sock[1], "a", 1, 0));
	usleep(10000);
	SAY(send(sock[1], "a", 1, 0));
	printf("hits %d\n", hits);
	return 0;
}
