//! Options of `flyoverd`.

use crate::process::LogLevel;
use crate::table::{Kind, Unit, options};
use crate::text::Text;
use crate::value::choices;

choices! {
    /// How XDP programs are attached.
    pub enum XdpMode {
        /// Natively where the driver can, else generically.
        Auto = "auto",
        /// Only by the driver.
        Native = "native",
        /// By the kernel's generic hook.
        Generic = "generic",
    }
}

choices! {
    /// Whether AF_XDP sockets ask for zero-copy.
    pub enum ZeroCopy {
        /// Where the driver can.
        Auto = "auto",
        /// Or fail.
        On = "on",
        /// Never.
        Off = "off",
    }
}

options! {
    /// What `flyoverd` is told.
    pub struct DaemonOpts, Daemon {
        /// Where to listen for applications. Without privilege the default is a socket in a directory
        /// of the user's own.
        socket: Text<107> = Text::<107>::new(crate::DEFAULT_SOCKET).expect("fits"),
            Kind::Text { what: "PATH", max: 107 }, "FLYOVER_SOCKET", "socket",
            "socket to listen on";
        /// Group that may connect; with the mode it decides who can be accelerated.
        group: Text<32> = Text::EMPTY, Kind::Text { what: "GROUP", max: 32 },
            "FLYOVER_DAEMON_GROUP", "group", "group of the socket";
        /// Mode of the socket.
        mode: u32 = 0o666, Kind::Octal { max: 0o777 }, "FLYOVER_DAEMON_MODE", "mode",
            "mode of the socket";
        /// What the daemon says on stderr.
        log: LogLevel = LogLevel::Info, Kind::Choice(LogLevel::WORDS), "FLYOVER_DAEMON_LOG", "log",
            "how much to say on stderr";
        /// How XDP programs are attached.
        xdp_mode: XdpMode = XdpMode::Auto, Kind::Choice(XdpMode::WORDS), "FLYOVER_XDP_MODE",
            "xdp-mode", "how XDP programs are attached";
        /// Whether AF_XDP sockets ask for zero-copy.
        zero_copy: ZeroCopy = ZeroCopy::Auto, Kind::Choice(ZeroCopy::WORDS), "FLYOVER_ZERO_COPY",
            "zero-copy", "zero-copy of AF_XDP sockets";
        /// Stacks of one user; root is not limited.
        user_stacks: u32 = 64, Kind::Int { min: 1, max: 4096, unit: Unit::Count },
            "FLYOVER_USER_STACKS", "user-stacks", "stacks of one user";
        /// Memory of one user's stacks, MiB; root is not limited.
        user_memory_mib: u32 = 4096, Kind::Int { min: 16, max: 1 << 20, unit: Unit::Count },
            "FLYOVER_USER_MEMORY_MIB", "user-memory-mib", "memory of one user's stacks, MiB";
        /// Users who may share a stack, and so talk to one another through shared memory: stacks' names,
        /// each with its users, by name or number, as in `cache=redis+app,web=app+1003`. Those of a
        /// stack's users who ask for it (`flyover run --stack cache`) get the same one, also from different
        /// containers. They can read and change whatever is in it, so they have to trust one another that
        /// far. Nobody when empty.
        share: Text<255> = Text::EMPTY, Kind::Text { what: "NAME=USER+USER,...", max: 255 },
            "FLYOVER_DAEMON_SHARE", "share", "users who may share a stack";
        /// Flow filters of one stack.
        stack_filters: u32 = 65_536, Kind::Int { min: 16, max: 1 << 20, unit: Unit::Count },
            "FLYOVER_STACK_FILTERS", "stack-filters", "flow filters of one stack";
        /// Ends the daemon when it has had no client for this long; 0 is never. For the daemons that
        /// it starts, `flyover run` sets 600 s, or 10 s for an ordinary user's own daemon, unless it is
        /// set in its environment.
        idle_exit_s: u32 = 0, Kind::Int { min: 0, max: 1_000_000, unit: Unit::Seconds },
            "FLYOVER_IDLE_EXIT_S", "idle-exit-s", "end after this long without clients";
    }
}
