//! `flyoverd`: the daemon, and with `--keeper` the keeper of one stack. Starts either.

use std::process::ExitCode;

use flyover_config::{LogLevel, vars};
use flyover_daemon::{args, keeper, server};
use tracing_subscriber::filter::LevelFilter;

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
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    for name in vars::unknown_in_env() {
        tracing::warn!("{name} is not an option: misspelt?");
    }
}
