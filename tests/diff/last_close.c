/* Close with SO_LINGER, and the end of threads that use a connection. diff: modes=v4 */
#include "last_words.h"

/* ---- close with SO_LINGER --------------------------------------------------------------------------------------------- */

static long milliseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Closes, and tells whether that took less than half a second, about one second, or longer. */
static void say_close(int fd)
{
    long start = milliseconds();
    say_ret("close", close(fd));
    long took = milliseconds() - start;
    say("that took %s", took < 500 ? "no time" : took < 3000 ? "a second" : "long");
}

/* The peer does not read: the close gives up, the data does not. */
CASE(close_linger_gives_up)
{
    int fd = slow_pair();
    queue(fd, QUEUED);
    linger(fd, 1);
    say_close(fd);
    see_end();
}

/* The peer begins to read a second later. */
CASE(close_linger_waits)
{
    int fd = slow_pair();
    queue(fd, QUEUED);
    linger(fd, 9);
    peer_ok("after 1000 recvall");
    say_close(fd);
    say("peer: closed %s", peer("state"));
}

CASE(close_linger_nonblocking)
{
    int fd = slow_pair();
    queue(fd, QUEUED);
    linger(fd, 1);
    nonblocking(fd);
    say_close(fd);
    see_end();
}

CASE(close_linger_after_shutdown)
{
    int fd = slow_pair();
    queue(fd, QUEUED);
    linger(fd, 1);
    shutdown(fd, SHUT_WR);
    say_close(fd);
    see_end();
}

CASE(close_linger_nothing_queued)
{
    int fd = active_pair();
    linger(fd, 9);
    say_close(fd);
    see_end();
}

CASE(close_linger_unread)
{
    unread();
    linger(in_use, 9);
    say_close(in_use);
    see_reset();
}

static void on_alarm(int signal) { say("signal %d", signal); }

CASE(close_linger_interrupted)
{
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerval soon = {.it_value.tv_usec = 200000};
    int fd = slow_pair();
    queue(fd, QUEUED);
    linger(fd, 9);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
    say_close(fd);
    see_end();
}

/* Only the last of two descriptors waits. */
CASE(close_linger_dup)
{
    int fd = slow_pair(), copy = dup(fd);
    queue(fd, QUEUED);
    linger(fd, 1);
    say_close(copy);
    say_close(fd);
    see_end();
}

/* A child had a copy, and is gone. */
CASE(close_linger_forked)
{
    int fd = slow_pair();
    queue(fd, QUEUED);
    linger(fd, 1);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    say_close(fd);
    see_end();
}

CASE(dup2_linger_waits)
{
    int fd = slow_pair();
    queue(fd, QUEUED);
    linger(fd, 1);
    long start = milliseconds();
    dup2(2, fd);
    say("that took %s", milliseconds() - start < 500 ? "no time" : "a second");
    see_end();
}

CASE(close_linger_0)
{
    int fd = slow_pair();
    queue(fd, QUEUED);
    linger(fd, 0);
    say_close(fd);
    see_reset();
}

CASE(close_linger_0_dup)
{
    int fd = active_pair(), copy = dup(fd);
    linger(fd, 0);
    say_close(fd);
    say_ret("send", send(copy, "0123456789", 10, 0));
    say("peer: %s", peer("recv 10"));
    say_close(copy);
    see_reset();
}

CASE(close_linger_0_forked)
{
    int fd = active_pair();
    linger(fd, 0);
    if (fork() == 0)
        _exit(0);
    wait(NULL);
    say_close(fd);
    see_reset();
}

CASE(close_linger_0_peer_shut)
{
    int fd = active_pair();
    peer_ok("shutdown w");
    wait_state(fd, "CLOSE_WAIT");
    linger(fd, 0);
    say_close(fd);
    see_reset();
}

/* ---- the end of a thread ------------------------------------------------------------------------------------------------ */

static void *echo_twice(void *p)
{
    char data[10];
    for (int i = 0; i < 2; i++) {
        long n = recv(in_use, data, sizeof data, MSG_WAITALL);
        if (n > 0)
            send(in_use, data, n, 0);
    }
    return p;
}

static void echo_with_peer(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, echo_twice, NULL);
    for (int i = 0; i < 2; i++) {
        peer_ok("send 10");
        say("peer: %s", peer("recv 10"));
    }
    pthread_join(thread, NULL);
}

