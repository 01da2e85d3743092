/*
 * Orders of the peer that move data, set options and ask for states; part of peer.c.
 */
/* ---- data ----------------------------------------------------------------------------------------------------- */

static void send_pattern(unsigned long count, int flags, const struct sockaddr_storage *to, socklen_t tolen)
{
    struct handle *h = now();
    char *data = malloc(count + 1);
    for (unsigned long i = 0; i < count; i++)
        data[i] = pattern(h->sent + i);
    unsigned long done = 0;
    long n = 0;
    long until = milliseconds() + LIMIT_MS;
    do {
        n = sendto(h->fd, data + done, count - done, flags | MSG_NOSIGNAL | MSG_DONTWAIT, (void *)to, tolen);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = h->fd, .events = POLLOUT};
            poll(&p, 1, 50);
            n = 0;
            if (milliseconds() > until) {
                free(data);
                answer("timeout %lu", done);
                return;
            }
            continue;
        }
        if (n > 0)
            done += n;
    } while (n >= 0 && done < count);
    h->sent += done;
    free(data);
    result(n);
}

static void do_send(char *args) { send_pattern(strtoul(args, NULL, 10), 0, NULL, 0); }

static void do_text(char *args)
{
    result(send(now()->fd, args, strlen(args), MSG_NOSIGNAL));
}

static void do_oob(char *args)
{
    result(send(now()->fd, args, strlen(args), MSG_OOB | MSG_NOSIGNAL));
}

/* Answers with what was received: up to 64 bytes as text, more as length and sum; whether it is the pattern. */
static void answer_data(const char *data, unsigned long n, const char *end)
{
    struct handle *h = now();
    unsigned long sum = 0, same = 1;
    for (unsigned long i = 0; i < n; i++) {
        sum = sum * 31 + (unsigned char)data[i];
        same &= data[i] == pattern(h->received + i);
    }
    h->received += n;
    if (n > 64) {
        answer("%lu %s%s", n, same ? "as sent" : "other data", end);
        if (!same)
            snprintf(reply + strlen(reply), 32, " %08lx", sum & 0xffffffff);
        return;
    }
    char text[65 * 4] = "";
    for (unsigned long i = 0; i < n; i++) {
        int plain = data[i] > ' ' && data[i] < 127;
        sprintf(text + strlen(text), plain ? "%c" : "\\x%02x", (unsigned char)data[i]);
    }
    answer("%lu %s%s", n, text, end);
}

/* Receives `wanted` bytes of the stream, or up to its end. */
static void receive(unsigned long wanted)
{
    struct handle *h = now();
    unsigned long room = wanted < (1 << 24) ? wanted : 1 << 24, got = 0;
    char *data = malloc(room + 1);
    char end[64] = "";
    while (got < room) {
        if (wait_for(h->fd, POLLIN)) {
            snprintf(end, sizeof end, " timeout");
            break;
        }
        long n = recv(h->fd, data + got, room - got, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            continue;
        if (n <= 0) {
            snprintf(end, sizeof end, " %s", n ? strerrorname_np(errno) : "eof");
            break;
        }
        got += n;
    }
    answer_data(data, got, end);
    free(data);
}

static void do_recv(char *args) { receive(strtoul(args, NULL, 10)); }
static void do_recvall(char *args) { (void)args; receive(-1UL); }

static void do_recvoob(char *args)
{
    (void)args;
    char byte = 0;
    if (wait_for(now()->fd, POLLPRI) || recv(now()->fd, &byte, 1, MSG_OOB) < 0)
        failed();
    else
        answer("%c", byte);
}

static void do_atmark(char *args)
{
    (void)args;
    int at = -1;
    ioctl(now()->fd, SIOCATMARK, &at);
    answer("%d", at);
}

/* sendto PORT COUNT: one datagram to the program under test. */
static void do_sendto(char *args)
{
    int port = 0;
    unsigned long count = 0;
    sscanf(args, "%d %lu", &port, &count);
    struct sockaddr_storage to;
    socklen_t len = address(&to, other, port);
    now()->sent = 0;
    send_pattern(count, 0, &to, len);
}

/* sendto_addr ADDRESS PORT COUNT: one datagram to anyone. */
static void do_sendto_addr(char *args)
{
    char text[64];
    int port = 0;
    unsigned long count = 0;
    sscanf(args, "%63s %d %lu", text, &port, &count);
    struct sockaddr_storage to;
    socklen_t len = address(&to, text, port);
    now()->sent = 0;
    send_pattern(count, 0, &to, len);
}

/* One datagram; the pattern starts anew in each. */
static void do_recvfrom(char *args)
{
    (void)args;
    static char data[70000];
    struct handle *h = now();
    socklen_t len = sizeof h->from;
    long n = -1;
    if (wait_for(h->fd, POLLIN) == 0)
        n = recvfrom(h->fd, data, sizeof data, 0, (void *)&h->from, &len);
    if (n < 0)
        failed();
    else {
        h->received = 0;
        answer_data(data, n, "");
    }
}

/* recvinfo: one datagram, with the TTL and the TOS that options asked for. */
static void do_recvinfo(char *args)
{
    (void)args;
    static char data[70000];
    _Alignas(16) char control[256];
    struct iovec v = {data, sizeof data};
    struct handle *h = now();
    struct msghdr m = {.msg_name = &h->from, .msg_namelen = sizeof h->from, .msg_iov = &v, .msg_iovlen = 1,
        .msg_control = control, .msg_controllen = sizeof control};
    long n = wait_for(h->fd, POLLIN) ? -1 : recvmsg(h->fd, &m, 0);
    if (n < 0) {
        failed();
        return;
    }
    int ttl = -1, tos = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
        int *to = c->cmsg_level == IPPROTO_IP ? (c->cmsg_type == IP_TTL ? &ttl : &tos)
                                              : (c->cmsg_type == IPV6_HOPLIMIT ? &ttl : &tos);
        *to = 0;
        memcpy(to, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0) < 4 ? 1 : 4);
    }
    answer("%ld ttl %d tos %d", n, ttl, tos);
}

