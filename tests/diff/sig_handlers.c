/* What a handler gets and may do while the program is in calls on its sockets. diff: modes=v4,xdp */
#include "sig.h"

static int shared_fd;

static void answer(int sig)
{
    (void)sig;
    char got[100];
    long n = recv(shared_fd, got, sizeof got, MSG_DONTWAIT);
    if (n > 0)
        send(shared_fd, got, n, 0);
    hits++;
}

/* The handler reads and writes the socket that the interrupted call waits on. */
CASE(handler_uses_the_same_socket)
{
    shared_fd = active_pair();
    int other = active_pair();
    peer_ok("use 1");
    peer_ok("send 10");
    wait_bytes(shared_fd, 10);
    handle(SIGALRM, answer, 0);
    alarm_in(60);
    say_data("recv on another socket", recv(other, buf, 100, 0), buf);
    say_peer("recv 10");
    handle(SIGALRM, answer, SA_RESTART);
    alarm_in(60);
    peer_ok("after 150 send 10");
    say_data("recv on the same socket", recv(shared_fd, buf, 100, 0), buf);
    say("handler ran %d", (int)hits);
}

static void blocking_answer(int sig)
{
    (void)sig;
    char got[100];
    long n = recv(shared_fd, got, 10, MSG_WAITALL);
    send(shared_fd, got, n > 0 ? n : 0, 0);
    hits++;
}

/* The handler itself blocks, in the middle of a blocked call. */
CASE(handler_blocks)
{
    shared_fd = active_pair();
    int other = active_pair();
    peer_ok("use 1");
    handle(SIGALRM, blocking_answer, 0);
    alarm_in(60);
    peer_ok("after 150 send 10");
    say_data("recv on another socket", recv(other, buf, 100, 0), buf);
    say_peer("recv 10");
    say("handler ran %d", (int)hits);
}

static sigjmp_buf out;

static void jump(int sig)
{
    siglongjmp(out, sig);
}

/* Out of a blocked call, many times; afterwards everything works as before. */
CASE(siglongjmp_out_of_calls)
{
    int fd = active_pair(), l = listening();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int ep = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    handle(SIGALRM, jump, 0);
    volatile int rounds = 0, jumps = 0;
    while (rounds < 40) {
        int sig = sigsetjmp(out, 1);
        if (sig) {
            jumps++;
            continue;
        }
        rounds++;
        alarm_in(5);
        switch (rounds % 4) {
        case 0: recv(fd, buf, 10, 0); break;
        case 1: poll(&p, 1, -1); break;
        case 2: epoll_wait(ep, &e, 1, -1); break;
        case 3: accept(l, NULL, NULL); break;
        }
        say("returned?");
    }
    say("%d jumps, SIGALRM blocked %d", jumps, is_blocked(SIGALRM));
    peer_ok("send 10");
    wait_bytes(fd, 10);
    say_data("recv", recv(fd, buf, 100, 0), buf);
    say_ret("send", send(fd, "hello", 5, 0));
    say_peer("recv 5");
    say_ret("epoll_wait", epoll_wait(ep, &e, 1, 0));
}

static siginfo_t seen;
static uint64_t seen_mask;
static int seen_has_stack, seen_has_ip;

static void look(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    ucontext_t *uc = context;
    seen = *info;
    seen_mask = *(uint64_t *)&uc->uc_sigmask;
    char here;
#if defined __x86_64__
    uintptr_t sp = uc->uc_mcontext.gregs[REG_RSP];
    seen_has_ip = uc->uc_mcontext.gregs[REG_RIP] != 0;
#else
    uintptr_t sp = uc->uc_mcontext.sp;
    seen_has_ip = uc->uc_mcontext.pc != 0;
#endif
    seen_has_stack = sp > (uintptr_t)&here && sp - (uintptr_t)&here < 1 << 20;
    hits++;
}

static void say_seen(void)
{
    say("si_signo %d code %d value %d, own pid %d, uid %d", seen.si_signo, seen.si_code, seen.si_value.sival_int,
        seen.si_pid == getpid(), (int)seen.si_uid);
    say("context: mask %llx stack %d instruction %d", (unsigned long long)seen_mask, seen_has_stack, seen_has_ip);
}

