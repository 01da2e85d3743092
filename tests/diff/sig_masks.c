/* ppoll, pselect and epoll_pwait: the mask is in force while they wait, and only then. */
#include "sig.h"

enum { PPOLL, PSELECT, EPOLL_PWAIT, EPOLL_PWAIT2, CALLS };
static const char *const names[] = {"ppoll", "pselect", "epoll_pwait", "epoll_pwait2"};

static int fd, ep;

/* One of the calls on fd; ms < 0 is for ever. */
static long wait_under(int call, int ms, const sigset_t *mask)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct epoll_event e;
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, *limit = ms < 0 ? NULL : &t;
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    long r = -1;
    switch (call) {
    case PPOLL: r = ppoll(&p, 1, limit, mask); break;
    case PSELECT: r = pselect(fd + 1, &set, NULL, NULL, limit, mask); break;
    case EPOLL_PWAIT: r = epoll_pwait(ep, &e, 1, ms, mask); break;
    case EPOLL_PWAIT2: r = epoll_pwait2(ep, &e, 1, limit, mask); break;
    }
    say_ret(names[call], r);
    if (call == PSELECT)
        say("set %d", FD_ISSET(fd, &set));
    return r;
}

static int in_handler[2];

static void look(int sig, siginfo_t *info, void *context)
{
    (void)info;
    hits++;
    in_handler[0] = is_blocked(sig);
    in_handler[1] = is_blocked(SIGUSR2);
    sigset_t *returns_to = &((ucontext_t *)context)->uc_sigmask;
    say("handler: itself blocked %d, USR2 blocked %d; returns to: itself %d, USR2 %d", in_handler[0], in_handler[1],
        sigismember(returns_to, sig), sigismember(returns_to, SIGUSR2));
}

static void begin(void)
{
    struct epoll_event e = {.events = EPOLLIN};
    fd = active_pair();
    ep = epoll_create1(0);
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
    handle_info(SIGUSR1, look, SA_RESTART);
    handle_info(SIGALRM, look, SA_RESTART);
    sigset_t block;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigaddset(&block, SIGUSR2);
    sigaddset(&block, SIGALRM);
    sigprocmask(SIG_BLOCK, &block, NULL);
}

static void say_state(void)
{
    sigset_t pending;
    sigpending(&pending);
    say("after: USR1 blocked %d pending %d, USR2 blocked %d, handler ran %d", is_blocked(SIGUSR1),
        sigismember(&pending, SIGUSR1), is_blocked(SIGUSR2), (int)hits);
}

static sigset_t usr2_only(void) { return only(SIGUSR2); }

/* A signal that is pending already ends the call at once. */
CASE(pending_before)
{
    begin();
    sigset_t mask = usr2_only();
    for (int call = 0; call < CALLS; call++) {
        raise(SIGUSR1);
        wait_under(call, 5000, &mask);
        say_state();
    }
}

CASE(pending_before_for_ever)
{
    begin();
    sigset_t mask = usr2_only();
    for (int call = 0; call < CALLS; call++) {
        raise(SIGUSR1);
        wait_under(call, -1, &mask);
        say_state();
    }
}

/* With a time-out of 0 too, except for epoll. */
CASE(pending_before_without_waiting)
{
    begin();
    sigset_t mask = usr2_only();
    for (int call = 0; call < CALLS; call++) {
        raise(SIGUSR1);
        wait_under(call, 0, &mask);
        say_state();
    }
}

/* What is ready goes first: the signal stays pending. */
CASE(pending_before_and_ready)
{
    begin();
    peer_ok("send 10");
    wait_bytes(fd, 10);
    sigset_t mask = usr2_only();
    raise(SIGUSR1);
    for (int call = 0; call < CALLS; call++) {
        wait_under(call, 5000, &mask);
        say_state();
    }
}

/* It comes while the call waits. */
CASE(comes_meanwhile)
{
    begin();
    sigset_t mask = usr2_only();
    for (int call = 0; call < CALLS; call++) {
        alarm_in(50);
        wait_under(call, 5000, &mask);
        say_state();
    }
}

/* A mask that blocks what the thread does not: nothing is interrupted, the signal comes afterwards. */
CASE(blocked_meanwhile)
{
    begin();
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int call = 0; call < CALLS; call++) {
        hits = 0;
        alarm_in(30);
        wait_under(call, 120, &all);
        say("handler ran %d", (int)hits);
    }
}

