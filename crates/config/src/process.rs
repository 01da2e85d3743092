//! Options of one process: which stack, which interfaces, how long to spin.

use core::fmt;

use crate::problem::Problem;
use crate::table::{Kind, Unit, options};
use crate::text::{Names, Text};
use crate::value::{Value, choices};

choices! {
    /// Which kind of V-NIC an interface gets.
    pub enum VnicChoice {
        /// The one that the interface is best served by.
        Auto = "auto",
        /// A packet socket with super-frames.
        Packet = "packet",
        /// An AF_XDP socket per queue.
        Xdp = "xdp",
    }
}

choices! {
    /// What to optimise for.
    pub enum Profile {
        /// A short spin, then sleep.
        Balanced = "balanced",
        /// Spin long: lowest latency for a core per waiting thread.
        Latency = "latency",
    }
}

choices! {
    /// How much to say.
    pub enum LogLevel {
        /// Nothing.
        Off = "off",
        /// What does not work.
        Error = "error",
        /// What works worse than it could.
        Warn = "warn",
        /// Milestones.
        Info = "info",
        /// Decisions.
        Debug = "debug",
        /// Every call.
        Trace = "trace",
    }
}

/// Which stack a process attaches to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StackSelect {
    /// The one of this user and network namespace.
    Default,
    /// One of its own, shared with its children only.
    Private,
    /// The user's stack of that name.
    Named(Text<32>),
}

impl Value for StackSelect {
    fn parse(text: &str, _: &Kind) -> Result<Self, Problem> {
        match text.trim() {
            "" | "default" => Ok(Self::Default),
            "private" => Ok(Self::Private),
            name => {
                let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
                if !name.bytes().all(good) {
                    return Err(Problem::BadName);
                }
                Text::new(name).map(Self::Named).ok_or(Problem::TooLong)
            }
        }
    }

    fn show(&self, _: &Kind, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::Private => "private",
            Self::Named(name) => name.as_str(),
        })
    }
}

options! {
    /// What one process wants of its stack.
    pub struct ProcessOpts, Process {
        /// Which stack to use: `default` is one per user and network namespace; a name makes or
        /// joins another one; `private` makes one for this program and its children.
        stack: StackSelect = StackSelect::Default,
            Kind::Text { what: "NAME|private", max: 32 }, "FLYOVER_STACK", "stack",
            "stack to use";
        /// Interfaces to accelerate; all that can be when empty. On the command line the flag can
        /// be repeated, in the variable names are separated by commas.
        interfaces: Names = Names::EMPTY, Kind::List { what: "IF", max: Names::MAX },
            "FLYOVER_INTERFACE", "interface", "accelerate only this interface";
        /// Kind of V-NIC: `packet` (a packet socket with super-frames) or `xdp` (AF_XDP); `auto`
        /// picks what the interface is best served by. `flyover check` says which and why.
        vnic: VnicChoice = VnicChoice::Auto, Kind::Choice(VnicChoice::WORDS), "FLYOVER_VNIC",
            "vnic", "kind of V-NIC";
        /// `balanced` spins shortly and then sleeps; `latency` spins long, which costs a core per
        /// waiting thread.
        profile: Profile = Profile::Balanced, Kind::Choice(Profile::WORDS), "FLYOVER_PROFILE",
            "profile", "what to optimise for";
        /// How long a blocking call looks for packets before it sleeps. `auto` follows the
        /// profile: 20 µs for `balanced`, 1 s for `latency`.
        spin_usec: Option<u32> = None,
            Kind::Int { min: 0, max: 1_000_000_000, unit: Unit::Micros }, "FLYOVER_SPIN", "spin",
            "how long to spin before sleeping";
        /// What the library says on stderr.
        log: LogLevel = LogLevel::Error, Kind::Choice(LogLevel::WORDS), "FLYOVER_LOG", "log",
            "how much to say on stderr";
        /// Whether programs started by this one are accelerated too.
        inherit: bool = true, Kind::Switch, "FLYOVER_INHERIT", "inherit",
            "accelerate child programs too";
        /// Whether the library does anything at all; `off` leaves every socket to the kernel.
        accelerate: bool = true, Kind::Switch, "FLYOVER_ACCELERATE", "accelerate",
            "use user-level stacks at all";
        /// Whether connections between two programs on this host go through shared memory, when both
        /// are run by Flyover and share a stack.
        local: bool = true, Kind::Switch, "FLYOVER_LOCAL", "local",
            "connections within the host go through shared memory";
        /// How many calls of one end have to move bytes on a connection within this host before it goes
        /// through shared memory; until then the kernel carries it. With 0 it does so from the first
        /// byte on, also where that costs more than it saves.
        local_after: u32 = 4, Kind::Int { min: 0, max: 1_000_000, unit: Unit::Count },
            "FLYOVER_LOCAL_AFTER", "local-after",
            "calls before a local connection goes through shared memory";
        /// How many calls have to move bytes on a connection that the kernel opened (one that the program
        /// inherited, or accepted from a listener that another program made) before the stack takes it over,
        /// if its packets come in through a V-NIC. With 0 the kernel keeps it until `flyover takeover`.
        adopt_after: u32 = 64, Kind::Int { min: 0, max: 1_000_000_000, unit: Unit::Count },
            "FLYOVER_ADOPT_AFTER", "adopt-after",
            "calls before a connection of the kernel's is taken over";
        /// How many connections of a local address a program makes from ports of their own, each with the daemon's
        /// consent. After that the daemon lends its stack some local ports (64 at first, 256 at most), from which it
        /// connects without asking; 30 s after the last of these connections they are given back.
        lend_after: u32 = 4, Kind::Int { min: 0, max: 1_000_000, unit: Unit::Count },
            "FLYOVER_LEND_AFTER", "lend-after",
            "connections before the daemon lends local ports";
        /// Where `flyoverd` listens.
        socket: Text<107> = Text::<107>::new(crate::DEFAULT_SOCKET).expect("fits"),
            Kind::Text { what: "PATH", max: 107 }, "FLYOVER_SOCKET", "socket",
            "socket of flyoverd";
    }
}

impl ProcessOpts {
    /// How long to spin before sleeping, microseconds: what was asked for, else by the profile.
    #[must_use]
    pub const fn spin(&self) -> u32 {
        match (self.spin_usec, self.profile) {
            (Some(usec), _) => usec,
            (None, Profile::Balanced) => 20,
            (None, Profile::Latency) => 1_000_000,
        }
    }
}
