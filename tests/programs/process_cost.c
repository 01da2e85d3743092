/*
 * What processes and descriptors cost a program without a connection:
 *
 *     process_cost MS      prints the least time, in ns, of one: fork, exec (fork, exec and end of this program), spawn,
 *                          close of a file, close of a socket; each is tried for MS milliseconds
 *     process_cost         ends at once
 *
 * The least of many short samples is what the work itself takes: other work on the machine only ever adds.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
static char *own[2];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void wait_for(pid_t pid)
{
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
        exit(1);
}

static void do_fork(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    wait_for(pid);
}

static void do_exec(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        execv(own[0], own);
        _exit(1);
    }
    wait_for(pid);
}

static void do_spawn(void)
{
    pid_t pid;
    if (posix_spawn(&pid, own[0], NULL, NULL, own, environ))
        exit(1);
    wait_for(pid);
}

static void do_close(void)
{
    for (int i = 0; i < 100; i++)
        close(open("/dev/null", O_RDONLY));
}

static void do_close_socket(void)
{
    for (int i = 0; i < 100; i++)
        close(socket(AF_INET, SOCK_STREAM, 0));
}

static const struct {
    const char *name;
    void (*run)(void);
    int count;
} works[] = {{"fork", do_fork, 1}, {"exec", do_exec, 1}, {"spawn", do_spawn, 1}, {"close", do_close, 100},
    {"close_socket", do_close_socket, 100}};

int main(int argc, char **argv)
{
    if (argc < 2)
        return 0;
    own[0] = argv[0];
    for (size_t i = 0; i < sizeof works / sizeof *works; i++) {
        double least = 1e18, until = now() + atoi(argv[1]) * 1e6;
        do {
            double start = now();
            works[i].run();
            double took = (now() - start) / works[i].count;
            least = took < least ? took : least;
        } while (now() < until);
        printf("%s %.0f\n", works[i].name, least);
    }
    return 0;
}
