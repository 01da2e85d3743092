//! `flyover stackdump`: everything in a stack's memory. Field names come from the tables that the
//! shared objects are declared with, so nothing can be forgotten here.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::process::ExitCode;

use flyover_config::Options as _;
use flyover_core::sock::net::Net;
use flyover_core::stack::layout::Layout;
use flyover_core::tcp::tcb::Tcb;
use flyover_core::{Sock, Stack};
use flyover_shm::{Field, Object};
use flyover_vnic::NicState;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::daemon::Found;
use crate::stacks::{self, StackInfo, View};
use crate::{Failure, Form, Outcome, help, printable, show, show_json};

/// What to show.
struct Wish {
    /// Number or name of a stack; all when empty.
    stack: Option<String>,
    /// Also fields that are zero.
    zeros: bool,
    form: Form,
}

/// One stack, dumped.
#[derive(Serialize)]
struct Dump {
    #[serde(flatten)]
    info: StackInfo,
    options: Map<String, Value>,
    root: Map<String, Value>,
    counters: Map<String, Value>,
    nics: Vec<Map<String, Value>>,
    sockets: Vec<Map<String, Value>>,
}

/// Runs `flyover stackdump`.
pub(crate) fn main(args: &[OsString]) -> Outcome {
    let wish = wish(args)?;
    if wish.form == Form::HelpShown {
        return Ok(ExitCode::SUCCESS);
    }
    let mut dumps = Vec::new();
    for Found { mut client, .. } in stacks::connect_all()? {
        for info in stacks::list(&mut client)?.stacks {
            let named = |s: &String| info.id.to_string() == *s || info.name == *s;
            if wish.stack.as_ref().is_none_or(named) {
                let view = View::open(&mut client, info.id)?;
                dumps.push(dump(&view, info, wish.zeros)?);
            }
        }
    }
    if let (Some(stack), true) = (&wish.stack, dumps.is_empty()) {
        return Err(anyhow::anyhow!("there is no stack {stack}; see flyover ps").into());
    }
    match wish.form {
        Form::Json => show_json(&dumps)?,
        Form::Text | Form::HelpShown => {
            dumps.iter().for_each(|d| show(&text(d)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn wish(args: &[OsString]) -> Result<Wish, Failure> {
    let mut wish = Wish {
        stack: None,
        zeros: false,
        form: Form::Text,
    };
    for arg in args {
        match arg.to_str() {
            Some("--json") => wish.form = Form::Json,
            Some("--all") => wish.zeros = true,
            Some("--help" | "-h") => {
                show(help::STACKDUMP);
                wish.form = Form::HelpShown;
                return Ok(wish);
            }
            Some(word) if !word.starts_with('-') && wish.stack.is_none() => {
                wish.stack = Some(word.to_owned());
            }
            _ => {
                return Err(Failure::Usage(format!(
                    "unknown argument {}",
                    arg.display()
                )));
            }
        }
    }
    Ok(wish)
}

fn dump(view: &View, info: StackInfo, zeros: bool) -> anyhow::Result<Dump> {
    let stack = view.stack()?;
    let layout = Layout::new(stack.opts());
    let mut options = Map::new();
    for (index, spec) in flyover_config::StackOpts::SPECS.iter().enumerate() {
        options.insert(
            spec.name.to_owned(),
            stack.opts().shown(index).to_string().into(),
        );
    }
    let mut counters = Map::new();
    stack
        .stats()
        .each(|name, _, value| put(&mut counters, name, value, zeros));
    // The names come after the raw words, and replace those of the same name.
    let nics = info
        .vnics
        .iter()
        .map(|v| {
            let mut nic = Map::new();
            let at = layout.nics + v.slot as usize * size_of::<NicState>();
            fields::<NicState>(view, at, zeros, &mut nic);
            nic.insert("slot".to_owned(), v.slot.into());
            nic.insert("kind".to_owned(), v.kind.clone().into());
            nic.insert("interface".to_owned(), v.interface.clone().into());
            nic
        })
        .collect();
    let sockets = stack
        .rows()
        .map(|row| {
            let mut sock = Map::new();
            let at = layout.socks + row.id.id.raw() as usize * size_of::<Sock>();
            fields::<Sock>(view, at, zeros, &mut sock);
            if stack.net_of(row.id.id).is_some() {
                let at = layout.nets + row.id.id.raw() as usize * size_of::<Net>();
                fields::<Net>(view, at, zeros, &mut sock);
            }
            sock.insert("slot".to_owned(), row.id.id.raw().into());
            sock.insert(
                "kind".to_owned(),
                format!("{:?}", row.kind).to_lowercase().into(),
            );
            sock.insert("state".to_owned(), row.state.ss_name().into());
            sock.insert("local".to_owned(), row.local.to_string().into());
            sock.insert("remote".to_owned(), row.remote.to_string().into());
            sock
        })
        .collect();
    Ok(Dump {
        info,
        options,
        root: root(stack),
        counters,
        nics,
        sockets,
    })
}

/// What the root object says, less its secrets.
fn root(stack: Stack<'_>) -> Map<String, Value> {
    let limits = stack.limits();
    let owner = match stack.lock().owner() {
        Some(owner) => Value::from(owner),
        None => Value::from("free"),
    };
    [
        ("lock", owner),
        ("polls", stack.poll_seq().into()),
        ("attended_ns", stack.attended().0.into()),
        ("nic_generation", stack.nic_gen().into()),
        ("sockets_used", stack.socks_used().into()),
        ("sockets_max", limits.socks.into()),
        ("buffers_used", stack.buf_usage().0.into()),
        ("buffers_max", limits.bufs.into()),
        ("items_used", stack.items_used().into()),
        ("items_max", limits.items.into()),
        ("sets_max", limits.sets.into()),
        ("waiters_max", limits.waiters.into()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

fn put(into: &mut Map<String, Value>, name: &str, value: u64, zeros: bool) {
    if zeros || value != 0 {
        into.insert(name.to_owned(), value.into());
    }
}

/// Adds the fields of the object at byte `at` of the stack's memory.
fn fields<T: Object>(view: &View, at: usize, zeros: bool, into: &mut Map<String, Value>) {
    let mut bytes = vec![0; size_of::<T>()];
    let copied = view.copy_out(at, &mut bytes);
    bytes.truncate(copied);
    table(T::FIELDS, &bytes, "", zeros, into);
}

/// Words by their names; nested objects by their own tables; long arrays (free frames) not at all.
fn table(fields: &[Field], bytes: &[u8], prefix: &str, zeros: bool, into: &mut Map<String, Value>) {
    for field in fields {
        let Some(value) = bytes.get(field.offset..field.offset + field.size) else {
            continue;
        };
        let name = format!("{prefix}{}", field.name);
        match (field.name, word(value)) {
            (_, Some(number)) => put(into, &name, number, zeros),
            ("tcb", None) => table(Tcb::FIELDS, value, "tcb.", zeros, into),
            ("count", None) => {
                table(flyover_vnic::NicCounters::FIELDS, value, "", zeros, into);
            }
            (_, None) => {}
        }
    }
}

/// A number of 1, 2, 4 or 8 bytes.
fn word(bytes: &[u8]) -> Option<u64> {
    match *bytes {
        [a] => Some(u64::from(a)),
        [a, b] => Some(u64::from(u16::from_ne_bytes([a, b]))),
        [a, b, c, d] => Some(u64::from(u32::from_ne_bytes([a, b, c, d]))),
        [a, b, c, d, e, f, g, h] => Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

fn text(dump: &Dump) -> String {
    let mut out = format!("stack {} ({})\n", dump.info.id, printable(&dump.info.name));
    section(&mut out, "root", &dump.root);
    section(&mut out, "options", &dump.options);
    section(&mut out, "counters", &dump.counters);
    for f in &dump.info.filters {
        let remote = f.remote.as_deref().unwrap_or("any");
        let _: std::fmt::Result = writeln!(
            out,
            "  filter {}: {} {} from {remote}",
            f.id, f.protocol, f.local
        );
    }
    for nic in &dump.nics {
        section(&mut out, &title(nic, &["kind", "interface"]), nic);
    }
    for sock in &dump.sockets {
        section(
            &mut out,
            &title(sock, &["kind", "state", "local", "remote"]),
            sock,
        );
    }
    out.push('\n');
    out
}

/// What tells one object from another of its sort.
fn title(fields: &Map<String, Value>, names: &[&str]) -> String {
    let words = names.iter().filter_map(|name| fields.get(*name)?.as_str());
    printable(&words.collect::<Vec<_>>().join(" "))
}

/// A title and `name=value` words, as many as fit on lines of a readable length.
fn section(out: &mut String, title: &str, fields: &Map<String, Value>) {
    const LINE: usize = 100;
    let mut line = format!("  {title}:");
    for (name, value) in fields {
        let mut word = format!(" {name}=");
        // Writing to a String cannot fail.
        let _: std::fmt::Result = match value {
            Value::String(text) => write!(word, "{text}"),
            other => write!(word, "{other}"),
        };
        if line.len() + word.len() > LINE {
            out.push_str(&line);
            out.push('\n');
            line = "   ".to_owned();
        }
        line.push_str(&word);
    }
    out.push_str(&line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_by_their_tables() {
        let mut bytes = vec![0; size_of::<Net>()];
        let field = |fields: &[Field], name: &str| {
            fields
                .iter()
                .find(|f| f.name == name)
                .map(|f| f.offset)
                .unwrap()
        };
        bytes[field(Net::FIELDS, "backlog")] = 7;
        let nested = field(Net::FIELDS, "tcb") + field(Tcb::FIELDS, "snd_nxt");
        bytes[nested..nested + 4].copy_from_slice(&1000u32.to_ne_bytes());
        let mut some = Map::new();
        table(Net::FIELDS, &bytes, "", false, &mut some);
        assert_eq!(some.len(), 2);
        assert_eq!(
            (&some["backlog"], &some["tcb.snd_nxt"]),
            (&7.into(), &1000.into())
        );
        let mut all = Map::new();
        table(Net::FIELDS, &bytes, "", true, &mut all);
        assert!(all.len() > 60);
        // a short copy shows what it has
        table(Net::FIELDS, &bytes[..10], "", true, &mut Map::new());
    }

    #[test]
    fn lines_are_of_readable_length() {
        let fields: Map<String, Value> = (0..40)
            .map(|i| (format!("counter_{i:02}"), Value::from(i)))
            .collect();
        let mut out = String::new();
        section(&mut out, "counters", &fields);
        assert!(out.lines().all(|l| l.len() <= 100) && out.lines().count() > 3);
    }
}