/* siginfo_t and ucontext_t of a signal that interrupts a call. */
CASE(info_and_context)
{
    int fd = active_pair();
    handle_info(SIGUSR1, look, 0);
    sigset_t two = only(SIGUSR2);
    sigprocmask(SIG_BLOCK, &two, NULL);
    pid_t parent = getpid();
    pid_t child = fork();
    if (child == 0) {
        usleep(60000);
        sigqueue(parent, SIGUSR1, (union sigval){.sival_int = 4711});
        _exit(0);
    }
    say_data("recv", recv(fd, buf, 10, 0), buf);
    say("sent by the child %d", seen.si_pid == child);
    seen.si_pid = parent;
    say_seen();
    waitpid(child, NULL, 0);
    say("SIGUSR1 blocked %d, SIGUSR2 blocked %d", is_blocked(SIGUSR1), is_blocked(SIGUSR2));
}

CASE(info_of_a_timer)
{
    int fd = active_pair();
    timer_t timer;
    struct sigevent to = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 99};
    struct itimerspec at = {.it_value.tv_nsec = 50000000};
    handle_info(SIGRTMIN, look, 0);
    timer_create(CLOCK_MONOTONIC, &to, &timer);
    timer_settime(timer, 0, &at, NULL);
    say_data("recv", recv(fd, buf, 10, 0), buf);
    say("code %d value %d overrun %d", seen.si_code, seen.si_value.sival_int, seen.si_overrun);
}

CASE(info_of_sigpipe)
{
    int fd = active_pair();
    handle_info(SIGPIPE, look, 0);
    shutdown(fd, SHUT_WR);
    say_ret("send", send(fd, "x", 1, 0));
    say("handler ran %d", (int)hits);
    say_seen();
    say_ret("send NOSIGNAL", send(fd, "x", 1, MSG_NOSIGNAL));
    say_ret("write", write(fd, "x", 1));
    say("handler ran %d", (int)hits);
}

CASE(sigpipe_kills)
{
    int fd = active_pair();
    shutdown(fd, SHUT_WR);
    say_ret("send NOSIGNAL", send(fd, "x", 1, MSG_NOSIGNAL));
    say_ret("send", send(fd, "x", 1, 0));
}

CASE(sigpipe_ignored_or_blocked)
{
    int fd = active_pair();
    signal(SIGPIPE, SIG_IGN);
    shutdown(fd, SHUT_WR);
    say_ret("send", send(fd, "x", 1, 0));
    signal(SIGPIPE, SIG_DFL);
    sigset_t set = only(SIGPIPE), pending;
    sigprocmask(SIG_BLOCK, &set, NULL);
    say_ret("send", send(fd, "x", 1, 0));
    sigpending(&pending);
    say("pending %d", sigismember(&pending, SIGPIPE));
    siginfo_t info;
    say_ret("sigwaitinfo", sigwaitinfo(&set, &info));
    say("code %d own %d", info.si_code, info.si_pid == getpid());
}

/* The context's mask is what the program has after the handler. */
static void change_mask(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)info;
    sigaddset(&((ucontext_t *)context)->uc_sigmask, SIGUSR2);
}

CASE(handler_changes_the_mask_of_its_context)
{
    int fd = active_pair();
    handle_info(SIGALRM, change_mask, 0);
    alarm_in(50);
    say_data("recv", recv(fd, buf, 10, 0), buf);
    say("SIGUSR2 blocked %d, SIGALRM blocked %d", is_blocked(SIGUSR2), is_blocked(SIGALRM));
}

static int blocked_in_handler[3];

static void look_at_mask(int sig)
{
    blocked_in_handler[0] = is_blocked(sig);
    blocked_in_handler[1] = is_blocked(SIGUSR1);
    blocked_in_handler[2] = is_blocked(SIGUSR2);
    hits++;
}

/* sa_mask and SA_NODEFER. */
CASE(mask_in_the_handler)
{
    int fd = active_pair();
    for (int nodefer = 0; nodefer < 2; nodefer++) {
        struct sigaction a = {.sa_handler = look_at_mask, .sa_flags = nodefer ? SA_NODEFER : 0};
        a.sa_mask = only(SIGUSR1);
        sigaction(SIGALRM, &a, NULL);
        alarm_in(50);
        say_data("recv", recv(fd, buf, 10, 0), buf);
        say("blocked: itself %d USR1 %d USR2 %d", blocked_in_handler[0], blocked_in_handler[1], blocked_in_handler[2]);
        say("after: itself %d USR1 %d USR2 %d", is_blocked(SIGALRM), is_blocked(SIGUSR1), is_blocked(SIGUSR2));
    }
}