/* reply COUNT: one datagram to the sender of the last one. */
static void do_reply(char *args)
{
    now()->sent = 0;
    send_pattern(strtoul(args, NULL, 10), 0, &now()->from, sizeof(struct sockaddr_in6));
}

/* ---- ends, options, states ------------------------------------------------------------------------------------- */

static void do_shutdown(char *args)
{
    int how = !strcmp(args, "r") ? SHUT_RD : !strcmp(args, "w") ? SHUT_WR : SHUT_RDWR;
    result(shutdown(now()->fd, how));
}

static void do_close(char *args)
{
    (void)args;
    result(close(now()->fd));
    now()->fd = -1;
}

static void do_rst(char *args)
{
    struct linger at_once = {.l_onoff = 1};
    setsockopt(now()->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    do_close(args);
}

/* opt LEVEL NAME VALUE: an int option. */
static void do_opt(char *args)
{
    int level = 0, name = 0, value = 0;
    sscanf(args, "%d %d %d", &level, &name, &value);
    result(setsockopt(now()->fd, level, name, &value, sizeof value));
}

static void do_getopt(char *args)
{
    int level = 0, name = 0, value = 0;
    socklen_t len = sizeof value;
    sscanf(args, "%d %d", &level, &name);
    if (getsockopt(now()->fd, level, name, &value, &len))
        failed();
    else
        answer("%d", value);
}

/* optx LEVEL NAME HEX: an option of any form, for instance a group to join. */
static void do_optx(char *args)
{
    int level = 0, name = 0;
    char hex[513] = "";
    unsigned char value[256];
    unsigned n = 0, byte;
    sscanf(args, "%d %d %512s", &level, &name, hex);
    while (n < sizeof value && sscanf(hex + 2 * n, "%2x", &byte) == 1)
        value[n++] = byte;
    result(setsockopt(now()->fd, level, name, value, n));
}

static const char *state_of(int fd)
{
    static const char *const names[] = {"?", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",
        "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"};
    struct tcp_info info;
    socklen_t len = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) || info.tcpi_state >= 12)
        return "?";
    return names[info.tcpi_state];
}

static void do_state(char *args)
{
    (void)args;
    answer("%s", state_of(now()->fd));
}

/* wait STATE: until the connection is in this state, as the peer sees it. */
static void do_wait(char *args)
{
    long until = milliseconds() + LIMIT_MS;
    while (strcmp(state_of(now()->fd), args) && milliseconds() < until)
        usleep(500);
    answer("%s", strcmp(state_of(now()->fd), args) ? "timeout" : "ok");
}

static int queued(unsigned long request)
{
    int n = -1;
    ioctl(now()->fd, request, &n);
    return n;
}

static void do_outq(char *args) { (void)args; answer("%d", queued(SIOCOUTQ)); }
static void do_inq(char *args) { (void)args; answer("%d", queued(FIONREAD)); }

/* quiet: until everything that was sent, FIN included, has been acknowledged. */
static void do_quiet(char *args)
{
    (void)args;
    long until = milliseconds() + LIMIT_MS;
    for (;;) {
        const char *state = state_of(now()->fd);
        int open_end = !strcmp(state, "FIN_WAIT1") || !strcmp(state, "LAST_ACK") || !strcmp(state, "CLOSING");
        /* The queue of a connection that is over holds arbitrary numbers. */
        if (!strcmp(state, "CLOSE") || (queued(SIOCOUTQ) <= 0 && !open_end))
            break;
        if (milliseconds() > until) {
            answer("timeout");
            return;
        }
        usleep(500);
    }
    answer("ok");
}

