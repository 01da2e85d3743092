/*
 * The life of a process as a matrix: kinds of object x what happens to process or descriptor x states. Every cell runs
 * on the kernel and under Flyover with a plain peer; what it prints must be the same, line by line. `lab matrix` runs
 * it; the events are in events.h, kinds and states in cells.h, the processes in agent.h.
 *
 *     matrix list                  KIND.EVENT.STATE per line; cells that cannot be: with a tab and the reason
 *     matrix KIND.EVENT.STATE      runs a cell as its coordinator
 *     matrix agent N STATIC        serves as agent N
 */
#define main diff_main
#include "diff.h"
#undef main
#include "agent.h"
#include "cells.h"
#include "events.h"

/* `diff.h` finds its cases in a section, which must exist. */
CASE_KERNEL(none) {}

enum before { NOTHING, OTHER, OTHER_PLAIN, PLAIN, OPT_OUT };

enum {
    ALL_STATES = (1 << STATES) - 1,
    /* For events that are much like others. */
    FEW_STATES = 1 << IDLE | 1 << MID,
};

static const struct event {
    const char *name;
    void (*run)(void);
    /* How agents 0 and 1 begin. */
    enum before before;
    unsigned states;
} events[] = {
    {"fork_both", fork_both, NOTHING, ALL_STATES},
    {"fork_child_closes", fork_child_closes, NOTHING, ALL_STATES},
    {"fork_parent_closes", fork_parent_closes, NOTHING, ALL_STATES},
    {"double_fork", double_fork, NOTHING, ALL_STATES},
    {"daemon", daemon_3, NOTHING, FEW_STATES},
    {"fork_exec", fork_exec, NOTHING, ALL_STATES},
    {"spawn", spawned, NOTHING, ALL_STATES},
    {"exec", exec_keep, NOTHING, ALL_STATES},
    {"exec_empty_env", exec_empty, NOTHING, FEW_STATES},
    {"exec_static", exec_static, NOTHING, ALL_STATES},
    {"exec_setuid", exec_setuid, NOTHING, FEW_STATES},
    {"exec_m32", exec_m32, NOTHING, FEW_STATES},
    {"exec_opt_out", exec_opt_out, OPT_OUT, FEW_STATES},
    {"exec_cloexec", exec_cloexec, NOTHING, ALL_STATES},
    {"dup_exec", dup_exec, NOTHING, ALL_STATES},
    {"stdin_exec", stdin_exec, NOTHING, FEW_STATES},
    {"adopted", adopted, PLAIN, FEW_STATES},
    {"vfork", by_vfork, NOTHING, FEW_STATES},
    {"clone", by_clone, NOTHING, FEW_STATES},
    {"system", by_system, NOTHING, FEW_STATES},
    {"popen", by_popen, NOTHING, FEW_STATES},
    {"rights", rights, OTHER, ALL_STATES},
    {"rights_plain", rights_plain, OTHER_PLAIN, ALL_STATES},
    {"in_flight", in_flight, OTHER, ALL_STATES},
    {"pidfd_getfd", taken, OTHER, FEW_STATES},
    {"exit", by_exit, NOTHING, ALL_STATES},
    {"_exit", by__exit, NOTHING, FEW_STATES},
    {"crash", by_crash, NOTHING, FEW_STATES},
    {"term", by_term, NOTHING, FEW_STATES},
    {"kill", by_kill, NOTHING, ALL_STATES},
    {"kill_child", kill_child, NOTHING, ALL_STATES},
    {"kill_parent", kill_parent, NOTHING, ALL_STATES},
    {"stop", stopped, NOTHING, ALL_STATES},
};

enum { EVENTS = sizeof events / sizeof *events };

