//! `flyoverd`: the daemon, and with `--keeper` the keeper of one stack. Starts either.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use flyover_config::{LogLevel, vars};
use flyover_daemon::{args, keeper, server};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn main() -> ExitCode {
    let run = || -> anyhow::Result<()> {
        let args = args::parse()?;
        log_to_stderr(args.opts.log);
        if args.keeper {
            keeper::run()
        } else {
            server::run(&args)
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("flyoverd: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // Libraries tell more than anybody wants to know.
    let quiet = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("flyover", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines.with_filter(quiet))
        .init();
    for name in vars::unknown_in_env() {
        tracing::warn!("{name} is not an option: misspelt?");
    }
}
