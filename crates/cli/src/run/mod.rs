//! `flyover run`: make sure that a daemon is there, preload the library, become the program.
//!
//! Nothing that Flyover lacks may keep the program from running: every obstacle is one line on
//! stderr, and the program then runs on the kernel path.

mod exec;
mod obstacle;
mod preload;
mod target;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use flyover_config::{LogLevel, Options as _, ProcessOpts, StackOpts, vars};

use flyover_proto::SOCKET_ENV;

use crate::{daemon, flags, help, places, show};
use obstacle::Obstacle;

/// As `env`, `nice` and `timeout` do when they fail themselves.
const OWN_FAILURE: u8 = 125;

/// Runs the command line after `flyover run`. Returns only when the program could not be executed.
pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let mut args = VecDeque::from(args);
    let given = match flags::take(&mut args) {
        Ok(given) => given,
        Err(error) => {
            eprintln!("flyover run: {error} (see flyover run --help)");
            return ExitCode::from(OWN_FAILURE);
        }
    };
    if given.help {
        show(&help::run());
        return ExitCode::SUCCESS;
    }
    let Some(program) = args.pop_front() else {
        eprintln!("flyover run: no command given (see flyover run --help)");
        return ExitCode::from(OWN_FAILURE);
    };
    let options = options(&given);
    let mut command = exec::Exec::new(program, args.into());
    // A program that does not exist needs no daemon.
    if let Some(path) = command.path().filter(|_| options.accelerate) {
        match prepare(&options, &path) {
            Ok(Ready { preload, socket }) => {
                command.set("LD_PRELOAD", preload);
                for (name, value) in given.vars {
                    command.set(name, value.into());
                }
                if let Some(socket) = socket {
                    command.set(SOCKET_ENV, socket.into());
                }
            }
            Err(obstacle) => say(&options, &obstacle.to_string()),
        }
    }
    command.exec()
}

/// Options from the environment, then from the flags. Bad variables are told and ignored, as the
/// library ignores them.
fn options(given: &flags::Given) -> ProcessOpts {
    let mut process = ProcessOpts::DEFAULT;
    let mut stack = StackOpts::DEFAULT;
    let mut bad = Vec::new();
    for (name, value) in std::env::vars_os() {
        let (name, value) = (name.as_encoded_bytes(), value.as_encoded_bytes());
        let results = [
            vars::apply(&mut process, name, value),
            vars::apply(&mut stack, name, value),
        ];
        bad.extend(results.into_iter().flatten().filter_map(Result::err));
    }
    for (name, value) in &given.vars {
        // Checked already when the flags were taken.
        let results = [
            vars::apply(&mut process, name.as_bytes(), value.as_bytes()),
            vars::apply(&mut stack, name.as_bytes(), value.as_bytes()),
        ];
        bad.extend(results.into_iter().flatten().filter_map(Result::err));
    }
    for error in bad {
        say(&process, &format!("{error}; ignored"));
    }
    for name in vars::unknown_in_env() {
        say(&process, &format!("there is no option {name}; ignored"));
    }
    if let Some(conflict) = stack.conflict() {
        say(
            &process,
            &format!("{conflict}; the default options are used"),
        );
    }
    process
}

/// What the program's environment needs.
struct Ready {
    /// Value of `LD_PRELOAD`.
    preload: OsString,
    /// The daemon's socket, when it is another one than the options say.
    socket: Option<String>,
}

/// Looks whether a program can be accelerated, and makes sure that a daemon is there.
fn prepare(options: &ProcessOpts, program: &Path) -> Result<Ready, Obstacle> {
    let library = places::library().ok_or(Obstacle::NoLibrary)?;
    let preload = preload::merge(&library, std::env::var_os("LD_PRELOAD"))?;
    target::examine(program)?;
    let daemon = daemon::ensure(options.socket.as_str())?;
    if let Some(error) = daemon.instead_of {
        say(
            options,
            &format!("{error}; going on with this user's own, without V-NICs"),
        );
    }
    let socket = daemon.socket;
    Ok(Ready { preload, socket })
}

/// One line for people, unless they asked for silence.
fn say(options: &ProcessOpts, line: &str) {
    if options.log > LogLevel::Off {
        eprintln!("flyover: {line}");
    }
}