/* inq_at_least N: until N bytes wait to be read. */
static void do_inq_at_least(char *args)
{
    long until = milliseconds() + LIMIT_MS;
    while (queued(FIONREAD) < atoi(args) && milliseconds() < until)
        usleep(500);
    answer("%s", queued(FIONREAD) < atoi(args) ? "timeout" : "ok");
}

static void do_name(char *args)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    int ret = *args == 'r' ? getpeername(now()->fd, (void *)&a, &len) : getsockname(now()->fd, (void *)&a, &len);
    if (ret)
        failed();
    else
        answer("%s %d", text_of(&a), port_of(&a));
}

static void do_from(char *args)
{
    (void)args;
    answer("%s %d", text_of(&now()->from), port_of(&now()->from));
}

static void do_sleep(char *args)
{
    usleep(atoi(args) * 1000);
    answer("ok");
}

/* exchange OUT IN: sends and receives at the same time, in the background. */
static struct {
    pthread_t thread;
    struct handle *h;
    unsigned long out, in;
    const char *result;
} exchange;

static const char *exchange_ended(void)
{
    return errno == ECONNRESET || errno == EPIPE ? "reset" : strerrorname_np(errno);
}

static void *exchange_bytes(void *arg)
{
    (void)arg;
    static char data[16384];
    struct handle *h = exchange.h;
    long until = milliseconds() + 2 * LIMIT_MS;
    exchange.result = "timeout";
    while (milliseconds() < until) {
        struct pollfd p = {.fd = h->fd, .events = (exchange.out ? POLLOUT : 0) | (exchange.in ? POLLIN : 0)};
        if (!p.events) {
            exchange.result = "as sent";
            return NULL;
        }
        poll(&p, 1, 100);
        if (exchange.in) {
            long n = recv(h->fd, data, exchange.in < sizeof data ? exchange.in : sizeof data, MSG_DONTWAIT);
            if (n == 0 || (n < 0 && errno != EAGAIN)) {
                exchange.result = n ? exchange_ended() : "eof";
                return NULL;
            }
            for (long i = 0; i < n; i++)
                if (data[i] != pattern(h->received + i)) {
                    exchange.result = "other data";
                    return NULL;
                }
            if (n > 0)
                h->received += n, exchange.in -= n;
        }
        if (exchange.out) {
            unsigned long want = exchange.out < sizeof data ? exchange.out : sizeof data;
            for (unsigned long i = 0; i < want; i++)
                data[i] = pattern(h->sent + i);
            long n = send(h->fd, data, want, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n < 0 && errno != EAGAIN) {
                exchange.result = exchange_ended();
                return NULL;
            }
            if (n > 0)
                h->sent += n, exchange.out -= n;
        }
    }
    return NULL;
}

static void do_exchange(char *args)
{
    exchange.h = now();
    sscanf(args, "%lu %lu", &exchange.out, &exchange.in);
    result(pthread_create(&exchange.thread, NULL, exchange_bytes, NULL) ? -1 : 0);
}

/* exchanged: how the last exchange ended: "as sent", "eof", "reset", .. */
static void do_exchanged(char *args)
{
    (void)args;
    pthread_join(exchange.thread, NULL);
    answer("%s", exchange.result);
}

/* unwanted: sends until somebody says that he does not want it. */
static void do_unwanted(char *args)
{
    (void)args;
    long until = milliseconds() + LIMIT_MS;
    while (milliseconds() < until) {
        if (send(now()->fd, "u", 1, MSG_NOSIGNAL) < 0) {
            answer("%s", exchange_ended());
            return;
        }
        usleep(2000);
    }
    answer("timeout");
}

/* refused PORT: until a connection is refused: its listener ends a moment after its last holder. */
static void do_refused(char *args)
{
    long until = milliseconds() + LIMIT_MS;
    do {
        start_connect(args, 1);
        close(now()->fd);
        now()->fd = -1;
        made--;
        current = made - 1;
        if (!strcmp(reply, "ECONNREFUSED"))
            return;
        usleep(2000);
    } while (milliseconds() < until);
}

/* hello FAMILY OWN OTHER: said by diff.h at the start of a session. */
static void do_hello(char *args)
{
    int f = 4;
    sscanf(args, "%d %63s %63s", &f, own, other);
    family = f == 6 ? AF_INET6 : AF_INET;
    answer("ok");
}
