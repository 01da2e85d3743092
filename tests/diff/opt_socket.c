/* Options of SOL_SOCKET, in every state of a socket. */
#include "opt.h"
#include <linux/filter.h>

INT_OPT(so_debug, SOL_SOCKET, SO_DEBUG, 0, 1, -1)
INT_OPT(so_reuseaddr, SOL_SOCKET, SO_REUSEADDR, 0, 7, 1)
INT_OPT(so_type, SOL_SOCKET, SO_TYPE, 0)
INT_OPT(so_error, SOL_SOCKET, SO_ERROR, 0)
INT_OPT_KERNEL(so_dontroute, SOL_SOCKET, SO_DONTROUTE, 0, 1)
INT_OPT(so_broadcast, SOL_SOCKET, SO_BROADCAST, 0, 5)
INT_OPT_HOW(OWN_DEFAULT, so_sndbuf, SOL_SOCKET, SO_SNDBUF, 0, 1, 5000, 100000, 2000000000, -1, 30000)
INT_OPT_HOW(OWN_DEFAULT, so_rcvbuf, SOL_SOCKET, SO_RCVBUF, 0, 1, 5000, 100000, 2000000000, -1, 30000)
INT_OPT_HOW(OWN_DEFAULT, so_sndbufforce, SOL_SOCKET, SO_SNDBUFFORCE, 0, 20000000, 30000)
INT_OPT_HOW(OWN_DEFAULT, so_rcvbufforce, SOL_SOCKET, SO_RCVBUFFORCE, 0, 20000000, 30000)
INT_OPT(so_keepalive, SOL_SOCKET, SO_KEEPALIVE, 0, 7, 1)
INT_OPT(so_oobinline, SOL_SOCKET, SO_OOBINLINE, 0, 7, 1)
INT_OPT(so_no_check, SOL_SOCKET, SO_NO_CHECK, 0, 1)
INT_OPT_KERNEL(so_priority, SOL_SOCKET, SO_PRIORITY, 0, 6, 7, -1, 3)
INT_OPT(so_bsdcompat, SOL_SOCKET, SO_BSDCOMPAT, 0, 1)
INT_OPT(so_reuseport, SOL_SOCKET, SO_REUSEPORT, 0, 9, 0)
INT_OPT(so_passcred, SOL_SOCKET, SO_PASSCRED, 0, 1)
INT_OPT(so_rcvlowat, SOL_SOCKET, SO_RCVLOWAT, 0, -1, 1, 100, 1000000000, 1)
INT_OPT(so_sndlowat, SOL_SOCKET, SO_SNDLOWAT, 0, 1)
INT_OPT(so_acceptconn, SOL_SOCKET, SO_ACCEPTCONN, 0)
INT_OPT(so_protocol, SOL_SOCKET, SO_PROTOCOL, 0)
INT_OPT(so_domain, SOL_SOCKET, SO_DOMAIN, 0)
INT_OPT(so_timestamp, SOL_SOCKET, SO_TIMESTAMP, 0, 5, 1)
INT_OPT(so_timestampns, SOL_SOCKET, SO_TIMESTAMPNS, 0, 5, 1)
INT_OPT(so_timestamp_new, SOL_SOCKET, 63, 0, 5, 1)
INT_OPT(so_timestampns_new, SOL_SOCKET, 64, 0, 5, 1)
INT_OPT(so_timestamping, SOL_SOCKET, SO_TIMESTAMPING, 0, 0x18, 0x10000000, 0x18)
INT_OPT_KERNEL(so_mark, SOL_SOCKET, SO_MARK, 0, 77, -1)
INT_OPT(so_rxq_ovfl, SOL_SOCKET, SO_RXQ_OVFL, 0, 5, 1)
INT_OPT(so_wifi_status, SOL_SOCKET, SO_WIFI_STATUS, 0, 1)
INT_OPT_KERNEL(so_peek_off, SOL_SOCKET, SO_PEEK_OFF, -1, 0, 10, -5, 3)
INT_OPT(so_nofcs, SOL_SOCKET, SO_NOFCS, 0, 1)
INT_OPT(so_lock_filter, SOL_SOCKET, SO_LOCK_FILTER, 0)
INT_OPT(so_select_err_queue, SOL_SOCKET, SO_SELECT_ERR_QUEUE, 0, 1)
INT_OPT(so_busy_poll, SOL_SOCKET, SO_BUSY_POLL, 0, 50, -1)
INT_OPT_KERNEL(so_max_pacing_rate, SOL_SOCKET, SO_MAX_PACING_RATE, -1, 100000)
INT_OPT(so_bpf_extensions, SOL_SOCKET, SO_BPF_EXTENSIONS, 0)
INT_OPT_KERNEL(so_zerocopy, SOL_SOCKET, SO_ZEROCOPY, 0, 2, -1, 1)
INT_OPT_KERNEL(so_bindtoifindex, SOL_SOCKET, 62, 0, -1, 9999, 0)
INT_OPT(so_prefer_busy_poll, SOL_SOCKET, 69, 0, 1)
INT_OPT(so_busy_poll_budget, SOL_SOCKET, 70, 0, 8)
INT_OPT(so_buf_lock, SOL_SOCKET, 72, 0, 4, 3)
INT_OPT(so_txrehash, SOL_SOCKET, 74, 0, 1, 2)
INT_OPT_KERNEL(so_rcvmark, SOL_SOCKET, 75, 0, 1)
INT_OPT(so_passrights, SOL_SOCKET, 83, 0)
INT_OPT(so_unknown, SOL_SOCKET, 777, 0)
INT_OPT(so_of_a_level_that_is_not, 12345, 1, 0)

