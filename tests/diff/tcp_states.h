/*
 * TCP sockets in every state a program can bring them into; each function returns a non-blocking descriptor.
 * What the state needs from the network has happened when it returns.
 */
#include "diff.h"

/* A connection that is going to be refused: a port of the peer where nobody listens. */
DIFF_HELPER int closed_port(void)
{
    int port = peer_number("listen");
    peer_ok("close");
    return port;
}

DIFF_HELPER int start_connect(int port)
{
    int fd = tcp_socket();
    nonblocking(fd);
    struct addr a = peer_addr(port);
    if (connect(fd, &a.sa, a.len) == 0 || errno != EINPROGRESS)
        give_up("connect");
    return fd;
}

DIFF_HELPER int unblocked(int fd)
{
    nonblocking(fd);
    return fd;
}

DIFF_HELPER int in_fresh(void) { return unblocked(tcp_socket()); }
DIFF_HELPER int in_bound(void) { return unblocked(bound(tcp_socket())); }
DIFF_HELPER int in_listening(void) { return unblocked(listening()); }
DIFF_HELPER int in_active(void) { return unblocked(active_pair()); }
DIFF_HELPER int in_passive(void) { return unblocked(passive_pair()); }

/* SYN sent, not answered: the listener's queue is full. */
DIFF_HELPER int in_connecting(void)
{
    int port = peer_number("listen 0 0");
    int first = connected_to(port);
    (void)first;
    return start_connect(port);
}

/* Refused, the error not fetched yet. */
DIFF_HELPER int in_refused(void)
{
    int fd = start_connect(closed_port());
    wait_events(fd, POLLOUT);
    return fd;
}

/* Refused, and the program knows. */
DIFF_HELPER int in_refused_seen(void)
{
    int fd = tcp_socket();
    struct addr a = peer_addr(closed_port());
    if (connect(fd, &a.sa, a.len) == 0)
        give_up("connect");
    return unblocked(fd);
}

/* Ten bytes wait. */
DIFF_HELPER int in_data(void)
{
    int fd = active_pair();
    peer_ok("send 10");
    wait_bytes(fd, 10);
    return unblocked(fd);
}

/* Our FIN is acknowledged. */
DIFF_HELPER int in_shut_wr(void)
{
    int fd = active_pair();
    shutdown(fd, SHUT_WR);
    wait_state(fd, "FIN_WAIT2");
    return unblocked(fd);
}

DIFF_HELPER int in_shut_rd(void)
{
    int fd = active_pair();
    shutdown(fd, SHUT_RD);
    return unblocked(fd);
}

/* Ten bytes wait, and reading is shut down. */
DIFF_HELPER int in_data_shut_rd(void)
{
    int fd = in_data();
    shutdown(fd, SHUT_RD);
    return fd;
}

/* The peer's FIN is here. */
DIFF_HELPER int in_peer_shut(void)
{
    int fd = active_pair();
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE_WAIT");
    return unblocked(fd);
}

/* Ten bytes and the peer's FIN are here. */
DIFF_HELPER int in_data_peer_shut(void)
{
    int fd = active_pair();
    peer_ok("send 10");
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE_WAIT");
    return unblocked(fd);
}

/* Both FINs are acknowledged, the peer's first: the connection is over. */
DIFF_HELPER int in_both_shut(void)
{
    int fd = active_pair();
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE_WAIT");
    shutdown(fd, SHUT_WR);
    peer_ok("quiet");
    wait_state(fd, "CLOSE");
    return unblocked(fd);
}

/* The same with ours first: what is left is TIME_WAIT, of which the descriptor sees a closed socket. */
DIFF_HELPER int in_time_wait(void)
{
    int fd = active_pair();
    shutdown(fd, SHUT_WR);
    wait_state(fd, "FIN_WAIT2");
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE");
    return unblocked(fd);
}

/* Reset by the peer, the error not fetched yet. */
DIFF_HELPER int in_reset(void)
{
    int fd = active_pair();
    peer_ok("rst");
    wait_state(fd, "CLOSE");
    return unblocked(fd);
}

/* Reset by the peer, and the program knows. */
DIFF_HELPER int in_reset_seen(void)
{
    int fd = in_reset();
    char byte;
    if (recv(fd, &byte, 1, 0) != -1)
        give_up("recv");
    return fd;
}

/* Reset while ten bytes waited. */
DIFF_HELPER int in_data_reset(void)
{
    int fd = in_data();
    peer_ok("rst");
    wait_state(fd, "CLOSE");
    return fd;
}

/* Reset after our FIN. */
DIFF_HELPER int in_shut_wr_reset(void)
{
    int fd = in_shut_wr();
    peer_ok("rst");
    wait_state(fd, "CLOSE");
    return fd;
}

/* Reset after the peer's FIN: sending fails with EPIPE, not with ECONNRESET. */
DIFF_HELPER int in_peer_shut_reset(void)
{
    int fd = in_peer_shut();
    send(fd, "x", 1, 0);
    peer_ok("rst");
    wait_state(fd, "CLOSE");
    return fd;
}

/* A connection that was dissolved by connect(AF_UNSPEC). */
DIFF_HELPER int in_dissolved(void)
{
    int fd = active_pair();
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    if (connect(fd, &none, sizeof none))
        give_up("connect to AF_UNSPEC");
    return unblocked(fd);
}

/* A listener that was shut down. */
DIFF_HELPER int in_listener_shut(void)
{
    int fd = in_listening();
    shutdown(fd, SHUT_RD);
    return fd;
}

/* Makes one case of the function `op_OP` for every state. The cases of accepted sockets are apart where they differ. */
#define IN_EVERY_STATE(OP)                                                                                     \
    IN_STATE(OP, fresh)                                                                                        \
    IN_STATE(OP, bound)                                                                                        \
    IN_STATE(OP, listening)                                                                                    \
    IN_STATE(OP, connecting)                                                                                   \
    IN_STATE(OP, refused)                                                                                      \
    IN_STATE(OP, refused_seen)                                                                                 \
    IN_STATE(OP, active)                                                                                       \
    IN_STATE(OP, data)                                                                                         \
    IN_STATE(OP, shut_wr)                                                                                      \
    IN_STATE(OP, shut_rd)                                                                                      \
    IN_STATE(OP, data_shut_rd)                                                                                 \
    IN_STATE(OP, peer_shut)                                                                                    \
    IN_STATE(OP, data_peer_shut)                                                                               \
    IN_STATE(OP, both_shut)                                                                                    \
    IN_STATE(OP, time_wait)                                                                                    \
    IN_STATE(OP, reset)                                                                                        \
    IN_STATE(OP, reset_seen)                                                                                   \
    IN_STATE(OP, data_reset)                                                                                   \
    IN_STATE(OP, shut_wr_reset)                                                                                \
    IN_STATE(OP, peer_shut_reset)                                                                              \
    IN_STATE(OP, dissolved)                                                                                    \
    IN_STATE(OP, listener_shut)

#define IN_STATE(OP, STATE)                                                                                    \
    CASE(OP##_##STATE) { op_##OP(in_##STATE()); }
