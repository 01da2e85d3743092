/* Signals and cancellation of threads that are in calls on sockets; fork and exec; signals that sockets send. */
#include "sig.h"

static int fd, cleaned, shared_ep, listener;

static void clean(void *what)
{
    (void)what;
    cleaned++;
}

enum { RECV, SEND, ACCEPT, POLL, PPOLL, SELECT, EPOLL, READ, RECVMSG, CALLS };
static const char *const names[] = {"recv", "send", "accept", "poll", "ppoll", "select", "epoll_wait", "read",
    "recvmsg"};

static void block_in(int call)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct epoll_event e;
    struct iovec v = {buf, 100};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    switch (call) {
    case RECV: recv(fd, buf, 100, 0); break;
    case SEND: for (;;) send(fd, buf, sizeof buf, 0);
    case ACCEPT: accept(listener, NULL, NULL); break;
    case POLL: poll(&p, 1, -1); break;
    case PPOLL: ppoll(&p, 1, NULL, NULL); break;
    case SELECT: select(fd + 1, &set, NULL, NULL, NULL); break;
    case EPOLL: epoll_wait(shared_ep, &e, 1, -1); break;
    case READ: read(fd, buf, 100); break;
    case RECVMSG: recvmsg(fd, &m, 0); break;
    }
}

static void *blocked(void *call)
{
    pthread_cleanup_push(clean, NULL);
    block_in((int)(long)call);
    say("returned from %s", names[(long)call]);
    pthread_cleanup_pop(0);
    return "returned";
}

static void begin(void)
{
    struct epoll_event e = {.events = EPOLLIN};
    fd = active_pair();
    listener = listening();
    shared_ep = epoll_create1(0);
    epoll_ctl(shared_ep, EPOLL_CTL_ADD, fd, &e);
}

