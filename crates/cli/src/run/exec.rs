//! Becoming the program.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{Access, access};

/// As shells do.
const NOT_FOUND: u8 = 127;
/// As shells do.
const NOT_EXECUTABLE: u8 = 126;
/// What execvp(3) uses when there is no `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// A program with arguments and changes of its environment.
#[derive(Debug)]
pub(crate) struct Exec {
    program: OsString,
    command: Command,
}

impl Exec {
    pub(crate) fn new(program: OsString, args: Vec<OsString>) -> Self {
        let mut command = Command::new(&program);
        command.args(args);
        Self { program, command }
    }

    /// Sets an environment variable.
    pub(crate) fn set(&mut self, name: &str, value: OsString) {
        self.command.env(name, value);
    }

    /// The file that will be executed; `None` when there is none.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        if self.program.as_bytes().contains(&b'/') {
            return Some(PathBuf::from(&self.program));
        }
        let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        std::env::split_paths(&path)
            .map(|dir| dir.join(&self.program))
            .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
    }

    /// Becomes the program. Returns when that is impossible, with the status that shells have for
    /// the reason.
    pub(crate) fn exec(mut self) -> ExitCode {
        let error = self.command.exec();
        eprintln!(
            "flyover run: {}: {}",
            Path::new(&self.program).display(),
            reason(&error)
        );
        ExitCode::from(status(&error))
    }
}

fn status(error: &std::io::Error) -> u8 {
    if error.kind() == ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    }
}

/// The text without Rust's "(os error N)".
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_path() {
        assert!(Exec::new("sh".into(), vec![]).path().is_some());
        assert_eq!(Exec::new("no such program".into(), vec![]).path(), None);
        assert_eq!(
            Exec::new("./x/y".into(), vec![]).path(),
            Some("./x/y".into())
        );
    }

    #[test]
    fn statuses() {
        use std::io::Error;
        assert_eq!(status(&Error::from_raw_os_error(2)), NOT_FOUND);
        assert_eq!(status(&Error::from_raw_os_error(13)), NOT_EXECUTABLE);
        assert_eq!(status(&Error::from_raw_os_error(8)), NOT_EXECUTABLE);
        assert_eq!(reason(&Error::from_raw_os_error(13)), "Permission denied");
    }
}
