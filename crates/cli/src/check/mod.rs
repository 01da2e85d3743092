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

use serde::{Deserialize, Serialize};

use host::Source;

use crate::{Form, Outcome, help, only_json, show, show_json, stacks};

/// Everything that `check` finds out.
#[derive(Serialize)]
struct Report {
    version: &'static str,
    host: host::Host,
    interfaces: Vec<verdict::Judged>,
    /// Whether at least one interface can be accelerated.
    accelerated: bool,
    /// Whether programs of this user can reach one another through shared memory. That takes no privilege.
    local_path: bool,
}

/// Runs `flyover check`.
pub(crate) fn main(args: &[OsString]) -> Outcome {
    let form = only_json(args, help::CHECK)?;
    if form == Form::HelpShown {
        return Ok(ExitCode::SUCCESS);
    }
    let host = host::look();
    let mut interfaces: Vec<_> = iface::all()?
        .into_iter()
        .map(|i| verdict::judge(i, host.kernel))
        .collect();
    match host.vnics {
        Source::System => {
            if let Some(view) = daemon_view() {
                interfaces.iter_mut().for_each(|i| view.overrule(i));
            }
        }
        Source::User => interfaces.iter_mut().for_each(takes_root),
        Source::Nobody => {}
    }
    let accelerated = host.usable() && interfaces.iter().any(verdict::Judged::is_served);
    let local_path = host.local_works();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        host,
        interfaces,
        accelerated,
        local_path,
    };
    match form {
        Form::Json => show_json(&report)?,
        Form::Text | Form::HelpShown => show(&render::text(&report)),
    }
    Ok(if report.accelerated || report.local_path {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What an ordinary user's own daemon leaves of an interface.
fn takes_root(interface: &mut verdict::Judged) {
    if interface.vnic.take().is_some() {
        interface.why = "this user's own flyoverd makes no V-NICs".to_owned();
        interface.advice = host::ASK_ROOT.to_owned();
    }
}

/// The daemon's word on the same interfaces: it may be told to leave some alone.
#[derive(Deserialize, Default)]
#[serde(default)]
struct DaemonView {
    interfaces: Vec<DaemonInterface>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct DaemonInterface {
    ifindex: u32,
    vnic: Option<String>,
    why: String,
}

/// Asks a daemon that runs; what it says is a refinement, so silence is no failure.
fn daemon_view() -> Option<DaemonView> {
    serde_json::from_str(&stacks::connect().ok()?.client.check().ok()?).ok()
}

impl DaemonView {
    fn overrule(&self, ours: &mut verdict::Judged) {
        if let Some(theirs) = self.interfaces.iter().find(|i| i.ifindex == ours.ifindex)
            && theirs.vnic.is_none()
            && ours.vnic.is_some()
        {
            ours.vnic = None;
            ours.why.clone_from(&theirs.why);
            ours.advice = "see how flyoverd was started".to_owned();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_can_only_take_away() {
        let answer = r#"{"daemon_pid":1,"interfaces":[
            {"name":"veth0","ifindex":7,"vnic":null,"why":"not among the daemon's interfaces"}]}"#;
        let view: DaemonView = serde_json::from_str(answer).unwrap();
        let mut ours = verdict::judge(verdict::tests::veth(), host::Kernel(6, 18));
        assert!(ours.is_served());
        view.overrule(&mut ours);
        assert_eq!(
            (ours.vnic, ours.why.as_str()),
            (None, "not among the daemon's interfaces")
        );
        let before = ours.clone();
        DaemonView::default().overrule(&mut ours);
        assert_eq!(ours, before);
    }
}
