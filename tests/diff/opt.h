/*
 * One option in every state of a socket: its value, what it takes, what it refuses, and the lengths of its buffers; part
 * of opt_*.c. INT_OPT(case, level, option, values...) is a case; the last value is what a listener hands down.
 */
#include "diff.h"

enum state { FRESH, ACTIVE, PASSIVE, LISTENER, SHUT, UDP_FRESH, UDP_BOUND, UDP_CONNECTED, STATES };

static const char *const state_name[STATES] = {"fresh", "active", "passive", "listener", "shut", "udp", "udp-bound",
    "udp-connected"};

/* Set on a listener before the connection is made, to see what is inherited. */
static int pre_wanted, pre_level, pre_name, pre_value;

DIFF_HELPER int accepted(void)
{
    int l = listening();
    if (pre_wanted)
        setsockopt(l, pre_level, pre_name, &pre_value, sizeof pre_value);
    peer_ok("connect %d", port_of(l));
    int fd = accept(l, NULL, NULL);
    if (fd < 0)
        give_up("accept");
    close(l);
    return fd;
}

DIFF_HELPER int in_state(enum state state)
{
    int fd;
    switch (state) {
    case FRESH:
        return tcp_socket();
    case ACTIVE:
        return active_pair();
    case PASSIVE:
        return accepted();
    case LISTENER:
        return listening();
    case SHUT:
        fd = active_pair();
        shutdown(fd, SHUT_WR);
        wait_state(fd, "FIN_WAIT2");
        return fd;
    case UDP_FRESH:
        return udp_socket();
    case UDP_BOUND:
        return bound(udp_socket());
    default:
        return udp_pair();
    }
}

static int connection(enum state state) { return state == ACTIVE || state == PASSIVE || state == SHUT; }

static void show_get(enum state state, const char *what, int fd, int level, int name, int room)
{
    unsigned char b[64];
    socklen_t len = room;
    int v = 0;
    memset(b, 0x5a, sizeof b);
    int ret = getsockopt(fd, level, name, b, &len);
    memcpy(&v, b, sizeof v);
    if (ret < 0)
        say("%s %s get[%d]: %s len %d", state_name[state], what, room, errno_name(errno), (int)len);
    else if (room >= 4)
        say("%s %s get[%d]: %d len %d next %02x", state_name[state], what, room, v, (int)len, b[4]);
    else
        say("%s %s get[%d]: %02x%02x%02x len %d", state_name[state], what, room, b[0], b[1], b[2], (int)len);
}

static void show_set(enum state state, int fd, int level, int name, int v, int len)
{
    int ret = setsockopt(fd, level, name, &v, len);
    say("%s set[%d] %d: %s", state_name[state], len, v, ret < 0 ? errno_name(errno) : "ok");
}

/* What an untouched connection has is the stack's own, or differs from run to run. */
#define OWN_DEFAULT 1
/* Accepted connections start with what Linux took out of the SYN (TTL, interface), which nobody asks for: see
 * docs/differences.md. */
#define NOT_PASSIVE 2
/* It changes with what the kernel's own connection carries, which is nothing beside a pair. */
#define TRAFFIC 8

static void int_option(int level, int name, int how, const int *values, int n)
{
    static const int rooms[] = {4, 1, 2, 0, 8, -1};
    for (enum state state = 0; state < STATES; state++) {
        if (how & NOT_PASSIVE && state == PASSIVE)
            continue;
        int fd = in_state(state);
        for (int i = 0; i < 6 && !(how & OWN_DEFAULT && connection(state)); i++)
            show_get(state, "default", fd, level, name, rooms[i]);
        for (int i = 0; i < n; i++) {
            show_set(state, fd, level, name, values[i], 4);
            show_get(state, "then", fd, level, name, 4);
        }
        show_set(state, fd, level, name, values[0], 1);
        show_get(state, "then", fd, level, name, 4);
        show_set(state, fd, level, name, values[0], 3);
        show_set(state, fd, level, name, values[0], 0);
        show_set(state, fd, level, name, values[0], -1);
        say("%s null: %s", state_name[state], setsockopt(fd, level, name, NULL, 4) ? errno_name(errno) : "ok");
        close(fd);
    }
    if (how & NOT_PASSIVE)
        return;
    pre_wanted = 1, pre_level = level, pre_name = name, pre_value = values[n - 1];
    int fd = in_state(PASSIVE);
    pre_wanted = 0;
    show_get(PASSIVE, "inherited", fd, level, name, 4);
    close(fd);
}

#define INT_OPT_HOW(HOW, NAME, LEVEL, OPTION, ...)                                                               \
    DIFF_CASE(NAME, DIFF_KERNEL * !!((HOW) & 4) | DIFF_KNOWN_LOCAL * !!((HOW) & TRAFFIC),                     \
        "changes with what the kernel's connection carries")                                                 \
    {                                                                                                        \
        static const int values[] = {__VA_ARGS__};                                                           \
        int_option(LEVEL, OPTION, HOW, values, sizeof values / sizeof(int));                                 \
    }
#define INT_OPT(NAME, LEVEL, OPTION, ...) INT_OPT_HOW(0, NAME, LEVEL, OPTION, __VA_ARGS__)
/* An option that moves sockets to the kernel path. */
#define INT_OPT_KERNEL(NAME, LEVEL, OPTION, ...) INT_OPT_HOW(4, NAME, LEVEL, OPTION, __VA_ARGS__)
