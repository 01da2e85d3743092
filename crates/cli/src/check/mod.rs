//! `flyover check`: what this machine can do, interface by interface. Changes nothing.
//!
//! ```text
//! host.rs       kernel, privileges, limits, the parts of Flyover
//! iface.rs      facts of one interface
//! verdict.rs    from facts to "how, why, and what to do"
//! render.rs     for people; for programs the same structs as JSON
//! ```

mod host;
mod iface;
mod render;
mod verdict;

use std::ffi::OsString;
use std::process::ExitCode;

use serde::Serialize;

use crate::{Form, Outcome, help, only_json, show, show_json};

/// Everything that `check` finds out.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    host: host::Host,
    interfaces: Vec<verdict::Judged>,
    /// Whether at least one interface can be accelerated.
    accelerated: bool,
}

/// Runs `flyover check`.
pub(crate) fn main(args: &[OsString]) -> Outcome {
    let form = only_json(args, help::CHECK)?;
    if form == Form::HelpShown {
        return Ok(ExitCode::SUCCESS);
    }
    let host = host::look();
    let interfaces: Vec<_> = iface::all()?
        .into_iter()
        .map(|i| verdict::judge(i, host.kernel))
        .collect();
    let accelerated = host.usable() && interfaces.iter().any(verdict::Judged::is_served);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        host,
        interfaces,
        accelerated,
    };
    match form {
        Form::Json => show_json(&report)?,
        Form::Text | Form::HelpShown => show(&render::text(&report)),
    }
    Ok(if report.accelerated {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
