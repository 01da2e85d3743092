/*
 * Connections at the moment of their end, and what the peer sees of it: for last_words.c and last_close.c.
 */
#include "diff.h"

enum { QUEUED = 300000 };

/* The connection that a case is about. */
DIFF_HELPER int in_use = -1;

/* A thread that waits for what never comes. */
DIFF_HELPER void *block(void *p)
{
    char byte;
    recv(in_use, &byte, 1, 0);
    return p;
}

/* ---- what the connection is like at that moment ------------------------------------------------------------------- */

DIFF_HELPER void set_number(const char *what, int fd, int level, int name, int value)
{
    if (setsockopt(fd, level, name, &value, sizeof value))
        give_up("%s", what);
}

DIFF_HELPER void linger(int fd, int seconds)
{
    struct linger l = {1, seconds};
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l))
        give_up("SO_LINGER");
}

/* A connection to a peer with a small buffer, which does not read. */
DIFF_HELPER int slow_pair(void)
{
    int port = peer_number("listen");
    peer_ok("opt %d %d 8192", SOL_SOCKET, SO_RCVBUF);
    int fd = connected_to(port);
    peer_ok("accept");
    return in_use = fd;
}

/* Queues bytes of the pattern without waiting for the peer. */
DIFF_HELPER void queue(int fd, long n)
{
    set_number("SO_SNDBUFFORCE", fd, SOL_SOCKET, SO_SNDBUFFORCE, 16 << 20);
    char *data = malloc(n);
    fill_pattern(data, 0, n);
    for (long done = 0; done < n;) {
        long sent = send(fd, data + done, n - done, MSG_DONTWAIT);
        if (sent < 0)
            give_up("%ld of %ld bytes queued", done, n);
        done += sent;
    }
    free(data);
}

DIFF_HELPER void idle(void) { in_use = active_pair(); }
DIFF_HELPER void idle_passive(void) { in_use = passive_pair(); }
DIFF_HELPER void queued(void) { queue(slow_pair(), QUEUED); }

DIFF_HELPER void unread(void)
{
    idle();
    peer_ok("send 10");
    wait_bytes(in_use, 10);
}

/* ---- what the peer sees afterwards ------------------------------------------------------------------------------------ */

DIFF_HELPER void see_end(void) { say("peer: %s", peer("recvall")); }

/* How much came before the RST depends on the moment. */
DIFF_HELPER void see_reset(void)
{
    const char *seen = peer("recvall"), *word = strrchr(seen, ' ');
    say("peer: %s", word ? word : seen);
}
