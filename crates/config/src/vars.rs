//! Options from environment variables.

use crate::problem::{OptError, Problem};
use crate::table::Options;

/// Every variable of Flyover starts with this.
pub const PREFIX: &str = "FLYOVER_";

/// Applies one variable if it is an option of `O`: `None` when it is not. An empty one counts as
/// not set, because that is how scripts and unit files unset variables.
pub fn apply<O: Options>(
    options: &mut O,
    name: &[u8],
    value: &[u8],
) -> Option<Result<(), OptError>> {
    if !name.starts_with(PREFIX.as_bytes()) {
        return None;
    }
    let index = O::SPECS.iter().position(|s| s.env.as_bytes() == name)?;
    Some(match core::str::from_utf8(value) {
        Ok("") => Ok(()),
        Ok(text) => options.set_at(index, text),
        Err(_) => Err(OptError::new(&O::SPECS[index], "?", Problem::NotUtf8)),
    })
}

/// Applies every variable that is an option of `O`. A bad value is reported and its option keeps
/// the value that it had.
pub fn apply_all<'v, O: Options>(
    options: &mut O,
    vars: impl Iterator<Item = (&'v [u8], &'v [u8])>,
    mut on_error: impl FnMut(OptError),
) {
    for (name, value) in vars {
        if let Some(Err(error)) = apply(options, name, value) {
            on_error(error);
        }
    }
}

/// Defaults overridden by the environment of this process.
///
/// # Errors
/// The first bad value.
#[cfg(feature = "std")]
pub fn from_env<O: Options>() -> Result<O, OptError> {
    use std::os::unix::ffi::OsStrExt as _;

    let mut options = O::DEFAULT;
    for (name, value) in std::env::vars_os() {
        apply(&mut options, name.as_bytes(), value.as_bytes()).transpose()?;
    }
    Ok(options)
}

/// Variables of this process that look like options and are none: probably misspelt.
#[cfg(feature = "std")]
#[must_use]
pub fn unknown_in_env() -> Vec<String> {
    std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with(PREFIX) && !is_known(name))
        .collect()
}

/// Whether any option has this variable.
#[must_use]
pub fn is_known(name: &str) -> bool {
    crate::StackOpts::SPECS
        .iter()
        .chain(crate::ProcessOpts::SPECS)
        .chain(crate::DaemonOpts::SPECS)
        .any(|s| s.env == name)
}
