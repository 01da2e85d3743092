//! Storms: things are killed, or moved, at random moments, again and again, beside programs that verify every byte.
//!
//! | file | what |
//! |---|---|
//! | `kills.rs` | processes that share a stack are killed |
//! | `handover.rs` | everything is handed over to the kernel and taken over again |
//! | `keeper.rs` | the stack's keeper is killed |
//! | `daemon.rs` | the daemon is killed, and another one is started |

mod daemon;
mod handover;
mod keeper;
mod kills;

pub use kills::{dump, number};

use std::time::Duration;

use anyhow::{Result, ensure};
use flyover_e2e::cleanup;
use flyover_e2e::lab::Setup;
use flyover_e2e::runner::{self, Case};

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Of {
    /// Processes that share a stack.
    Processes,
    /// The same, with their peers on the same host and stack.
    Local,
    /// The stack's keeper.
    Keeper,
    /// The daemon, and now and then the keeper, too.
    Daemon,
    /// Everything moves to the kernel and back.
    Handover,
}

#[derive(clap::Args)]
pub struct Args {
    /// What is killed or moved.
    #[arg(long, value_enum, default_value_t = Of::Processes)]
    of: Of,
    /// How many times. 20,000 processes, 100 keepers, 100 daemons; 60 moves to the kernel and back, one a second.
    #[arg(long)]
    kills: Option<u64>,
    /// Decides when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The same on the kernel's stack: processes only.
    #[arg(long)]
    plain: bool,
}

pub fn run(args: &Args) -> Result<()> {
    cleanup::prepare()?;
    let setup = Setup {
        bin: runner::built_programs()?,
        programs: runner::scripts(),
        directory: std::env::temp_dir(),
        plain: args.plain,
        options: Vec::new(),
        daemon_options: Vec::new(),
    };
    let seed = args.seed;
    let case = match args.of {
        Of::Processes | Of::Local => {
            let kills = args.kills.unwrap_or(20_000);
            let place = if args.of == Of::Local {
                kills::LOCAL
            } else {
                kills::WIRE
            };
            Case::new(place.name, move |setup| {
                kills::case(setup, place, kills, seed)
            })
            .lasting(Duration::from_secs(120 + kills / 4))
        }
        Of::Keeper => {
            let kills = args.kills.unwrap_or(100);
            Case::new("storm.keeper.server".to_owned(), move |setup| {
                keeper::case(setup, kills, seed)
            })
            .lasting(Duration::from_secs(120 + kills * 30))
        }
        Of::Daemon => {
            let kills = args.kills.unwrap_or(100);
            Case::new("storm.daemon.server".to_owned(), move |setup| {
                daemon::case(setup, kills, seed)
            })
            .lasting(Duration::from_secs(120 + kills * 30))
        }
        Of::Handover => {
            let rounds = args.kills.unwrap_or(60);
            Case::new("storm.handover.server".to_owned(), move |setup| {
                handover::case(setup, rounds)
            })
            .lasting(Duration::from_secs(120 + rounds * 10))
        }
    };
    let summary = runner::run(&[case], &setup, &[])?;
    cleanup::everything();
    println!("{} passed, {} failed", summary.passed, summary.failed);
    ensure!(summary.failed == 0, "the storm did damage");
    Ok(())
}

/// What continuous integration runs.
pub fn cases(cases: &mut Vec<Case>) {
    kills::cases(cases);
    keeper::cases(cases);
    daemon::cases(cases);
    handover::cases(cases);
}
