//! `docs/socket-options.md` from the table.

use std::fmt::Write as _;

use super::{NOTES, Path, Row, TABLE, Unless, names};

const HEAD: &str = "\
# Socket options

Generated from the table in `crates/sockets/src/io/options`; do not edit.

Behind every accelerated descriptor is a kernel socket. It takes every option first, so values, lengths, privileges and
errors are Linux's own, and so is what `getsockopt` gives, except where only the stack knows. What an option means
for an accelerated socket besides:

- **yes**: the accelerated path honours it.
- **kept**: the kernel socket keeps it, and nothing on the accelerated path has to act on it.
- **kernel**: only the kernel does it. A socket that has no connection yet stays with the kernel from then on
  (`flyover ss` shows the reason `option`); a UDP socket and a listener stop taking packets from the V-NIC and go
  on with the kernel socket; an established connection is to be handed over. Values that ask for nothing leave the
  socket where it is; they stand in the note.
- **read**: can only be read.
- **-**: not an option of this protocol; the kernel says so.

An option that is not listed (of a newer kernel) counts as **kernel**. *Inherited*: an accepted connection starts with
the listener's value.
";

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(HEAD);
    let mut level = None;
    for ((row, name), more) in TABLE.iter().zip(names()).zip(NOTES) {
        if level != Some(row.level) {
            level = Some(row.level);
            let (title, page) = heading(row.level);
            // Writing to a String cannot fail.
            let _: std::fmt::Result = write!(
                out,
                "\n## {title} ({page})\n\n| option | TCP | UDP | inherited | |\n|---|---|---|---|---|\n"
            );
        }
        let _: std::fmt::Result = writeln!(
            out,
            "| `{}` | {} | {} | {} | {} |",
            name,
            word(row.tcp),
            word(row.udp),
            if row.inherited { "yes" } else { "" },
            note(row, more)
        );
    }
    out
}

fn heading(level: i32) -> (&'static str, &'static str) {
    match level {
        libc::SOL_SOCKET => ("SOL_SOCKET", "socket(7)"),
        libc::IPPROTO_TCP => ("IPPROTO_TCP", "tcp(7)"),
        libc::IPPROTO_IP => ("IPPROTO_IP", "ip(7)"),
        libc::IPPROTO_IPV6 => ("IPPROTO_IPV6", "ipv6(7)"),
        _ => ("IPPROTO_UDP", "udp(7)"),
    }
}

fn word(path: Path) -> &'static str {
    match path {
        Path::Stack => "yes",
        Path::Kept => "kept",
        Path::Moves(_) => "kernel",
        Path::Read => "read",
        Path::None => "-",
    }
}

fn note(row: &Row, more: &str) -> String {
    let unless = match (row.tcp, row.udp) {
        (Path::Moves(u), _) | (_, Path::Moves(u)) => match u {
            Unless::Never => "",
            Unless::Zero => "asks for nothing: 0 or empty",
            Unless::Negative => "asks for nothing: -1",
            Unless::Ones => "asks for nothing: unlimited",
            Unless::Without(_) => "asks for nothing: no flag of sending",
            Unless::Within(..) => "asks for nothing: WANT, DO, PROBE",
        },
        _ => "",
    };
    match (more, unless) {
        (n, "") => n.to_owned(),
        ("", u) => u.to_owned(),
        (n, u) => format!("{n}; {u}"),
    }
}
