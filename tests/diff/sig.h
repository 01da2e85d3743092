/* What the cases about signals share. */
#ifndef SIG_H
#define SIG_H

#include "diff.h"
#include <setjmp.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <ucontext.h>

static volatile sig_atomic_t hits;
static char buf[300000];

static void count(int sig)
{
    (void)sig;
    hits++;
}

DIFF_HELPER void handle(int sig, void (*function)(int), int flags)
{
    struct sigaction a = {.sa_handler = function, .sa_flags = flags};
    if (sigaction(sig, &a, NULL))
        give_up("sigaction");
}

DIFF_HELPER void handle_info(int sig, void (*function)(int, siginfo_t *, void *), int flags)
{
    struct sigaction a = {.sa_sigaction = function, .sa_flags = flags | SA_SIGINFO};
    if (sigaction(sig, &a, NULL))
        give_up("sigaction");
}

/* SIGALRM in so many milliseconds. */
DIFF_HELPER void alarm_in(int ms)
{
    struct itimerval t = {.it_value = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}};
    setitimer(ITIMER_REAL, &t, NULL);
}

/* SIGALRM all the time. */
DIFF_HELPER void alarm_every(int us)
{
    struct itimerval t = {.it_value = {.tv_usec = us}, .it_interval = {.tv_usec = us}};
    setitimer(ITIMER_REAL, &t, NULL);
}

DIFF_HELPER void no_alarm(void)
{
    struct itimerval t = {.it_value = {0}};
    setitimer(ITIMER_REAL, &t, NULL);
}

DIFF_HELPER sigset_t only(int sig)
{
    sigset_t set;
    sigemptyset(&set);
    if (sig)
        sigaddset(&set, sig);
    return set;
}

DIFF_HELPER int is_blocked(int sig)
{
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    return sigismember(&now, sig);
}

DIFF_HELPER void timeout_option(int fd, int name, int ms)
{
    struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
    if (setsockopt(fd, SOL_SOCKET, name, &t, sizeof t))
        give_up("setsockopt");
}

/* Sends until nothing more goes. */
DIFF_HELPER void fill(int fd)
{
    for (int quiet = 0; quiet < 20;) {
        if (send(fd, buf, sizeof buf, MSG_DONTWAIT) < 0) {
            quiet++;
            usleep(5000);
        } else
            quiet = 0;
    }
}

#endif