CASE(one_shot)
{
    int fd = active_pair();
    struct sigaction a;
    handle(SIGALRM, count, SA_RESETHAND);
    sigaction(SIGALRM, NULL, &a);
    say("before: ours %d flags %x", a.sa_handler == count, a.sa_flags & ~0x4000000);
    alarm_in(50);
    say_data("recv", recv(fd, buf, 10, 0), buf);
    say("handler ran %d", (int)hits);
    sigaction(SIGALRM, NULL, &a);
    say("after: default %d", a.sa_handler == SIG_DFL);
    alarm_in(50);
    say_data("recv", recv(fd, buf, 10, 0), buf);
}

static void say_whose(const char *when)
{
    struct sigaction a;
    sigaction(SIGUSR1, NULL, &a);
    say("%s: %s, flags %x, mask %llx", when,
        a.sa_handler == count ? "ours" : a.sa_handler == SIG_DFL ? "default" : a.sa_handler == SIG_IGN ? "ignored" : "?",
        a.sa_flags & ~0x4000000, (unsigned long long)*(uint64_t *)&a.sa_mask);
}

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

/* The older interfaces, as sigaction sees what they did. */
CASE(older_interfaces)
{
    int fd = active_pair();
    say("signal: %d", signal(SIGUSR1, count) == SIG_DFL);
    say_whose("signal");
    say_ret("siginterrupt", siginterrupt(SIGUSR1, 1));
    say_whose("siginterrupt 1");
    say("signal: %d", signal(SIGUSR1, count) == count);
    say_whose("signal after siginterrupt");
    siginterrupt(SIGUSR1, 0);
    say_whose("siginterrupt 0");
    say("sysv_signal: %d", sysv_signal(SIGUSR1, count) == count);
    say_whose("sysv_signal");
    say("sigset: %d", sigset(SIGUSR1, count) == count);
    say_whose("sigset");
    say("sigset hold: %d", sigset(SIGUSR1, SIG_HOLD) == count);
    say("blocked %d", is_blocked(SIGUSR1));
    say("sigset: %d", sigset(SIGUSR1, count) == SIG_HOLD);
    say("blocked %d", is_blocked(SIGUSR1));
    say_ret("sigignore", sigignore(SIGUSR1));
    say_whose("sigignore");
    say("signal out of range: %d %s", signal(1000, count) == SIG_ERR, errno_name(errno));
    say("signal KILL: %d %s", signal(SIGKILL, count) == SIG_ERR, errno_name(errno));
    say_ret("siginterrupt out of range", siginterrupt(-1, 1));
    say_ret("sigaction out of range", sigaction(65, NULL, NULL));
    signal(SIGALRM, count);
    siginterrupt(SIGALRM, 1);
    alarm_in(50);
    say_data("recv", recv(fd, buf, 10, 0), buf);
    siginterrupt(SIGALRM, 0);
    alarm_in(50);
    peer_ok("after 150 send 10");
    say_data("recv", recv(fd, buf, 10, 0), buf);
    say("handler ran %d", (int)hits);
}

/* Handlers on a stack of their own, of the usual small size, that use the socket. */
static char *stack_at;
static int on_it;

static void on_stack(int sig)
{
    char here;
    on_it = &here >= stack_at && &here < stack_at + 16384;
    answer(sig);
}

CASE(alternative_stack)
{
    shared_fd = active_pair();
    stack_at = malloc(16384);
    stack_t s = {.ss_sp = stack_at, .ss_size = 16384};
    say_ret("sigaltstack", sigaltstack(&s, NULL));
    handle(SIGALRM, on_stack, SA_ONSTACK);
    int other = active_pair();
    peer_ok("use 1");
    peer_ok("send 10");
    wait_bytes(shared_fd, 10);
    alarm_in(50);
    say_data("recv on another socket", recv(other, buf, 100, 0), buf);
    say("on the stack %d", on_it);
    say_peer("recv 10");
}

static int order[64], ordered;

static void note(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)context;
    if (ordered < 64)
        order[ordered++] = info->si_value.sival_int;
}

