#include "say.h"

int main(void)
{
	int a = SAY_FD(socket(AF_INET, SOCK_DGRAM, 0)), b = SAY_FD(socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, IPPROTO_UDP));
	struct sockaddr_in to = loopback(0), from;
	socklen_t n = sizeof to;
	char buf[64];
	SAY(bind(a, (struct sockaddr *)&to, sizeof to));
	SAY(bind(a, (struct sockaddr *)&to, sizeof to));
	SAY(getsockname(a, (struct sockaddr *)&to, &n));
	SAY(send(b, "x", 1, 0));
	SAY(recv(b, buf, sizeof buf, 0));
	SAY(sendto(b, "first", 5, 0, (struct sockaddr *)&to, sizeof to));
	n = sizeof from;
	SAY(recvfrom(a, buf, 3, MSG_TRUNC, (struct sockaddr *)&from, &n));
	SAY(connect(b, (struct sockaddr *)&to, sizeof to));
	SAY(send(b, "second", 6, 0));
	SAY(recv(a, buf, sizeof buf, MSG_DONTWAIT));
	SAY(sendto(a, "back", 4, 0, (struct sockaddr *)&from, n));
	SAY(read(b, buf, sizeof buf));
	SAY(send(b, "", 0, 0));
	SAY(recv(a, buf, sizeof buf, 0));
	struct iovec v = {"one", 3}, w = {"two!", 4};
	struct mmsghdr m[2] = {{.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &w, .msg_iovlen = 1}}};
	SAY(sendmmsg(b, m, 2, 0));
	printf("%u %u\n", m[0].msg_len, m[1].msg_len);
	char in[2][16];
	struct iovec r[2] = {{in[0], 16}, {in[1], 16}};
	struct mmsghdr g[2] = {{.msg_hdr = {.msg_iov = &r[0], .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = &r[1], .msg_iovlen = 1}}};
	SAY(recvmmsg(a, g, 2, MSG_WAITFORONE, NULL));
	printf("%u %u\n", g[0].msg_len, g[1].msg_len);
	struct timeval limit = {0, 20000};
	SAY(setsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
	SAY(recv(a, buf, sizeof buf, 0));
	int on = 1;
	SAY(setsockopt(a, IPPROTO_IP, IP_PKTINFO, &on, sizeof on));
	SAY(send(b, "info", 4, 0));
	char control[64];
	struct iovec i = {buf, sizeof buf};
	struct msghdr h = {.msg_iov = &i, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	SAY(recvmsg(a, &h, 0));
	printf("control %zu flags %x\n", h.msg_controllen, h.msg_flags);
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	SAY(connect(b, &none, sizeof none));
	SAY(send(b, "x", 1, 0));
	SAY(shutdown(b, SHUT_RD));
	SAY(close(a));
	SAY(sendto(b, "x", 1, 0, (struct sockaddr *)&to, 3));
	SAY(close(b));
	return 0;
}
