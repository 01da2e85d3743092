//! Help texts. What there is to say of an option comes from its table.

use std::ffi::OsString;
use std::process::ExitCode;

use flyover_config::{ProcessOpts, StackOpts, docs};

use crate::{Failure, Outcome, show};

/// `flyover --help`.
pub(crate) fn overview() -> String {
    "\
Runs programs on TCP/IP stacks in user space, and looks at them.

  flyover run [FLAG]... [--] COMMAND [ARG]...   run a program accelerated
  flyover check [--json]                        what this machine can do
  flyover ps [--json]                           stacks, their processes and V-NICs
  flyover ss [-tula] [--json]                   sockets, in the layout of ss(8)
  flyover stackdump [STACK] [--json]            everything in a stack's memory
  flyover handover PID[:FD]...|--all [--json]   give sockets to the kernel
  flyover takeover PID[:FD]...|--all [--json]   take them over again
  flyover daemon start|stop|status              flyoverd
  flyover options [--markdown]                  every option and its variable

`flyover COMMAND --help` says more.
"
    .to_owned()
}

/// `flyover run --help`.
pub(crate) fn run() -> String {
    format!(
        "\
flyover run [FLAG]... [--] COMMAND [ARG]...

Runs COMMAND with its TCP and UDP sockets on a stack in user space. What cannot be
accelerated goes through the kernel as ever; where nothing can be (no daemon, no library,
a static program), one line on stderr says why, and COMMAND runs all the same.

Exit status: that of COMMAND; 125 when a flag makes no sense, 126 when COMMAND cannot be
executed, 127 when it is not found.

{}
Sizes and protocol behaviour, used when the stack is made by this run:

{}
Every flag is also an environment variable: see `flyover options`.
",
        docs::help::<ProcessOpts>(),
        docs::help::<StackOpts>()
    )
}

/// `flyover handover --help`.
pub(crate) const HANDOVER: &str = "\
flyover handover PID[:FD]...|--all [--json]

Gives accelerated sockets of running programs to the kernel, in mid-connection: the programs and
their peers notice nothing. Of a listener, the connections that begin from now on are the
kernel's; those that it has already are accepted from the stack as before.

With --all Flyover is switched off: sockets that are made later stay with the kernel, too, in
all stacks that there are now, until `flyover takeover --all`. With PID, new sockets of the
process are accelerated as ever.

Says for each socket what became of it: moved and how long it stood still, listener, stays (it is
being connected or closed, or urgent data is on its way), unreachable.

Exit status: 0 when none was left behind, 1 otherwise. Sockets of other users need root.
";

/// `flyover takeover --help`.
pub(crate) const TAKEOVER: &str = "\
flyover takeover PID[:FD]...|--all [--json]

Takes sockets of running programs over from the kernel, in mid-connection: those that `flyover
handover` gave to it, those that were made while Flyover was switched off, and connections that
the program inherited. Listeners and datagram sockets get their packets from the V-NICs again.
With --all Flyover is switched on for new sockets.

Says for each socket what became of it: taken and how long it stood still, resumed, here (it was
accelerated), stays and why (an option or a call that only the kernel serves, a route without
V-NIC, a program without Flyover that holds it, too), unreachable.

Exit status: 0 when none was left behind, 1 otherwise. Sockets of other users need root.
";

/// `flyover check --help`.
pub(crate) const CHECK: &str = "\
flyover check [--json]

Says what this machine can do: kernel, privileges, limits, and for each interface how it is
accelerated and why, or what is in the way and what to do. Changes nothing.

Without privilege it says what works nevertheless, and what takes root.

Exit status: 0 when programs can be accelerated on at least one interface or on the local path to
one another, 1 otherwise.
";

/// `flyover ps --help`.
pub(crate) const PS: &str = "\
flyover ps [--json]

Lists the stacks that you may see (your own, and those that you may share; root sees all, but in a
container only what is there), with the processes that use them, their V-NICs and their memory.
";

/// `flyover ss --help`.
pub(crate) const SS: &str = "\
flyover ss [-tula] [--all-namespaces] [--json]

Lists every socket that Flyover knows in this network namespace, in the layout of ss(8), with
its path: packet or xdp for a socket on a stack, shm within the host, kernel with the reason for one
that is not. Reason young: a connection within the host that has moved bytes in a few calls only (or
that stays as it is). Of programs that had nothing else yet Flyover knows nothing: see ss(8).

  -t, --tcp            only TCP
  -u, --udp            only UDP
  -l, --listening      only listening sockets
  -a, --all            listening and others (as without this flag)
  -n, --numeric        accepted; addresses are always numbers
  --all-namespaces     also sockets of other network namespaces
";

/// `flyover stackdump --help`.
pub(crate) const STACKDUMP: &str = "\
flyover stackdump [STACK] [--all] [--json]

Shows the memory of a stack: lock, clocks, tables, counters, V-NICs and every field of every
socket that is not zero (with --all, also those that are). STACK is a number or a name of
`flyover ps`; without it, all stacks.
";

/// `flyover daemon --help`.
pub(crate) const DAEMON: &str = "\
flyover daemon start    start flyoverd if none is running, and wait until it answers
flyover daemon stop     end it, and wait until it is gone
flyover daemon status   say whether it is running (exit status 0) or not (3)

The socket is that of FLYOVER_SOCKET, else /run/flyover/flyoverd.sock; without privilege, that of
a daemon of this user alone, in $XDG_RUNTIME_DIR/flyover, /run/user/UID/flyover or
/tmp/flyover-UID. It makes no V-NICs, but stacks for the local path between this user's programs.
Options of the daemon are environment variables: see `flyover options`.
";

/// `flyover options`.
pub(crate) fn options(args: &[OsString]) -> Outcome {
    let markdown = match args {
        [] => false,
        [one] if one == "--markdown" => true,
        _ => return Err(Failure::Usage("options takes only --markdown".to_owned())),
    };
    let text = docs::markdown();
    if markdown {
        show(&text);
    } else {
        // Headings and code marks are for renderers.
        let plain = |line: &str| line.trim_start_matches('#').trim_start().replace('`', "") + "\n";
        show(&text.lines().map(plain).collect::<String>());
    }
    Ok(ExitCode::SUCCESS)
}
