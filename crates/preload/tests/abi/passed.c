#include "say.h"

static long pass(int via, int fd)
{
	char control[CMSG_SPACE(sizeof fd)] = {0}, byte = 'f';
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	return sendmsg(via, &m, 0);
}

static int take(int via)
{
	int fd = -1;
	char control[CMSG_SPACE(sizeof fd)] = {0}, byte;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	if (recvmsg(via, &m, 0) == 1 && CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
	return fd;
}

int main(void)
{
	int u[2], s[2], status;
	char b[8] = {0};
	SAY(socketpair(AF_UNIX, SOCK_STREAM, 0, u));
	connected(s);
	fflush(stdout);
	if (fork() == 0) {
		close(s[0]);
		close(s[1]);
		int fd = take(u[1]);
		_exit(write(fd, "passed", 6) == 6 ? 0 : 1);
	}
	SAY(pass(u[0], s[0]));
	SAY(close(s[0]));
	wait(&status);
	SAY(status);
	SAY(read(s[1], b, 6));
	SAY(read(s[1], b, 6));
	printf("%s\n", b);
	SAY(pass(u[0], s[1]));
	SAY(close(s[1]));
	int again = SAY_FD(take(u[1]));
	SAY(close(again));
	return 0;
}
