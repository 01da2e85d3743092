/* Options of IPPROTO_TCP, in every state of a socket. */
#include "opt.h"

#ifndef TCP_TX_DELAY
#define TCP_TX_DELAY 37
#endif

INT_OPT(tcp_nodelay, IPPROTO_TCP, TCP_NODELAY, 0, 7, 1)
INT_OPT(tcp_cork, IPPROTO_TCP, TCP_CORK, 0, 1, 5)
INT_OPT_HOW(OWN_DEFAULT | TRAFFIC, tcp_maxseg, IPPROTO_TCP, TCP_MAXSEG, 0, 87, 88, 32768, -1)
INT_OPT(tcp_keepidle, IPPROTO_TCP, TCP_KEEPIDLE, 0, -1, 1, 32767, 32768, 77)
INT_OPT(tcp_keepintvl, IPPROTO_TCP, TCP_KEEPINTVL, 0, -1, 1, 32767, 32768, 78)
INT_OPT(tcp_keepcnt, IPPROTO_TCP, TCP_KEEPCNT, 0, -1, 1, 127, 128, 5)
INT_OPT(tcp_syncnt, IPPROTO_TCP, TCP_SYNCNT, 0, -1, 1, 127, 128, 3)
INT_OPT(tcp_linger2, IPPROTO_TCP, TCP_LINGER2, 0, -1, -5, 1, 60, 120, 121, 100000, 9)
INT_OPT(tcp_defer_accept, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0, 1, 2, 3, 4, 10, 100, 1000, -1, 0)
INT_OPT_HOW(OWN_DEFAULT, tcp_window_clamp, IPPROTO_TCP, TCP_WINDOW_CLAMP, 1, 1000, 100000, 5000)

CASE(tcp_window_clamp_off)
{
    int zero = 0;
    for (enum state st = 0; st < STATES; st++) {
        int fd = in_state(st);
        say("%s: %s", state_name[st], setsockopt(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &zero, 4) ? errno_name(errno) : "ok");
        close(fd);
    }
}

INT_OPT_HOW(OWN_DEFAULT, tcp_quickack, IPPROTO_TCP, TCP_QUICKACK, 0, 1)
INT_OPT(tcp_user_timeout, IPPROTO_TCP, TCP_USER_TIMEOUT, 0, -1, 1, 30000, 2147483647, 4000)
INT_OPT(tcp_notsent_lowat, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 0, 1, -1, 16384)
INT_OPT(tcp_fastopen, IPPROTO_TCP, TCP_FASTOPEN, -1, 0, 5, 100000)
INT_OPT(tcp_fastopen_no_cookie, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 0, 2, -1, 1)
INT_OPT(tcp_thin_linear, IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 0, 2, -1, 1)
INT_OPT(tcp_thin_dupack, IPPROTO_TCP, TCP_THIN_DUPACK, 0, 2, -1, 1)
INT_OPT(tcp_save_syn, IPPROTO_TCP, TCP_SAVE_SYN, 3, -1, 0)
INT_OPT(tcp_inq, IPPROTO_TCP, TCP_INQ, 0, 2, -1, 1)
INT_OPT(tcp_repair_queue, IPPROTO_TCP, TCP_REPAIR_QUEUE, 0, 1, 9)
INT_OPT(tcp_queue_seq, IPPROTO_TCP, TCP_QUEUE_SEQ, 0, 1)
INT_OPT(tcp_saved_syn, IPPROTO_TCP, TCP_SAVED_SYN, 0, 1)
INT_OPT(tcp_unknown, IPPROTO_TCP, 999, 0, 1)
INT_OPT(tcp_unknown_negative, IPPROTO_TCP, -3, 0, 1)

/* Names of congestion control algorithms. */
CASE(tcp_congestion)
{
    for (enum state st = 0; st < STATES; st++) {
        static const char *const names[] = { "reno", "cubic", "no-such-thing", "", "a-name-that-is-too-long", "reno" };
        int fd = in_state(st);
        char b[40];

        for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
            socklen_t len = sizeof(b);
            int r = setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, names[i], strlen(names[i]));

            say("%s set '%s': %s", state_name[st], names[i], r < 0 ? errno_name(errno) : "ok");
            memset(b, 0, sizeof(b));
            r = getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, b, &len);
            say("%s get: %s len %d '%s'", state_name[st], r < 0 ? errno_name(errno) : "ok", (int)len, b);
        }
        for (int room = 0; room < 20; room += 3) {
            socklen_t len = room;

            memset(b, 0, sizeof(b));
            int r = getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, b, &len);
            say("%s get[%d]: %s len %d '%s'", state_name[st], room, r < 0 ? errno_name(errno) : "ok", (int)len, b);
        }
        close(fd);
    }
}