static void say_order(void)
{
    char text[256] = "";
    for (int i = 0; i < ordered; i++)
        sprintf(text + strlen(text), " %d", order[i]);
    say("order:%s", text);
    ordered = 0;
}

/* Real-time signals are neither lost nor merged nor overtaken. */
CASE(real_time_signals_in_order)
{
    int fd = active_pair();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    handle_info(SIGRTMIN + 1, note, SA_RESTART);
    pid_t parent = getpid();
    pid_t child = fork();
    if (child == 0) {
        usleep(60000);
        for (int i = 0; i < 20; i++)
            sigqueue(parent, SIGRTMIN + 1, (union sigval){.sival_int = i});
        _exit(0);
    }
    while (ordered < 20)
        poll(&p, 1, 1000);
    waitpid(child, NULL, 0);
    say_order();
}

static void *queue_to(void *thread)
{
    usleep(60000);
    for (int i = 0; i < 20; i++)
        pthread_sigqueue(*(pthread_t *)thread, SIGRTMIN + 1, (union sigval){.sival_int = i});
    return NULL;
}

/* The same where the thread itself is meant. */
CASE(real_time_signals_of_a_thread_in_order)
{
    int fd = active_pair();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    handle_info(SIGRTMIN + 1, note, SA_RESTART);
    pthread_t self = pthread_self(), other;
    pthread_create(&other, NULL, queue_to, &self);
    while (ordered < 20)
        poll(&p, 1, 1000);
    pthread_join(other, NULL);
    say_order();
}

/* Many kinds at a time: each handler runs once. */
static volatile sig_atomic_t per_signal[65];
static void per(int sig) { per_signal[sig]++; }

CASE(many_signals_at_a_time)
{
    int fd = active_pair();
    int kinds[] = {SIGUSR1, SIGUSR2, SIGALRM, SIGHUP, SIGTERM, SIGWINCH, SIGRTMIN, SIGRTMIN + 5, SIGRTMAX};
    for (int i = 0; i < 9; i++)
        handle(kinds[i], per, 0);
    pid_t parent = getpid();
    pid_t child = fork();
    if (child == 0) {
        usleep(60000);
        kill(parent, SIGSTOP);
        for (int i = 0; i < 9; i++)
            kill(parent, kinds[i]);
        kill(parent, SIGCONT);
        _exit(0);
    }
    say_data("recv", recv(fd, buf, 10, 0), buf);
    waitpid(child, NULL, 0);
    for (int i = 0; i < 9; i++)
        say("kind %d ran %d", i, (int)per_signal[kinds[i]]);
    say("USR1 blocked %d", is_blocked(SIGUSR1));
}

/* A signal at a high rate during transfers; no byte lost, none twice. */
CASE(storm)
{
    int fd = active_pair();
    handle(SIGALRM, count, 0);
    alarm_every(200);
    static char much[2000000], back[2000000];
    fill_pattern(much, 0, sizeof much);
    peer_ok("after 0 recv 2000000");
    long done = 0;
    while (done < (long)sizeof much) {
        long n = send(fd, much + done, sizeof much - done, 0);
        if (n < 0 && errno != EINTR)
            break;
        done += n > 0 ? n : 0;
    }
    say("sent %ld", done);
    peer_ok("after 0 send 2000000");
    long got = 0;
    while (got < (long)sizeof back) {
        long n = recv(fd, back + got, sizeof back - got, 0);
        if (n < 0 && errno != EINTR)
            break;
        got += n > 0 ? n : 0;
    }
    no_alarm();
    say_data("received", got, back);
    say("handler ran %s", hits > 10 ? "often" : "hardly");
}

/* The same with handlers that use another connection. */
CASE(storm_with_sockets)
{
    shared_fd = active_pair();
    int fd = active_pair();
    handle(SIGALRM, answer, SA_RESTART);
    alarm_every(500);
    static char back[1000000];
    for (int i = 0; i < 5; i++) {
        peer_ok("use 3");
        peer_ok("after 0 send 1000000");
        long got = 0;
        while (got < (long)sizeof back) {
            long n = recv(fd, back + got, sizeof back - got, 0);
            if (n <= 0)
                break;
            got += n;
        }
        say_data("received", got, back);
        peer_ok("use 1");
        peer_ok("text ping");
        say_peer("recv 4");
    }
    no_alarm();
}