CASE(thread_ends_connection_goes_on)
{
    idle();
    echo_with_peer();
    echo_with_peer();
    close(in_use);
    see_end();
}

CASE(thread_cancelled_in_recv)
{
    pthread_t thread;
    idle();
    for (int i = 0; i < 3; i++) {
        void *how = NULL;
        pthread_create(&thread, NULL, block, NULL);
        usleep(30000);
        pthread_cancel(thread);
        pthread_join(thread, &how);
        say("thread %s", how == PTHREAD_CANCELED ? "cancelled" : "ended");
    }
    echo_with_peer();
}

static volatile int gone;

/* Ends without its library knowing. */
static void *vanish(void *p)
{
    char byte;
    recv(in_use, &byte, 1, MSG_DONTWAIT);
    gone = 1;
    syscall(SYS_exit, 0);
    return p;
}

CASE(thread_vanishes)
{
    pthread_t thread;
    idle();
    pthread_create(&thread, NULL, vanish, NULL);
    while (!gone)
        usleep(1000);
    usleep(10000);
    echo_with_peer();
}

/* The first thread ends; another goes on, and opens a connection. */
static pthread_t first;

static void *go_on(void *p)
{
    pthread_join(first, NULL);
    usleep(10000);
    echo_with_peer();
    idle();
    echo_with_peer();
    exit(0);
    return p;
}

CASE(first_thread_ends)
{
    pthread_t thread;
    idle();
    first = pthread_self();
    pthread_create(&thread, NULL, go_on, NULL);
    pthread_exit(NULL);
}

/* The same in a process that has no stack yet. */
static void *begin(void *p)
{
    pthread_join(first, NULL);
    usleep(10000);
    idle();
    echo_with_peer();
    exit(0);
    return p;
}

CASE(first_thread_ends_before_all)
{
    pthread_t thread;
    first = pthread_self();
    pthread_create(&thread, NULL, begin, NULL);
    pthread_exit(NULL);
}

/* A write that no buffer holds, to a peer that is gone: it is not taken whole, and the next one fails. */
CASE(large_write_to_nobody)
{
    size_t n = 64 << 20;
    char *data = calloc(1, n);
    int fd = active_pair();
    nonblocking(fd);
    peer_ok("close");
    wait_events(fd, POLLRDHUP);
    ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
    say("some %d, all %d", sent > 0, sent == (ssize_t)n);
    wait_events(fd, POLLHUP);
    say_ret("again", send(fd, data, n, MSG_NOSIGNAL));
    say_ret("again", send(fd, data, n, MSG_NOSIGNAL));
}

/* A child had a copy once. The peer hears of the last close before what is sent elsewhere after it. */
CASE(closed_before_something_else)
{
    int first = active_pair(), second = active_pair();
    for (int i = 0; i < 4; i++) {
        for (int fd = first, n = 0; n < 2; n++, fd = second) {
            peer_ok("use %d", n == 0 ? 1 : 3);
            send(fd, "x", 1, 0);
            peer("recv 1");
            peer_ok("send 1");
            char b;
            recv(fd, &b, 1, 0);
        }
    }
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    close(first);
    send(second, "y", 1, 0);
    peer_ok("use 3");
    say_peer("recv 1");
    peer_ok("use 1");
    say_peer("state");
}

/* Who has heard that a child ended finds its connections ended. */
CASE_KERNEL(closed_when_the_child_is_waited_for)
{
    int l = bound(tcp_socket());
    struct addr a = my_addr(port_of(l));
    int late = 0;
    listen(l, 5);
    for (int i = 0; i < 20; i++) {
        char b = 0;
        pid_t child = fork();
        if (child == 0) {
            close(l);
            int fd = tcp_socket();
            connect(fd, &a.sa, a.len);
            for (int n = 0; n < 8; n++) {
                send(fd, "x", 1, 0);
                recv(fd, &b, 1, 0);
            }
            if (i % 2)
                _exit(0);
            pause();
        }
        int fd = accept(l, NULL, NULL);
        for (int n = 0; n < 8; n++) {
            recv(fd, &b, 1, 0);
            send(fd, "y", 1, 0);
        }
        if (i % 2 == 0)
            kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        late += recv(fd, &b, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
        close(fd);
    }
    say("%d ends came late", late);
}
