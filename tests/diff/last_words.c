/*
 * How a process ends, and what the peers of its connections see: queued data and FIN, RST for what was not read. The
 * process that dies is a child; its parent has no socket and asks the peer afterwards. diff: modes=v4
 */
#include "last_words.h"
#include <sys/resource.h>

enum { BIG = 3000000 };

/* ---- ways to end ------------------------------------------------------------------------------------------------ */

static void by_exit(void) { exit(0); }
static void by__exit(void) { _exit(0); }
static void by_system_call(void) { syscall(SYS_exit_group, 0); }
static void by_sigterm(void) { kill(getpid(), SIGTERM); }
static void by_sigsegv(void) { *(volatile char *)bad_memory() = 1; }
static void by_sigkill(void) { kill(getpid(), SIGKILL); }
static void by_abort(void) { abort(); }

static void close_on_exec(void)
{
    for (int fd = 3; fd < DIFF_CONTROL; fd++)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void by_exec(void)
{
    close_on_exec();
    execl("/bin/true", "true", NULL);
}

/* What is seen must come at once, not when the new program ends. */
static void by_exec_that_stays(void)
{
    close_on_exec();
    execl("/bin/sleep", "sleep", "20", NULL);
}

/* One thread ends the process while others sit in calls on the connection. */
static void by_another_thread(void)
{
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&threads[i], NULL, block, NULL);
    usleep(20000);
    syscall(SYS_exit_group, 0);
}

/* The last thread goes; the first went before it. */
static void *last_thread(void *p)
{
    usleep(20000);
    return p;
}

static void by_last_thread(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, last_thread, NULL);
    pthread_exit(NULL);
}

/* Runs `prepare` in a child, which then ends. The number of a child that goes on with another program, else 0. */
static pid_t die(void (*prepare)(void), void (*how)(void))
{
    int end[2];
    peer("sleep 0");
    if (pipe2(end, O_CLOEXEC))
        give_up("pipe2");
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        prepare();
        how();
        pause();
    }
    /* Until the child has ended or executed. */
    char byte;
    close(end[1]);
    while (read(end[0], &byte, 1) > 0)
        ;
    if (how == by_exec_that_stays)
        return child;
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status))
        say("exit status %d", WEXITSTATUS(status));
    else
        say("signal %d", WTERMSIG(status));
    return 0;
}

/* ---- more of what the connection is like at that moment --------------------------------------------------------------- */

/* All was read. */
static void read_all(void)
{
    char data[10];
    unread();
    say_ret("recv", recv(in_use, data, sizeof data, MSG_WAITALL));
}

static void linger_0(void)
{
    queued();
    linger(in_use, 0);
}

/* A process that ends does not wait. (One that executes another program does, on Linux.) */
static void linger_9(void)
{
    queued();
    linger(in_use, 9);
}

static void shut(void)
{
    idle();
    shutdown(in_use, SHUT_WR);
    wait_state(in_use, "FIN_WAIT2");
}

static void peer_shut_queued(void)
{
    slow_pair();
    peer_ok("shutdown w");
    wait_state(in_use, "CLOSE_WAIT");
    queue(in_use, QUEUED);
}

static void corked(void)
{
    idle();
    set_number("TCP_CORK", in_use, IPPROTO_TCP, TCP_CORK, 1);
    send(in_use, "twelve bytes", 12, 0);
}

/* Two connections wait to be accepted, one of them with data. */
static void backlog(void)
{
    in_use = listening();
    int port = port_of(in_use);
    peer_ok("connect %d", port);
    peer_ok("connect %d", port);
    peer_ok("send 10");
    wait_readable(in_use, 5000);
    peer_ok("quiet");
}

static void connecting(void)
{
    int port = peer_number("listen 0 0");
    int first = connected_to(port);
    (void)first;
    in_use = tcp_socket();
    nonblocking(in_use);
    struct addr a = peer_addr(port);
    connect(in_use, &a.sa, a.len);
}

static void see_reset_of_late_data(void)
{
    see_end();
    peer_ok("send 10");
    say("peer: closed %s", peer("wait CLOSE"));
}

static void see_backlog_reset(void)
{
    peer_ok("use 0");
    see_end();
    peer_ok("use 1");
    see_end();
}

static void see_nothing(void) {}

#define DIES(STATE, SEE, HOW)                              \
    CASE(STATE##_##HOW)                                    \
    {                                                      \
        pid_t child = die(STATE, HOW);                     \
        SEE();                                             \
        if (child)                                         \
            kill(child, SIGKILL);                          \
    }

#define DIES_EXITING(STATE, SEE)                           \
    DIES(STATE, SEE, by_exit)                              \
    DIES(STATE, SEE, by__exit)                             \
    DIES(STATE, SEE, by_system_call)                       \
    DIES(STATE, SEE, by_sigterm)                           \
    DIES(STATE, SEE, by_sigsegv)                           \
    DIES(STATE, SEE, by_sigkill)                           \
    DIES(STATE, SEE, by_abort)                             \
    DIES(STATE, SEE, by_another_thread)                    \
    DIES(STATE, SEE, by_last_thread)

#define DIES_SOMEHOW(STATE, SEE)                           \
    DIES_EXITING(STATE, SEE)                               \
    DIES(STATE, SEE, by_exec)                              \
    DIES(STATE, SEE, by_exec_that_stays)

DIES_SOMEHOW(idle, see_end)
DIES_SOMEHOW(idle_passive, see_end)
DIES_SOMEHOW(queued, see_end)
DIES_SOMEHOW(unread, see_reset)
DIES_SOMEHOW(read_all, see_end)
DIES_SOMEHOW(linger_0, see_reset)
DIES_EXITING(linger_9, see_end)
DIES_SOMEHOW(shut, see_reset_of_late_data)
DIES_SOMEHOW(peer_shut_queued, see_end)
DIES_SOMEHOW(corked, see_end)
DIES_SOMEHOW(backlog, see_backlog_reset)
DIES_SOMEHOW(connecting, see_nothing)

/* Megabytes are queued, and the peer's window stays shut for two seconds after the death. */
static void big(void) { queue(slow_pair(), BIG); }

static void see_late(void)
{
    peer_ok("sleep 2000");
    see_end();
}

DIES(big, see_late, by__exit)
DIES(big, see_late, by_sigkill)