CASE(blocked_meanwhile_and_ready)
{
    begin();
    sigset_t all, none;
    sigfillset(&all);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int call = 0; call < CALLS; call++) {
        hits = 0;
        alarm_in(30);
        peer_ok("after 120 send 10");
        wait_under(call, 5000, &all);
        say("handler ran %d", (int)hits);
        say_data("recv", recv(fd, buf, 100, 0), buf);
    }
}

static sigjmp_buf out;
static void jump(int sig) { siglongjmp(out, sig); }

/* Out of the handler by siglongjmp: the mask is that of sigsetjmp. */
CASE(siglongjmp_out)
{
    begin();
    handle(SIGALRM, jump, 0);
    sigset_t mask = usr2_only();
    for (volatile int call = 0; call < CALLS; call++) {
        if (sigsetjmp(out, 1) == 0) {
            alarm_in(40);
            wait_under(call, 5000, &mask);
            say("returned?");
        }
        say("ALRM blocked %d", is_blocked(SIGALRM));
        say_state();
    }
    peer_ok("send 10");
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

/* A pending signal and a call without a mask: it stays pending. */
CASE(no_mask)
{
    begin();
    raise(SIGUSR1);
    for (int call = 0; call < CALLS; call++) {
        wait_under(call, 30, NULL);
        say_state();
    }
}

/* Many times: none is lost between the look and the wait. */
CASE(race)
{
    begin();
    handle(SIGALRM, count, 0);
    sigset_t mask = usr2_only();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (int i = 0; i < 300; i++) {
        int before = hits;
        alarm_in(0);
        struct itimerval t = {.it_value.tv_usec = 1 + i * 7 % 100};
        setitimer(ITIMER_REAL, &t, NULL);
        struct timespec limit = {.tv_sec = 5};
        int r = ppoll(&p, 1, &limit, &mask);
        if (r != -1 || errno != EINTR || hits != before + 1)
            say("round %d: %d %s, handler %d", i, r, errno_name(errno), (int)hits - before);
    }
    say("done");
}

CASE(sigsuspend_and_sigwait)
{
    begin();
    handle(SIGALRM, count, 0);
    sigset_t mask = usr2_only(), alrm = only(SIGALRM);
    alarm_in(30);
    say_ret("sigsuspend", sigsuspend(&mask));
    say("handler ran %d", (int)hits);
    alarm_in(30);
    int sig = 0;
    say_ret("sigwait", sigwait(&alrm, &sig));
    say("sig %d", sig == SIGALRM);
    struct timespec t = {.tv_nsec = 30000000};
    say_ret("sigtimedwait", sigtimedwait(&alrm, NULL, &t));
    peer_ok("send 10");
    say_data("recv", recv(fd, buf, 100, 0), buf);
}

CASE(signalfd_with_sockets)
{
    begin();
    sigset_t alrm = only(SIGALRM);
    int sfd = signalfd(-1, &alrm, SFD_NONBLOCK);
    struct pollfd p[2] = {{.fd = fd, .events = POLLIN}, {.fd = sfd, .events = POLLIN}};
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = 7};
    struct signalfd_siginfo info;
    epoll_ctl(ep, EPOLL_CTL_ADD, sfd, &e);
    alarm_in(40);
    say_ret("poll", poll(p, 2, 5000));
    say("socket %d signalfd %d", p[0].revents, p[1].revents);
    say_ret("read", read(sfd, &info, sizeof info) == sizeof info);
    say("sig %d", info.ssi_signo == SIGALRM);
    alarm_in(40);
    say_ret("epoll_wait", epoll_wait(ep, &e, 1, 5000));
    say("data %d", e.data.u32);
}

/* A child begins with its parent's mask, whatever signals came in the middle of fork. */
CASE(forks_amid_signals)
{
    begin();
    sigset_t none = only(0);
    sigprocmask(SIG_SETMASK, &none, NULL);
    handle(SIGALRM, count, SA_RESTART);
    int children = 0, parent = 0;
    alarm_every(60);
    for (int i = 0; i < 1000; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(is_blocked(SIGALRM) || is_blocked(SIGUSR2));
        parent += is_blocked(SIGALRM) != 0;
        int status;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
        children += status != 0;
    }
    no_alarm();
    say("other masks: %d children, %d times the parent; signals came %d", children, parent, hits > 0);
}
