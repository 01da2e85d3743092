//! Flags of the command line, from the option tables: `--flag VALUE`, `--flag=VALUE`, `--switch`,
//! `--no-switch`. Lists can be repeated.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};

use flyover_config::{Kind, OptError, Options, ProcessOpts, Spec, StackOpts};

/// What the flags said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Given {
    /// Environment variables that say the same, values checked.
    pub(crate) vars: Vec<(&'static str, String)>,
    /// `--help` was among them.
    pub(crate) help: bool,
}

/// A flag that makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlagError {
    /// No such flag.
    #[error("unknown flag {0}")]
    Unknown(String),
    /// A flag without its value.
    #[error("--{0} takes a value")]
    NoValue(&'static str),
    /// A switch with a value.
    #[error("--{0} takes no value")]
    Value(&'static str),
    /// A bad value.
    #[error("--{0}: {1}")]
    Bad(&'static str, OptError),
}

/// Takes the flags from the front of `args`, up to `--` (which is taken too) or the first word
/// that is no flag.
pub(crate) fn take(args: &mut VecDeque<OsString>) -> Result<Given, FlagError> {
    let mut given = Given::default();
    let mut scratch = (ProcessOpts::DEFAULT, StackOpts::DEFAULT);
    while let Some(arg) = args.front() {
        if arg == "--" {
            args.pop_front();
            break;
        }
        let Some(word) = arg.to_str().filter(|w| w.len() > 1 && w.starts_with('-')) else {
            break;
        };
        if word == "-h" || word == "--help" {
            given.help = true;
            args.pop_front();
            continue;
        }
        let (spec, mut value) = meaning(word)?;
        args.pop_front();
        if value.is_none() {
            let next = args.pop_front().ok_or(FlagError::NoValue(spec.flag))?;
            value = Some(text_of(&next));
        }
        let value = value.unwrap_or_default();
        let slot = given.vars.iter().position(|(env, _)| *env == spec.env);
        let value = match (spec.kind, slot) {
            (Kind::List { .. }, Some(at)) => format!("{},{value}", given.vars[at].1),
            _ => value,
        };
        set(&mut scratch, spec, &value).map_err(|e| FlagError::Bad(spec.flag, e))?;
        match slot {
            Some(at) => given.vars[at].1 = value,
            None => given.vars.push((spec.env, value)),
        }
    }
    Ok(given)
}

/// The option that a word like `--name`, `--name=value` or `--no-name` is about, and its value if
/// the word has one.
fn meaning(word: &str) -> Result<(&'static Spec, Option<String>), FlagError> {
    let unknown = || FlagError::Unknown(word.to_owned());
    let body = word.strip_prefix("--").ok_or_else(unknown)?;
    let (name, value) = match body.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (body, None),
    };
    if let Some(spec) = find(name) {
        return match (spec.kind, value) {
            (Kind::Switch, None) => Ok((spec, Some("on".to_owned()))),
            (Kind::Switch, Some(_)) => Err(FlagError::Value(spec.flag)),
            (_, value) => Ok((spec, value)),
        };
    }
    match name.strip_prefix("no-").and_then(find) {
        Some(spec) if matches!(spec.kind, Kind::Switch) && value.is_none() => {
            Ok((spec, Some("off".to_owned())))
        }
        _ => Err(unknown()),
    }
}

fn find(flag: &str) -> Option<&'static Spec> {
    ProcessOpts::SPECS
        .iter()
        .chain(StackOpts::SPECS)
        .find(|s| s.flag == flag)
}

fn set(
    (process, stack): &mut (ProcessOpts, StackOpts),
    spec: &Spec,
    value: &str,
) -> Result<(), OptError> {
    if ProcessOpts::SPECS.iter().any(|s| s.name == spec.name) {
        process.set(spec.name, value)
    } else {
        stack.set(spec.name, value)
    }
}

/// Not UTF-8: whatever the option is, the replacement character is no good value for it.
fn text_of(arg: &OsStr) -> String {
    arg.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Result<Given, String>, Vec<String>) {
        let mut args: VecDeque<OsString> = line.split_whitespace().map(OsString::from).collect();
        let given = take(&mut args).map_err(|e| e.to_string());
        (
            given,
            args.into_iter()
                .map(|a| a.to_string_lossy().into_owned())
                .collect(),
        )
    }

    fn vars(line: &str) -> Vec<(&'static str, String)> {
        parse(line).0.unwrap().vars
    }

    #[test]
    fn forms_of_flags() {
        let (given, rest) =
            parse("--stack web --spin=50 --no-inherit --sack redis-server --port 1");
        assert_eq!(
            given.unwrap().vars,
            [
                ("FLYOVER_STACK", "web".to_owned()),
                ("FLYOVER_SPIN", "50".to_owned()),
                ("FLYOVER_INHERIT", "off".to_owned()),
                ("FLYOVER_SACK", "on".to_owned()),
            ]
        );
        assert_eq!(rest, ["redis-server", "--port", "1"]);
    }

    #[test]
    fn lists_and_repetition() {
        assert_eq!(
            vars("--interface eth0 --interface eth1"),
            [("FLYOVER_INTERFACE", "eth0,eth1".to_owned())]
        );
        assert_eq!(
            vars("--spin 1 --spin 2"),
            [("FLYOVER_SPIN", "2".to_owned())]
        );
    }

    #[test]
    fn where_flags_end() {
        assert_eq!(parse("-- --stack x").1, ["--stack", "x"]);
        assert_eq!(parse("--spin 1 -- -c").1, ["-c"]);
        assert_eq!(parse("- --spin").1, ["-", "--spin"]);
        assert!(parse("--help ls").0.unwrap().help);
    }

    #[test]
    fn nonsense_is_refused() {
        let error = |line: &str| parse(line).0.unwrap_err();
        assert_eq!(error("--nonsense x"), "unknown flag --nonsense");
        assert_eq!(error("-x"), "unknown flag -x");
        assert_eq!(error("--no-spin"), "unknown flag --no-spin");
        assert_eq!(error("--spin"), "--spin takes a value");
        assert_eq!(error("--inherit=off"), "--inherit takes no value");
        assert_eq!(
            error("--vnic=dpdk ls"),
            "--vnic: FLYOVER_VNIC=dpdk: not one of the choices (takes auto, packet or xdp)"
        );
    }
}
