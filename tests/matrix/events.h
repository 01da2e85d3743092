/*
 * What happens to the process or the descriptor: each is a small story told by the coordinator. Agent 0 has opened the
 * object and brought it into its state when a story begins.
 */
enum path { ACCELERATED, KERNEL, NO_PATH };

/* ---- the path, as `flyover ss` sees it -------------------------------------------------------------------------------- */

/* Asks the harness; without one (the plain side) the answer is what is expected. */
static void expect_path(enum path expected)
{
    static const char *const names[] = {"accelerated", "kernel"};
    const char *socket_name = getenv("MATRIX_SS");
    char text[64];
    if (expected == NO_PATH)
        return;
    if (!socket_name) {
        say("path: %s", names[expected]);
        return;
    }
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", socket_name);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (void *)&a, sizeof a))
        give_up("no harness at %s", socket_name);
    dprintf(fd, "%s\n", cell.cookie);
    long n = read(fd, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    close(fd);
    say("path: %s", text);
}

/* ---- common endings ------------------------------------------------------------------------------------------------------ */

static void end_of(int a, enum path expected)
{
    complete(a);
    expect_path(expected);
    close_object(a);
    say_end(1);
}

/* Both holders use it, in turns and, where the streams allow, at the same time; then each closes. */
static void both_use(int one, int other)
{
    use(one, "first");
    use(other, "second");
    if (is_tcp() && cell.state == MID) {
        /* One sends while the other receives. */
        tell(one, "pump %d %lu %d %lu 0", cell.fd, cell.out, TURN, cell.in);
        tell(other, "pump %d %lu 0 %lu %d", cell.fd, cell.out, cell.in, TURN);
        say("at once: sender: %s", hear(one));
        say("at once: receiver: %s", hear(other));
        cell.out += TURN, cell.in += TURN;
        cell.out_left -= TURN, cell.in_left -= TURN;
    }
    complete(one);
    expect_path(ACCELERATED);
    close_object(one);
    if (!is_tcp() || (cell.state != MID && cell.state != FULL))
        use(other, "survivor");
    close_object(other);
    say_end(1);
}

/* Somebody ends, and not by closing. */
static void gone(int agent, int signal_number)
{
    kill(pids[agent], signal_number);
    for (int i = 0; i < 5000 && kill(pids[agent], 0) == 0; i++)
        usleep(1000);
}

/* ---- fork ------------------------------------------------------------------------------------------------------------------ */

static void fork_agent(void)
{
    must("fork", order(0, "fork 1"));
    greet(1);
}

static void fork_both(void)
{
    fork_agent();
    both_use(0, 1);
}

static void fork_child_closes(void)
{
    fork_agent();
    close_object(1);
    use(0, "parent");
    end_of(0, ACCELERATED);
}

static void fork_parent_closes(void)
{
    fork_agent();
    close_object(0);
    use(1, "child");
    end_of(1, ACCELERATED);
}

static void double_fork(void)
{
    must("fork", order(0, "twice 1"));
    greet(1);
    tell(0, "exit");
    use(1, "grandchild");
    end_of(1, ACCELERATED);
}

static void daemon_3(void)
{
    pid_t before = pids[0];
    tell(0, "daemon");
    greet(0);
    say("a new process: %s", before != pids[0] ? "yes" : "no");
    use(0, "daemon");
    end_of(0, ACCELERATED);
}

/* ---- exec ------------------------------------------------------------------------------------------------------------------- */

static void fork_exec(void)
{
    must("fork", order(0, "fork keep 1"));
    greet(1);
    both_use(1, 0);
}

static void spawned(void)
{
    must("spawn", order(0, "spawn empty 1"));
    greet(1);
    both_use(1, 0);
}

static void exec_then(const char *kind, enum path expected)
{
    tell(0, "become %s 0", kind);
    greet(0);
    cell.leaves = expected == KERNEL;
    use(0, "new program");
    end_of(0, expected);
}

static void exec_keep(void) { exec_then("keep", ACCELERATED); }
static void exec_empty(void) { exec_then("empty", ACCELERATED); }
static void exec_static(void) { exec_then("static", KERNEL); }
static void exec_setuid(void) { exec_then("setuid", KERNEL); }
static void exec_m32(void) { exec_then("m32", KERNEL); }

/* Children do not inherit Flyover: FLYOVER_INHERIT=0 (set before agent 0 began, see `before`). */
static void exec_opt_out(void) { exec_then("keep", KERNEL); }

static void exec_cloexec(void)
{
    expect_path(ACCELERATED);
    if (cell.epfd >= 0)
        must("cloexec", order(0, "cloexec %d", cell.epfd));
    must("cloexec", order(0, "cloexec %d", cell.fd));
    tell(0, "become keep 0");
    greet(0);
    say_end(0);
}

static void dup_exec(void)
{
    must("dup", strcmp(order(0, "dup %d 77", cell.fd), "ok") ? "no" : "ok");
    must("close", order(0, "close %d", cell.fd));
    cell.fd = 77;
    if (cell.epfd >= 0) {
        must("dup", strcmp(order(0, "dup %d 78", cell.epfd), "ok") ? "no" : "ok");
        must("close", order(0, "close %d", cell.epfd));
        cell.epfd = 78;
    }
    exec_then("keep", ACCELERATED);
}

/* As inetd: descriptor 0, then a program. Stdio's descriptors are the kernel's. */
static void stdin_exec(void)
{
    must("dup", strcmp(order(0, "dup %d 0", cell.fd), "ok") ? "no" : "ok");
    must("close", order(0, "close %d", cell.fd));
    cell.fd = 0;
    exec_then("keep", KERNEL);
}

/* A socket that a plain program made, and brought into its state, is used by an accelerated one. */
static void adopted(void)
{
    const char *library = getenv("LD_PRELOAD");
    if (library)
        tell(0, "library %s", library);
    else
        tell(0, "become keep 0");
    greet(0);
    use(0, "new program");
    end_of(0, KERNEL);
}

/* ---- helpers: children that share the memory ---------------------------------------------------------------------------------- */

static void helped_by(const char *which)
{
    say("%s: %s", which, order(0, "helper %s %d", which, cell.fd));
    use(0, "parent");
    end_of(0, ACCELERATED);
}

static void by_vfork(void) { helped_by("vfork"); }
static void by_clone(void) { helped_by("clone"); }
static void by_system(void) { helped_by("system"); }
static void by_popen(void) { helped_by("popen"); }

/* ---- descriptors that travel --------------------------------------------------------------------------------------------------- */

static void fetch(int agent, int via)
{
    int fd = -1, epfd = -1;
    const char *reply = order(agent, "fetch %d", via);
    if (sscanf(reply, "fds %d %d", &fd, &epfd) != 2)
        give_up("fetch: %s", reply);
    cell.fd = fd;
    cell.epfd = epfd;
}

/* To agent 1, through a name that it has. */
static void mailed(enum path expected)
{
    char name[32];
    snprintf(name, sizeof name, "%d", getpid());
    int box = descriptor("mailbox", order(1, "mailbox m%s", name), NULL);
    int via = descriptor("reach", order(0, "reach m%s", name), NULL);
    int to = descriptor("accept", order(1, "open accept %d", box), NULL);
    must("post", order(0, "post %d %d %d", via, cell.fd, cell.epfd));
    close_object(0);
    fetch(1, to);
    cell.leaves = expected == KERNEL;
    use(1, "receiver");
    end_of(1, expected);
}

/* A set that travels is the kernel's: nothing tells the receiver of the stack's half. */
static enum path path_of_travellers(void) { return cell.kind == EPOLL ? KERNEL : ACCELERATED; }

static void rights(void) { mailed(path_of_travellers()); }
static void rights_plain(void) { mailed(KERNEL); }

/* Nobody but a message holds it for a while, and its sender is dead. */
static void in_flight(void)
{
    must("post", order(0, "post %d %d %d", MAIL, cell.fd, cell.epfd));
    gone(0, SIGKILL);
    usleep(20000);
    fetch(1, MAIL + 1);
    cell.leaves = cell.kind == EPOLL;
    use(1, "receiver");
    end_of(1, path_of_travellers());
}

static void taken(void)
{
    cell.fd = descriptor("take", order(1, "take %d %d", pids[0], cell.fd), NULL);
    gone(0, SIGKILL);
    use(1, "taker");
    end_of(1, ACCELERATED);
}

/* ---- ends ------------------------------------------------------------------------------------------------------------------------ */

static void ended_by(const char *how)
{
    expect_path(ACCELERATED);
    tell(0, "%s", how);
    say_end(0);
}

static void by_exit(void) { ended_by("exit"); }
static void by__exit(void) { ended_by("abandon"); }
static void by_crash(void) { ended_by("crash"); }

static void by_kill(void)
{
    expect_path(ACCELERATED);
    gone(0, SIGKILL);
    say_end(0);
}

static void by_term(void)
{
    expect_path(ACCELERATED);
    gone(0, SIGTERM);
    say_end(0);
}

static void kill_child(void)
{
    fork_agent();
    use(1, "child");
    gone(1, SIGKILL);
    use(0, "parent");
    end_of(0, ACCELERATED);
}

static void kill_parent(void)
{
    fork_agent();
    use(0, "parent");
    gone(0, SIGKILL);
    use(1, "child");
    complete(1);
    expect_path(ACCELERATED);
    gone(1, SIGKILL);
    say_end(1);
}

/* ---- stopped ----------------------------------------------------------------------------------------------------------------------- */

static void stopped(void)
{
    kill(pids[0], SIGSTOP);
    if (cell.kind == LISTENER) {
        say("stopped: peer connects: %s", peer("connect %d", cell.port));
        peer_ok("send 10");
        if (cell.state == HALF_IN)
            peer_ok("shutdown w");
        say("stopped: acknowledged: %s", peer("quiet"));
    } else if (is_udp()) {
        peer_ok("sendto %d 333", cell.port);
    } else if (cell.state == FULL) {
        unsigned long queued = cell.out;
        peer_ok("exchange 0 %lu", queued);
        say("stopped: what was queued: %s", peer("exchanged"));
        cell.peer_reads = 1;
        peer_ok("exchange %d %d", LATER, LATER);
    } else if (cell.state != MID && cell.state != HALF_IN) {
        peer_ok("send 700");
        say("stopped: acknowledged: %s", peer("quiet"));
    }
    kill(pids[0], SIGCONT);
    if (cell.kind == LISTENER) {
        for (; cell.pending >= 0; cell.pending--)
            say("serves %s", order(0, "serve %d %d", cell.fd, cell.state == HALF_IN));
        cell.pending = 0;
        say("peer gets %s", peer("recv 10"));
        say("peer then gets %s", peer("recvall"));
    } else if (is_udp()) {
        for (; cell.pending > 0; cell.pending--)
            say("queued datagram of %s", order(0, "datagram %d", cell.fd));
        say("datagram of %s", order(0, "datagram %d", cell.fd));
    } else if (is_tcp() && (cell.state == IDLE || cell.state == HALF_OUT))
        say("receives: %s", pump_of(0, 0, 700));
    else if (is_tcp() && cell.state == UNREAD)
        say("receives: %s", pump_of(0, 0, 1700)), cell.pending = 0;
    use(0, "continued");
    end_of(0, ACCELERATED);
}