CASE(so_linger)
{
    static const struct linger values[] = {{0, 0}, {1, 0}, {1, 5}, {7, -1}, {0, 9}, {1, 100000}};
    for (enum state state = 0; state < STATES; state++) {
        int fd = in_state(state);
        for (int i = 0; i < 6; i++) {
            struct linger l;
            socklen_t len = sizeof l;
            int ret = setsockopt(fd, SOL_SOCKET, SO_LINGER, &values[i], sizeof l);
            say("%s set %d %d: %s", state_name[state], values[i].l_onoff, values[i].l_linger,
                ret ? errno_name(errno) : "ok");
            getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len);
            say("%s get %d %d len %d", state_name[state], l.l_onoff, l.l_linger, (int)len);
        }
        say("%s short: %s", state_name[state], setsockopt(fd, SOL_SOCKET, SO_LINGER, values, 4) ? errno_name(errno) : "ok");
        struct linger off = {0, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &off, sizeof off);
        close(fd);
    }
}

static void times(int name)
{
    static const struct timeval values[] = {{0, 0}, {1, 500000}, {0, 1}, {0, 999999}, {0, 1000000}, {-1, 0}, {0, -1},
        {1L << 40, 5}, {3, 0}};
    for (enum state state = 0; state < STATES; state++) {
        int fd = in_state(state);
        for (int i = 0; i < 9; i++) {
            struct timeval t = {7, 7};
            socklen_t len = sizeof t;
            int ret = setsockopt(fd, SOL_SOCKET, name, &values[i], sizeof t);
            say("%s set %ld %ld: %s", state_name[state], values[i].tv_sec, values[i].tv_usec,
                ret ? errno_name(errno) : "ok");
            getsockopt(fd, SOL_SOCKET, name, &t, &len);
            say("%s get %ld %ld len %d", state_name[state], t.tv_sec, t.tv_usec, (int)len);
        }
        say("%s short: %s", state_name[state], setsockopt(fd, SOL_SOCKET, name, values, 8) ? errno_name(errno) : "ok");
        close(fd);
    }
}

CASE(so_rcvtimeo) { times(SO_RCVTIMEO); }
CASE(so_sndtimeo) { times(SO_SNDTIMEO); }
CASE(so_rcvtimeo_new) { times(66); }
CASE(so_sndtimeo_new) { times(67); }

CASE(so_peername)
{
    static const int rooms[] = {0, 2, 16, 28, 29, 128};
    for (enum state state = 0; state < STATES; state++) {
        int fd = in_state(state);
        for (int i = 0; i < 6; i++) {
            struct sockaddr_storage a;
            socklen_t len = rooms[i];
            memset(&a, 0, sizeof a);
            int ret = getsockopt(fd, SOL_SOCKET, 28, &a, &len);
            say("%s [%d] %s len %d family %d", state_name[state], rooms[i], ret ? errno_name(errno) : "ok", (int)len,
                a.ss_family);
        }
        close(fd);
    }
}

CASE_KERNEL(so_bindtodevice)
{
    static const char *const names[] = {"eth0", "no-such-if", "", "a-name-longer-than-any", "eth0"};
    for (enum state state = 0; state < STATES; state++) {
        int fd = in_state(state);
        for (int i = 0; i < 5; i++) {
            char b[40] = "";
            socklen_t len = sizeof b;
            int ret = setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, names[i], strlen(names[i]));
            say("%s set '%s': %s", state_name[state], names[i], ret ? errno_name(errno) : "ok");
            ret = getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, b, &len);
            say("%s get %s '%s' len %d", state_name[state], ret ? errno_name(errno) : "ok", b, (int)len);
        }
        close(fd);
    }
}

CASE_KERNEL(so_attach_filter)
{
    for (enum state state = 0; state < STATES; state++) {
        struct sock_filter pass[] = {{BPF_RET | BPF_K, 0, 0, 0xffff}};
        struct sock_fprog program = {1, pass}, bad = {0, pass};
        int fd = in_state(state);
        say_ret("bad", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &bad, sizeof bad));
        say_ret("short", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, 4));
        say_ret("detach none", setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4));
        say_ret("attach", setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
        say_ret("detach", setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){0}, 4));
        close(fd);
    }
}
