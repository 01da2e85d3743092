//! `flyover`: run programs on user-level stacks, and look at them.
//!
//! ```text
//! flags.rs      flags from the option tables of flyover-config
//! help.rs       --help texts, from the same tables
//! run/          flyover run: a daemon, the library, then exec
//! daemon/       finding, starting, stopping flyoverd
//! check/        flyover check: what this machine can do, interface by interface
//! stacks.rs     what the daemon says of its stacks, and a look into their memory
//! ps.rs         flyover ps
//! ss/           flyover ss
//! stackdump.rs  flyover stackdump
//! handover.rs   flyover handover, takeover
//! places.rs     where the other parts of Flyover are
//! ```
//!
//! `run` is in the way of every accelerated program's start: it parses by hand, makes one
//! round trip to the daemon, and becomes the program.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

mod check;
mod daemon;
mod flags;
mod handover;
mod help;
mod places;
mod ps;
mod run;
mod ss;
mod stackdump;
mod stacks;

/// Exit status for a command line that makes no sense.
const USAGE: u8 = 2;

/// Runs the command line (without the program's name).
#[must_use]
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let Some(command) = args.next() else {
        eprint!("{}", help::overview());
        return ExitCode::from(USAGE);
    };
    let rest: Vec<OsString> = args.collect();
    let result = match command.to_str() {
        Some("run") => return run::main(rest),
        Some("check") => check::main(&rest),
        Some("ps") => ps::main(&rest),
        Some("ss") => ss::main(&rest),
        Some("stackdump") => stackdump::main(&rest),
        Some("handover") => handover::main(handover::Way::Out, &rest),
        Some("takeover") => handover::main(handover::Way::In, &rest),
        Some("daemon") => daemon::main(&rest),
        Some("options") => help::options(&rest),
        Some("help" | "--help" | "-h") => {
            show(&help::overview());
            Ok(ExitCode::SUCCESS)
        }
        Some("--version" | "-V") => {
            show(concat!("flyover ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Failure::Usage(format!("no command {}", command.display()))),
    };
    result.unwrap_or_else(|failure| failure.report())
}

/// Why a command did not do its work.
#[derive(Debug)]
enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// Something else.
    Other(anyhow::Error),
}

impl Failure {
    fn report(&self) -> ExitCode {
        match self {
            Self::Usage(text) => {
                eprintln!("flyover: {text} (see flyover --help)");
                ExitCode::from(USAGE)
            }
            Self::Other(error) => {
                eprintln!("flyover: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// What a command gives back: its exit status, or why not.
type Outcome = Result<ExitCode, Failure>;

/// Takes the one switch that most commands know, and nothing else.
fn only_json(args: &[OsString], help: &str) -> Result<Form, Failure> {
    let mut form = Form::Text;
    for arg in args {
        match arg.to_str() {
            Some("--json") => form = Form::Json,
            Some("--help" | "-h") => {
                show(help);
                return Ok(Form::HelpShown);
            }
            _ => {
                return Err(Failure::Usage(format!(
                    "unknown argument {}",
                    arg.display()
                )));
            }
        }
    }
    Ok(form)
}

/// How to show a result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// Not at all: the help was asked for and is shown.
    HelpShown,
}

/// Writes to stdout. A reader that has seen enough (`flyover ss | head`) is no failure.
fn show(text: &str) {
    let _: std::io::Result<()> = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Writes a line to stdout.
fn show_line(text: &str) {
    show(&format!("{text}\n"));
}

/// Text that another user chose, made harmless for the terminal of this one.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Writes a value as JSON to stdout.
fn show_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    show(&text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_escape_sequences_from_others() {
        assert_eq!(printable("a b\u{1b}[2J\n\u{9b}é"), "a b?[2J??é");
    }
}