static long ms_since(struct timespec from)
{
    struct timespec to;
    clock_gettime(CLOCK_MONOTONIC, &to);
    return (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
}

/* Joins; how the thread ended, and whether that took its time. */
static void join(pthread_t t, const char *what)
{
    void *result;
    struct timespec from;
    clock_gettime(CLOCK_MONOTONIC, &from);
    pthread_join(t, &result);
    say("%s: %s, cleaned %d%s", what, result == PTHREAD_CANCELED ? "cancelled" : (char *)result, cleaned,
        ms_since(from) > 700 ? ", late" : "");
    cleaned = 0;
}

/* A thread blocked in each call ends at once; others go on. */
CASE(cancel_blocked_threads)
{
    begin();
    for (long call = 0; call < CALLS; call++) {
        pthread_t t;
        pthread_create(&t, NULL, blocked, (void *)call);
        usleep(40000);
        say_ret("pthread_cancel", pthread_cancel(t));
        join(t, names[call]);
    }
    peer("recv 100000");
    peer_ok("send 10");
    say("events %s", events_name(wait_events(fd, POLLIN)));
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

/* Cancelled before it blocks. */
static volatile int is_cancelled;

static void *spin_first(void *call)
{
    while (!is_cancelled)
        sched_yield();
    return blocked(call);
}

CASE(cancel_before_blocking)
{
    begin();
    for (long call = 0; call < CALLS; call++) {
        pthread_t t;
        is_cancelled = 0;
        pthread_create(&t, NULL, spin_first, (void *)call);
        pthread_cancel(t);
        is_cancelled = 1;
        join(t, names[call]);
    }
}

/* Data is there, and the call is a cancellation point all the same. */
CASE(cancel_although_there_is_data)
{
    begin();
    peer_ok("send 10");
    wait_bytes(fd, 10);
    for (long call = 0; call < CALLS; call++) {
        pthread_t t;
        if (call == ACCEPT || call == SEND)
            continue;
        is_cancelled = 0;
        pthread_create(&t, NULL, spin_first, (void *)call);
        pthread_cancel(t);
        is_cancelled = 1;
        join(t, names[call]);
    }
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

static void *disabled(void *unused)
{
    (void)unused;
    int old;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
    pthread_cleanup_push(clean, NULL);
    say_data("recv, disabled", recv(fd, buf, 100, 0), buf);
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &old);
    say_data("recv, enabled", recv(fd, buf, 100, 0), buf);
    pthread_cleanup_pop(0);
    return "returned";
}

CASE(cancel_disabled)
{
    begin();
    pthread_t t;
    pthread_create(&t, NULL, disabled, NULL);
    usleep(40000);
    pthread_cancel(t);
    usleep(40000);
    peer_ok("send 10");
    join(t, "thread");
}

static void *at_once(void *unused)
{
    (void)unused;
    int old;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
    say("old type %d", old == PTHREAD_CANCEL_DEFERRED);
    pthread_cleanup_push(clean, NULL);
    recv(fd, buf, 100, 0);
    say("returned?");
    pthread_cleanup_pop(0);
    return "returned";
}

static void *hammer(void *unused)
{
    (void)unused;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    for (;;) {
        recv(fd, buf, 100, MSG_DONTWAIT);
        send(fd, buf, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    return NULL;
}

/* Threads that may be cancelled anywhere: not while they hold something that others need. */
CASE(cancel_asynchronous)
{
    begin();
    pthread_t t;
    pthread_create(&t, NULL, at_once, NULL);
    usleep(40000);
    pthread_cancel(t);
    join(t, "blocked");
    for (int i = 0; i < 30; i++) {
        pthread_create(&t, NULL, hammer, NULL);
        usleep(2000 + i * 37);
        pthread_cancel(t);
        pthread_join(t, NULL);
    }
    peer_ok("send 10");
    say("events %s", events_name(wait_events(fd, POLLIN)));
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

/* Many threads in one call, cancelled one after the other. */
CASE(cancel_many)
{
    begin();
    pthread_t t[16];
    for (int i = 0; i < 16; i++)
        pthread_create(&t[i], NULL, blocked, (void *)(long)(i % 2 ? RECV : EPOLL));
    usleep(60000);
    for (int i = 0; i < 16; i++) {
        pthread_cancel(t[i]);
        join(t[i], names[i % 2 ? RECV : EPOLL]);
    }
    peer_ok("send 10");
    wait_bytes(fd, 10);
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

static pthread_t ran_in;

static void where(int sig)
{
    (void)sig;
    ran_in = pthread_self();
    hits++;
}

static void *interrupted(void *call)
{
    hits = 0;
    block_in((int)(long)call);
    say("%s: %s, handler in this thread %d", names[(long)call], errno_name(errno),
        pthread_equal(ran_in, pthread_self()));
    return "returned";
}

/* pthread_kill reaches a thread that sleeps in each call. */
CASE(pthread_kill_blocked_threads)
{
    begin();
    handle(SIGUSR1, where, 0);
    for (long call = 0; call < CALLS; call++) {
        pthread_t t;
        if (call == SEND)
            continue;
        pthread_create(&t, NULL, interrupted, (void *)call);
        usleep(40000);
        pthread_kill(t, SIGUSR1);
        join(t, names[call]);
    }
}

/* A signal to the process goes to a thread that does not block it. */
CASE(process_signal_goes_to_the_open_thread)
{
    begin();
    handle(SIGUSR1, where, 0);
    pthread_t t;
    pthread_create(&t, NULL, interrupted, (void *)(long)RECV);
    sigset_t set = only(SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    usleep(40000);
    kill(getpid(), SIGUSR1);
    join(t, "thread");
}

/* Handlers stay over fork, and go with exec; ignored signals stay ignored. */
CASE(fork_keeps_handlers)
{
    begin();
    handle(SIGALRM, count, 0);
    pid_t child = fork();
    if (child == 0) {
        alarm_in(40);
        say_data("recv in the child", recv(fd, buf, 100, 0), buf);
        say("handler ran %d", (int)hits);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    say("in the parent %d", (int)hits);
}

CASE(exec_resets_handlers)
{
    begin();
    handle(SIGUSR1, count, 0);
    signal(SIGUSR2, SIG_IGN);
    sigset_t set = only(SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pid_t child = fork();
    if (child == 0) {
        execlp("grep", "grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status", NULL);
        _exit(1);
    }
    waitpid(child, NULL, 0);
    child = vfork();
    if (child == 0) {
        signal(SIGUSR1, SIG_DFL);
        signal(SIGUSR2, SIG_DFL);
        execlp("grep", "grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status", NULL);
        _exit(1);
    }
    waitpid(child, NULL, 0);
    struct sigaction a;
    sigaction(SIGUSR1, NULL, &a);
    say("ours %d", a.sa_handler == count);
    raise(SIGUSR1);
    say("handler ran %d", (int)hits);
}

/* A child that signals its parent, again and again, while the parent talks. */
CASE(sigchld_during_transfers)
{
    begin();
    handle(SIGCHLD, count, SA_RESTART | SA_NOCLDSTOP);
    static char back[500000];
    for (int i = 0; i < 10; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        peer_ok("after 0 send 500000");
        long got = 0, n;
        while (got < (long)sizeof back && (n = recv(fd, back + got, sizeof back - got, 0)) > 0)
            got += n;
        say_data("received", got, back);
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    say("handler ran %d", (int)hits);
}

/* Two threads, one signalled all the time, both on one connection; the lock of the stack is contended. */
static volatile int stop;
static void *talk(void *unused)
{
    (void)unused;
    while (!stop)
        send(fd, buf, 1000, MSG_NOSIGNAL | MSG_DONTWAIT);
    return NULL;
}

static void ping(int sig)
{
    (void)sig;
    char one[64];
    recv(fd, one, sizeof one, MSG_DONTWAIT);
    send(fd, one, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    hits++;
}

CASE(handlers_against_other_threads)
{
    begin();
    handle(SIGUSR1, ping, SA_RESTART);
    pthread_t t[3];
    peer_ok("after 0 recv 100000000");
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, talk, NULL);
    for (int i = 0; i < 2000; i++) {
        pthread_kill(t[i % 3], SIGUSR1);
        usleep(100);
    }
    stop = 1;
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    say("handler ran %s", hits > 100 ? "often" : "hardly");
    close(fd);
}

static volatile int io_fd, io_band, io_code;

static void io(int sig, siginfo_t *info, void *context)
{
    (void)context;
    hits++;
    if (sig != SIGIO) {
        io_fd = info->si_fd;
        io_band = info->si_band;
        io_code = info->si_code;
    }
}

static void wait_hit(int n)
{
    for (int i = 0; i < 500 && hits < n; i++)
        usleep(10000);
}

/* O_ASYNC on a connection: the signal for what arrives. */
CASE(sigio_set_on_a_connection)
{
    handle_info(SIGIO, io, SA_RESTART);
    fd = active_pair();
    fcntl(fd, F_SETOWN, getpid());
    say_ret("O_ASYNC", fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC));
    peer_ok("send 10");
    wait_hit(1);
    say("SIGIO %s", hits ? "came" : "never came");
}

/* O_ASYNC before the connection is made. */
CASE_KERNEL(sigio_set_before_connect)
{
    handle_info(SIGIO, io, SA_RESTART);
    int l = peer_number("listen");
    fd = tcp_socket();
    say_ret("F_SETOWN", fcntl(fd, F_SETOWN, getpid()));
    say_ret("F_GETOWN", fcntl(fd, F_GETOWN) == getpid());
    say_ret("O_ASYNC", fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC));
    struct addr to = peer_addr(l);
    say_ret("connect", connect(fd, &to.sa, to.len));
    peer_ok("accept");
    usleep(50000);
    hits = 0;
    peer_ok("send 10");
    wait_hit(1);
    say("SIGIO %s", hits ? "came" : "never came");
    say_data("recv", recv(fd, buf, 100, 0), buf);
    say("O_ASYNC %d", !!(fcntl(fd, F_GETFL) & O_ASYNC));
}

/* The same by ioctl, with a signal that says which descriptor. */
CASE_KERNEL(sigio_with_a_signal_of_its_own)
{
    handle_info(SIGRTMIN, io, SA_RESTART);
    fd = udp_socket();
    int on = 1;
    say_ret("F_SETSIG", fcntl(fd, F_SETSIG, SIGRTMIN));
    say_ret("F_GETSIG", fcntl(fd, F_GETSIG) == SIGRTMIN);
    say_ret("F_SETOWN", fcntl(fd, F_SETOWN, getpid()));
    say_ret("FIOASYNC", ioctl(fd, FIOASYNC, &on));
    struct addr to = peer_addr(peer_number("udp"));
    say_ret("connect", connect(fd, &to.sa, to.len));
    say_ret("send", send(fd, "hello", 5, 0));
    peer("recvfrom");
    usleep(50000);
    hits = 0;
    peer_ok("reply 10");
    wait_hit(1);
    say("signal %s, its descriptor %d, code %d, readable %d", hits ? "came" : "never came", io_fd == fd, io_code,
        !!(io_band & POLLIN));
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

/* And for connections that wait to be accepted. */
CASE_KERNEL(sigio_of_a_listener)
{
    handle_info(SIGIO, io, SA_RESTART);
    int l = bound(tcp_socket());
    fcntl(l, F_SETOWN, getpid());
    fcntl(l, F_SETFL, O_ASYNC | O_NONBLOCK);
    say_ret("listen", listen(l, 5));
    peer_ok("connect %d", port_of(l));
    wait_hit(1);
    say("SIGIO %s", hits ? "came" : "never came");
    say_fd("accept", accept(l, NULL, NULL));
}

static volatile int over, cut;

static void *with_a_limit(void *s)
{
    char c;
    while (!over)
        if (recv(*(int *)s, &c, 1, 0) < 0 && errno == EINTR)
            cut++;
    return NULL;
}

/* Nobody handles SIGCHLD: a child that ends at once ends no call of another thread, not even one that has a time-out. */
CASE(children_that_end_interrupt_nobody)
{
    int s[2];
    pthread_t t;
    struct timeval limit = {.tv_usec = 50000};
    fd = active_pair();
    socketpair(AF_UNIX, SOCK_STREAM, 0, s);
    setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    pthread_create(&t, NULL, with_a_limit, s);
    for (int i = 0; i < 300; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        waitpid(child, NULL, 0);
    }
    over = 1;
    pthread_join(t, NULL);
    say("%s interrupted", cut ? "some were" : "none was");
}
