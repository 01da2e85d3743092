//! `flyover ss`: every socket that Flyover knows, in the layout of `ss -tuna`, with its path.
//!
//! ```text
//! row.rs      one socket, from a row of a stack's memory
//! kernel.rs   what the kernel knows of sockets, by cookie (NETLINK_SOCK_DIAG)
//! young.rs    connections within the host that the stack has no row of
//! render.rs   aligned columns
//! ```

mod kernel;
mod render;
mod row;
mod young;

use std::ffi::OsString;
use std::process::ExitCode;

use flyover_proto::Client;
use serde::Serialize;

use crate::daemon::DaemonError;
use crate::stacks::{self, StackInfo, View};
use crate::{Failure, Form, Outcome, help, show, show_json};
use row::{Netid, Row};

/// What to list.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wish {
    tcp: bool,
    udp: bool,
    only_listening: bool,
    all_namespaces: bool,
    form: Form,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Answer {
    sockets: Vec<Row>,
}

/// Runs `flyover ss`.
pub(crate) fn main(args: &[OsString]) -> Outcome {
    let wish = wish(args)?;
    if wish.form == Form::HelpShown {
        return Ok(ExitCode::SUCCESS);
    }
    let mut sockets = match stacks::connect_all() {
        Ok(mut daemons) => {
            let clients = daemons.iter_mut().map(|found| &mut found.client);
            let each = clients.map(|client| collect(client, &wish));
            each.collect::<anyhow::Result<Vec<_>>>()?.concat()
        }
        Err(error) if matches!(error.downcast_ref(), Some(DaemonError::NotRunning)) => {
            eprintln!("flyover: flyoverd is not running");
            Vec::new()
        }
        Err(error) => return Err(error.into()),
    };
    sockets.retain(|row| wanted(row, &wish));
    sockets.sort_by_key(Row::order);
    match wish.form {
        Form::Json => show_json(&Answer { sockets })?,
        Form::Text | Form::HelpShown => show(&render::text(&sockets)),
    }
    Ok(ExitCode::SUCCESS)
}

fn wish(args: &[OsString]) -> Result<Wish, Failure> {
    let mut wish = Wish {
        tcp: false,
        udp: false,
        only_listening: false,
        all_namespaces: false,
        form: Form::Text,
    };
    let mut all = false;
    for arg in args {
        let unknown = || Failure::Usage(format!("unknown argument {}", arg.display()));
        let word = arg.to_str().ok_or_else(unknown)?;
        match word {
            "--json" => wish.form = Form::Json,
            "--tcp" => wish.tcp = true,
            "--udp" => wish.udp = true,
            "--listening" => wish.only_listening = true,
            "--all" => all = true,
            "--numeric" => {}
            "--all-namespaces" => wish.all_namespaces = true,
            "--help" | "-h" => {
                show(help::SS);
                wish.form = Form::HelpShown;
                return Ok(wish);
            }
            _ => {
                let letters = word
                    .strip_prefix('-')
                    .filter(|l| !l.is_empty())
                    .ok_or_else(unknown)?;
                for letter in letters.chars() {
                    match letter {
                        't' => wish.tcp = true,
                        'u' => wish.udp = true,
                        'l' => wish.only_listening = true,
                        'a' => all = true,
                        'n' => {}
                        _ => return Err(unknown()),
                    }
                }
            }
        }
    }
    if !wish.tcp && !wish.udp {
        (wish.tcp, wish.udp) = (true, true);
    }
    wish.only_listening &= !all;
    Ok(wish)
}

fn wanted(row: &Row, wish: &Wish) -> bool {
    let proto = match row.proto {
        Netid::Tcp => wish.tcp,
        Netid::Udp => wish.udp,
        Netid::Unknown => wish.tcp && wish.udp,
    };
    proto && (!wish.only_listening || row.is_listening())
}

/// The sockets of all stacks of a daemon.
fn collect(client: &mut Client, wish: &Wish) -> anyhow::Result<Vec<Row>> {
    let own = stacks::own_netns()?;
    // For sockets of other namespaces the kernel does not answer here; they keep what the stack says.
    let kernel = kernel::sockets()?;
    let mut rows = Vec::new();
    for info in stacks::list(client)?.stacks {
        if info.netns != own && !wish.all_namespaces {
            continue;
        }
        // A stack may end while we look at others.
        match one(client, &info, &kernel) {
            Ok(more) => rows.extend(more),
            Err(error) => eprintln!("flyover: stack {}: {error:#}", info.id),
        }
    }
    Ok(rows)
}

fn one(
    client: &mut Client,
    info: &StackInfo,
    kernel: &kernel::Sockets,
) -> anyhow::Result<Vec<Row>> {
    let view = View::open(client, info.id)?;
    let stack = view.stack()?;
    let noted: Vec<_> = stack.rows().collect();
    let known = noted.iter().map(|r| r.cookie).collect();
    let mut rows: Vec<_> = noted
        .iter()
        .map(|r| Row::new(r, info, kernel.get(&r.cookie)))
        .collect();
    rows.extend(young::rows(info, &known, kernel));
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Wish, String> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        wish(&args).map_err(|e| match e {
            Failure::Usage(text) => text,
            Failure::Other(error) => error.to_string(),
        })
    }

    #[test]
    fn flags_of_ss() {
        let all = parse("").unwrap();
        assert!(all.tcp && all.udp && !all.only_listening);
        assert_eq!(parse("-tuna").unwrap(), all);
        let listening = parse("-tln").unwrap();
        assert!(listening.tcp && !listening.udp && listening.only_listening);
        assert!(!parse("-l -a").unwrap().only_listening);
        assert_eq!(parse("--udp --json").unwrap().form, Form::Json);
        assert_eq!(parse("-x").unwrap_err(), "unknown argument -x");
        assert_eq!(parse("-").unwrap_err(), "unknown argument -");
        assert_eq!(parse("tcp").unwrap_err(), "unknown argument tcp");
    }
}
