//! The command line. Options come from the table in `flyover-config`; a flag wins over the environment variable.

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command};
use flyover_config::{DaemonOpts, Kind, Options, Spec, vars};

/// What the command line asks for.
#[derive(Debug)]
pub struct Args {
    /// Run as a stack's keeper; the rest does not matter then.
    pub keeper: bool,
    /// The options of the table.
    pub opts: DaemonOpts,
    /// Interfaces that may be used at all; empty: all.
    pub interfaces: Vec<String>,
    /// Descriptor to which a line is written when clients can connect.
    pub ready_fd: Option<i32>,
}

/// Reads environment and command line; prints help and ends the process when asked to.
///
/// # Errors
/// An option that is out of range.
pub fn parse() -> anyhow::Result<Args> {
    read(&command().get_matches())
}

fn command() -> Command {
    let mut command = Command::new("flyoverd")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Makes user-level TCP/IP stacks and V-NICs for programs run by `flyover run`")
        .arg(
            Arg::new("interface")
                .long("interface")
                .value_name("IF")
                .action(ArgAction::Append)
                .help("Use only this interface; can be repeated"),
        )
        .arg(
            Arg::new("ready-fd")
                .long("ready-fd")
                .value_name("N")
                .value_parser(clap::value_parser!(i32))
                .help("Write a line to this descriptor when clients can connect"),
        )
        .arg(
            Arg::new("keeper")
                .long("keeper")
                .hide(true)
                .action(ArgAction::SetTrue),
        );
    for (index, spec) in DaemonOpts::SPECS.iter().enumerate() {
        let help = format!(
            "{} [{}; default {}]",
            spec.short,
            spec.env,
            DaemonOpts::DEFAULT.shown(index)
        );
        command = command.arg(
            Arg::new(spec.name)
                .long(spec.flag)
                .value_name(placeholder(spec))
                .help(help),
        );
    }
    command
}

fn placeholder(spec: &Spec) -> String {
    match spec.kind {
        Kind::Choice(words) => words.join("|"),
        Kind::Text { what, .. } | Kind::List { what, .. } => what.to_owned(),
        Kind::Switch => "on|off".to_owned(),
        Kind::Octal { .. } => "OCTAL".to_owned(),
        Kind::Pow2 { .. } | Kind::Int { .. } => "N".to_owned(),
    }
}

fn read(matches: &ArgMatches) -> anyhow::Result<Args> {
    let mut opts: DaemonOpts = vars::from_env().map_err(|e| anyhow::anyhow!("{e}"))?;
    for (index, spec) in DaemonOpts::SPECS.iter().enumerate() {
        if let Some(text) = matches.get_one::<String>(spec.name) {
            opts.set_at(index, text)
                .map_err(|e| anyhow::anyhow!("{e}"))
                .context("command line")?;
        }
    }
    Ok(Args {
        keeper: matches.get_flag("keeper"),
        opts,
        interfaces: matches
            .get_many::<String>("interface")
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
        ready_fd: matches.get_one::<i32>("ready-fd").copied(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> anyhow::Result<Args> {
        let all = std::iter::once("flyoverd").chain(args.iter().copied());
        read(&command().try_get_matches_from(all)?)
    }

    #[test]
    fn flags_come_from_the_table() {
        let args = parse(&[
            "--socket",
            "/tmp/s",
            "--mode",
            "660",
            "--interface",
            "a",
            "--interface",
            "b",
        ])
        .unwrap();
        assert_eq!(
            (args.opts.socket.as_str(), args.opts.mode),
            ("/tmp/s", 0o660)
        );
        assert_eq!(args.interfaces, ["a", "b"]);
        assert!(!args.keeper && args.ready_fd.is_none());
        assert!(parse(&["--user-stacks", "0"]).is_err());
        assert!(parse(&["--nonsense"]).is_err());
        command().debug_assert();
    }
}