/* An upper-layer protocol that does not exist, and one that needs a connection. */
CASE(tcp_ulp)
{
    for (enum state st = 0; st < STATES; st++) {
        int fd = in_state(st);
        char b[16] = "";
        socklen_t len = sizeof(b);

        int r = setsockopt(fd, IPPROTO_TCP, TCP_ULP, "nothing", 7);
        say("%s nothing: %s", state_name[st], r < 0 ? errno_name(errno) : "ok");
        r = getsockopt(fd, IPPROTO_TCP, TCP_ULP, b, &len);
        say("%s get: %s len %d '%.8s'", state_name[st], r < 0 ? errno_name(errno) : "ok", (int)len, b);
        r = setsockopt(fd, IPPROTO_TCP, TCP_ULP, "", 0);
        say("%s empty: %s", state_name[st], r < 0 ? errno_name(errno) : "ok");
        close(fd);
    }
}

/* TCP_INFO: lengths, and the fields that do not depend on time. */
CASE(tcp_info_lengths)
{
    for (enum state st = 0; st < STATES; st++) {
        int fd = in_state(st);
        static const int rooms[] = { 0, 1, 7, 8, 104, 192, 232, 248, 400, -1 };

        for (unsigned i = 0; i < sizeof(rooms) / sizeof(*rooms); i++) {
            unsigned char b[512];
            socklen_t len = rooms[i];
            int touched = 0;

            memset(b, 0xa7, sizeof(b));
            int r = getsockopt(fd, IPPROTO_TCP, TCP_INFO, b, &len);
            for (int k = 0; k < 512; k++)
                if (b[k] != 0xa7)
                    touched = k;
            say("%s [%d]: %s len %d state %d within %d", state_name[st], rooms[i], r < 0 ? errno_name(errno) : "ok",
                (int)len, rooms[i] ? b[0] : 0, r < 0 || touched <= (int)len);
        }
        close(fd);
    }
}

CASE_KNOWN_LOCAL(tcp_info_counts, "the kernel's connection beside a pair has seen no data, and has its first MSS")
{
    int fd = active_pair();
    char b[5000];
    struct tcp_info i;
    socklen_t len = sizeof(i);

    memset(b, 'a', sizeof(b));
    send(fd, b, 3000, 0);
    peer("recv 3000");
    peer_ok("send 2000");
    say_ret("recv", recv(fd, b, 2000, MSG_WAITALL));
    usleep(100000);
    memset(&i, 0, sizeof(i));
    say_ret("get", getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &len));
    say("state %d ca %d retrans %d probes %d backoff %d options %d", i.tcpi_state, i.tcpi_ca_state, i.tcpi_retransmits,
        i.tcpi_probes, i.tcpi_backoff, i.tcpi_options);
    say("mss %u advmss %u pmtu %u unacked %u sacked %u lost %u retrans %u fackets %u total %u reordering %u", i.tcpi_snd_mss,
        i.tcpi_advmss, i.tcpi_pmtu, i.tcpi_unacked, i.tcpi_sacked, i.tcpi_lost, i.tcpi_retrans, i.tcpi_fackets,
        i.tcpi_total_retrans, i.tcpi_reordering);
    say("cwnd %d ssthresh %u", i.tcpi_snd_cwnd >= 10, i.tcpi_snd_ssthresh);
    say("rto %s rtt %s", i.tcpi_rto >= 200000 && i.tcpi_rto < 300000 ? "good" : "bad",
        i.tcpi_rtt > 0 && i.tcpi_rtt < 200000 ? "good" : "bad");
    say("ages %d %d %d", i.tcpi_last_data_sent >= 90, i.tcpi_last_data_recv >= 90, i.tcpi_last_ack_recv >= 90);
    unsigned char *raw = (unsigned char *)&i;
    unsigned long long acked, received, sent;
    unsigned data_in, data_out, delivered;
    memcpy(&acked, raw + 120, 8), memcpy(&received, raw + 128, 8), memcpy(&sent, raw + 200, 8);
    memcpy(&data_in, raw + 152, 4), memcpy(&data_out, raw + 156, 4), memcpy(&delivered, raw + 192, 4);
    say("acked %llu received %llu", acked, received);
    unsigned char big[248];
    len = sizeof(big);
    getsockopt(fd, IPPROTO_TCP, TCP_INFO, big, &len);
    memcpy(&sent, big + 200, 8), memcpy(&delivered, big + 192, 4), memcpy(&data_in, big + 152, 4), memcpy(&data_out, big + 156, 4);
    say("sent %llu data-in %d data-out %d delivered %d", sent, data_in > 0, data_out > 0, delivered > 0);
    close(fd);
}
