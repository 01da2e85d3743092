/* A thread that blocks in the third call on a connection, of which the first ones were answered, while others close or replace
 * its number. diff: modes=v4,late4,late6 */
#include "thread_job.h"

static int used_pair(void)
{
    /* Whatever the first such call of a process takes, another one has waited for. */
    int first = active_pair();
    for (int i = 0; i < 4; i++)
        say_ret("send", send(first, "x", 1, 0));
    int fd = active_pair();
    say_ret("send", send(fd, "a", 1, 0));
    say_ret("send", send(fd, "b", 1, 0));
    return fd;
}

/* The thread sleeps, wherever it is. */
static void until_asleep(struct job *j)
{
    char name[64], state = 0;
    for (int i = 0; i < 20000 && state != 'S'; i++) {
        usleep(50);
        snprintf(name, sizeof name, "/proc/self/task/%d/stat", j->tid);
        FILE *f = j->tid ? fopen(name, "r") : NULL;
        if (f && fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
            state = 0;
        if (f)
            fclose(f);
    }
}

/* The same at the first connection of a process. */
CASE(thread_close_while_first_third_recv)
{
    int fd = active_pair();
    say_ret("send", send(fd, "a", 1, 0));
    say_ret("send", send(fd, "b", 1, 0));
    struct job j = {0};
    start(&j, fd, RECV);
    until_asleep(&j);
    say_ret("close", close(fd));
    settle();
    say("still blocked: %d", !j.done);
    peer_ok("text hello");
    finish("recv", &j);
    settle();
    say_peer("state");
}

CASE(thread_replace_while_first_third_recv)
{
    int fd = active_pair(), p[2];
    say_ret("send", send(fd, "a", 1, 0));
    say_ret("send", send(fd, "b", 1, 0));
    struct job j = {0};
    say_ret("pipe", pipe(p));
    start(&j, fd, RECV);
    until_asleep(&j);
    say("dup2: %d", dup2(p[0], fd) == fd);
    settle();
    say("still blocked: %d", !j.done);
    say_ret("write", write(p[1], "pipe", 4));
    peer_ok("text sock");
    finish("recv", &j);
    char b[8] = "";
    say_data("read", read(fd, b, 8), b);
    settle();
    say_peer("state");
}

CASE(thread_close_while_third_recv)
{
    int fd = used_pair();
    struct job j = {0};
    start(&j, fd, RECV);
    settle();
    say_ret("close", close(fd));
    settle();
    say("still blocked: %d", !j.done);
    say_peer("state");
    peer_ok("text hello");
    finish("recv", &j);
    settle();
    say_peer("state");
}

CASE(thread_replace_while_third_recv)
{
    int fd = used_pair(), p[2];
    struct job j = {0};
    start(&j, fd, RECV);
    settle();
    say_ret("pipe", pipe(p));
    say("dup2: %d", dup2(p[0], fd) == fd);
    settle();
    say("still blocked: %d", !j.done);
    say_ret("write", write(p[1], "pipe", 4));
    peer_ok("text sock");
    finish("recv", &j);
    char b[8] = "";
    say_data("read", read(fd, b, 8), b);
    settle();
    say_peer("state");
}

CASE(thread_close_while_third_recv_then_fin)
{
    int fd = used_pair();
    struct job j = {0};
    start(&j, fd, RECV);
    settle();
    say_ret("close", close(fd));
    settle();
    say_peer("state");
    peer_ok("shutdown w");
    finish("recv", &j);
    settle();
    say_peer("state");
}
