//! `flyover ps`: stacks, their processes, V-NICs and memory.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::daemon::{DaemonError, Found};
use crate::stacks::{self, StackInfo, Stacks, View};
use crate::{Form, Outcome, help, only_json, printable, show, show_json};

/// Runs `flyover ps`.
pub(crate) fn main(args: &[OsString]) -> Outcome {
    let form = only_json(args, help::PS)?;
    if form == Form::HelpShown {
        return Ok(ExitCode::SUCCESS);
    }
    let stacks = match stacks::connect_all() {
        Ok(daemons) => collect(daemons)?,
        // No daemon has no stacks: that is an answer.
        Err(error) if matches!(error.downcast_ref(), Some(DaemonError::NotRunning)) => {
            eprintln!("flyover: flyoverd is not running");
            Stacks::default()
        }
        Err(error) => return Err(error.into()),
    };
    match form {
        Form::Json => show_json(&stacks)?,
        Form::Text | Form::HelpShown => show(&text(&stacks)),
    }
    Ok(ExitCode::SUCCESS)
}

fn collect(daemons: Vec<Found>) -> anyhow::Result<Stacks> {
    let mut all: Option<Stacks> = None;
    for Found { mut client, .. } in daemons {
        let mut list = stacks::list(&mut client)?;
        for stack in &mut list.stacks {
            // A stack that is being made or unmade has no memory to look at.
            if let Ok(view) = View::open(&mut client, stack.id) {
                stack.used_bytes = Some(view.used_bytes());
                stack.sockets = view.stack().ok().map(|s| s.socks_used());
            }
        }
        match &mut all {
            None => all = Some(list),
            Some(all) => {
                all.own_daemon = Some(list.daemon);
                all.stacks.extend(list.stacks);
            }
        }
    }
    Ok(all.unwrap_or_default())
}

fn text(stacks: &Stacks) -> String {
    if stacks.stacks.is_empty() {
        return "no stacks\n".to_owned();
    }
    let blocks: Vec<String> = stacks.stacks.iter().map(block).collect();
    blocks.join("\n")
}

fn block(stack: &StackInfo) -> String {
    let keeper = match stack.keeper_pid {
        Some(pid) => format!("keeper {pid}"),
        None => "no keeper".to_owned(),
    };
    let filters = match stack.filters.len() {
        1 => "1 filter".to_owned(),
        n => format!("{n} filters"),
    };
    let lent = match stack.lent_ports {
        0 => String::new(),
        n => format!(", {n} ports lent"),
    };
    let mut lines = vec![format!(
        "stack {} ({}), user {}{}, {}, {}, {keeper}, {filters}{lent}",
        stack.id,
        printable(&stack.name),
        stack.uid,
        if stack.shared { " and others" } else { "" },
        stack.netns,
        size(stack.memory_bytes),
    )];
    if !matches!(stack.state.as_str(), "live" | "") {
        lines.push(format!("  being changed right now ({})", stack.state));
    }
    if let (Some(used), Some(sockets)) = (stack.used_bytes, stack.sockets) {
        lines.push(memory(used, sockets));
    }
    for v in &stack.vnics {
        lines.push(format!(
            "  vnic {:<2} {:<6} {} queue {}",
            v.slot, v.kind, v.interface, v.queue
        ));
    }
    for p in &stack.problems {
        lines.push(format!("  no vnic on interface {}: {}", p.ifindex, p.why));
    }
    for p in &stack.processes {
        lines.push(format!("  process {:<7} {}", p.pid, printable(&p.command)));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What the stack's memory costs. The share of a socket says something only when there are many.
fn memory(used: u64, sockets: u32) -> String {
    let share = if sockets >= SOME {
        format!(", {} bytes each", used / u64::from(sockets))
    } else {
        String::new()
    };
    let s = if sockets == 1 { "" } else { "s" };
    format!("  {} in use, {sockets} socket{s}{share}", size(used))
}

/// Sockets from which on the memory is theirs rather than the stack's own.
const SOME: u32 = 1000;

/// Bytes in the largest unit that leaves at least one.
fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{}.{} GiB", b >> 30, ((b >> 20) & 1023) * 10 / 1024),
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b => format!("{} KiB", b >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_like_this() {
        let answer = r#"{"daemon":{"pid":1},"stacks":[{"id":1,"name":"default","uid":0,
            "netns":"net:[4026531840]","state":"live","memory_bytes":83886080,"keeper_pid":40,
            "processes":[{"pid":123,"owner":1,"command":"redis-server"}],"new_field":[1],
            "vnics":[{"slot":0,"kind":"packet","interface":"eth0","ifindex":2,"queue":0}],
            "problems":[{"ifindex":3,"why":"too many"}],
            "filters":[{"id":1,"protocol":"tcp","local":"0.0.0.0:80","remote":null}],"lent_ports":64},
            {"id":2,"name":"web","state":"making"}]}"#;
        let stacks: Stacks = serde_json::from_str(answer).unwrap();
        assert_eq!(
            text(&stacks),
            "\
stack 1 (default), user 0, net:[4026531840], 80 MiB, keeper 40, 1 filter, 64 ports lent
  vnic 0  packet eth0 queue 0
  no vnic on interface 3: too many
  process 123     redis-server

stack 2 (web), user 0, , 0 KiB, no keeper, 0 filters
  being changed right now (making)
"
        );
        assert_eq!(stacks.stacks[0].kind_of(0), Some("packet"));
        assert_eq!(stacks.stacks[0].kind_of(1), None);
    }

    #[test]
    fn memory_is_shared_out_among_many() {
        assert_eq!(memory(5 << 20, 1), "  5 MiB in use, 1 socket");
        assert_eq!(
            memory(100 << 20, 50_000),
            "  100 MiB in use, 50000 sockets, 2097 bytes each"
        );
    }

    #[test]
    fn sizes() {
        assert_eq!(size(1536 << 20), "1.5 GiB");
        assert_eq!(size(4096), "4 KiB");
    }
}