/* Why a cell cannot be, or has nothing to compare; NULL for all others. */
static const char *impossible(enum kind kind, const struct event *e, enum state state)
{
    int udp = kind == UDP_CONNECTED || kind == UDP_UNCONNECTED;
    if (udp && state != IDLE && state != MID)
        return "datagrams have no window and no half-closed connection; what waits unread is mid";
    if (kind == LISTENER && (state == FULL || state == HALF_OUT))
        return "a listener sends nothing: no window to fill, no direction to close";
    if (kind == LISTENER && state == UNREAD)
        return "the connections that wait to be accepted are its mid";
    if (kind == EPOLL && e->run == stdin_exec)
        return "the set of a socket that becomes descriptor 0 is that of the kernel; its member is the cell client";
    if (kind == EPOLL && e->run == taken)
        return "pidfd_getfd of the member is the cell client; nobody takes a set out of another process";
    int left_for_good = e->run == exec_static || e->run == exec_setuid || e->run == exec_m32 ||
                        e->run == exec_opt_out || e->run == rights_plain;
    if (kind == LISTENER && state != IDLE && left_for_good)
        return "connections that wait in the stack cannot move into a kernel listener's queue";
    if (udp && state == MID && (left_for_good || e->run == stdin_exec))
        return "datagrams that wait in the stack cannot move: dropped, counted, where the next program needs the kernel";
    if (!(e->states & 1 << state))
        return "much like another event: idle and mid will do";
    return NULL;
}

/* ---- coordinator --------------------------------------------------------------------------------------------------------- */

static void channels(void)
{
    int pair[2];
    for (int i = 0; i < AGENTS; i++) {
        if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
            give_up("socketpair");
        dup2(pair[0], CHANNEL + i);
        dup3(pair[1], COORDINATOR + i, O_CLOEXEC);
        close(pair[0]);
        close(pair[1]);
    }
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        give_up("socketpair");
    dup2(pair[0], MAIL);
    dup2(pair[1], MAIL + 1);
    close(pair[0]);
    close(pair[1]);
}

/* An agent that is a child of the coordinator; `kind`: nothing, or how it becomes a program of its own. */
static void start(int number, const char *kind)
{
    if (fork() == 0) {
        for (int i = 0; i < AGENTS; i++)
            close(COORDINATOR + i);
        syscall(SYS_close, DIFF_CONTROL);
        if (*kind)
            become(number, kind);
        serve(number);
    }
    greet(number);
}

static void run_cell(const struct event *e)
{
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    channels();
    peer("sleep 0");
    start(0, e->before == PLAIN ? "plain" : "");
    if (e->before == OPT_OUT) {
        tell(0, "inherit_not");
        greet(0);
    }
    if (e->before == OTHER || e->before == OTHER_PLAIN)
        start(1, e->before == OTHER ? "keep" : "plain");
    open_object(0);
    prepare(0);
    e->run();
    for (int i = 0; i < AGENTS; i++)
        if (pids[i] > 0)
            kill(pids[i], SIGKILL);
}

static int by_name(const char *text)
{
    for (int k = 0; k < KINDS; k++)
        for (int e = 0; e < EVENTS; e++)
            for (int s = 0; s < STATES; s++) {
                char name[96];
                const char *why = impossible(k, &events[e], s);
                snprintf(name, sizeof name, "%s.%s.%s", kind_names[k], events[e].name, state_names[s]);
                if (!text)
                    printf("%s%s%s\n", name, why ? "\t" : "", why ? why : "");
                else if (!strcmp(text, name)) {
                    cell.kind = k;
                    cell.state = s;
                    run_cell(&events[e]);
                    return 0;
                }
            }
    return text ? 2 : 0;
}

int main(int argc, char **argv)
{
    family = *diff_env("DIFF_FAMILY", "4") == '6' ? AF_INET6 : AF_INET;
    snprintf(own_path, sizeof own_path, "%s", argv[0]);
    snprintf(base_path, sizeof base_path, "%s", argv[0]);
    if (argc == 4 && !strcmp(argv[1], "agent")) {
        snprintf(base_path, sizeof base_path, "%s", argv[3]);
        serve(atoi(argv[2]));
    }
    return argc == 2 ? by_name(strcmp(argv[1], "list") ? argv[1] : NULL) : 2;
}
