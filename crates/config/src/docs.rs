//! Text made from the tables: `--help` lines and `docs/options.md`.

use std::fmt::Write as _;

use crate::problem::Takes;
use crate::table::{Category, Kind, Options, Spec};
use crate::{DaemonOpts, ProcessOpts, StackOpts};

/// Column at which descriptions start in `--help`.
const COLUMN: usize = 34;

/// One `--help` entry per option, for a program that takes the flags of `O`.
#[must_use]
pub fn help<O: Options>() -> String {
    let mut out = String::new();
    for (index, spec) in O::SPECS.iter().enumerate() {
        let left = format!("  --{}", flag_form(spec));
        let default = O::DEFAULT.shown(index).to_string();
        let default = if default.is_empty() { "none" } else { &default };
        // Writing to a String cannot fail.
        let _: std::fmt::Result = if left.chars().count() >= COLUMN {
            writeln!(out, "{left}\n{:COLUMN$}{} [{default}]", "", spec.short)
        } else {
            writeln!(out, "{left:COLUMN$}{} [{default}]", spec.short)
        };
    }
    out
}

/// `max-sockets N`, `vnic auto|packet|xdp`, `[no-]inherit`.
fn flag_form(spec: &Spec) -> String {
    match spec.kind {
        Kind::Switch => format!("[no-]{}", spec.flag),
        Kind::Pow2 { .. } => format!("{} N", spec.flag),
        Kind::Int { unit, .. } => {
            let placeholder = match unit {
                crate::Unit::Count => "N",
                crate::Unit::Bytes => "BYTES",
                crate::Unit::Micros => "USEC",
                crate::Unit::Millis => "MSEC",
                crate::Unit::Seconds => "SEC",
            };
            format!("{} {placeholder}", spec.flag)
        }
        Kind::Octal { .. } => format!("{} OCTAL", spec.flag),
        Kind::Choice(words) => format!("{} {}", spec.flag, words.join("|")),
        Kind::Text { what, .. } | Kind::List { what, .. } => format!("{} {what}", spec.flag),
    }
}

/// The whole of `docs/options.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Options\n\n\
         Generated from the tables in `crates/config`; do not edit.\n\n\
         Every option is an environment variable. Those of processes and stacks are flags of\n\
         `flyover run` as well, those of the daemon flags of `flyoverd`. A flag wins over the\n\
         variable. Switches take `on` and `off` (also 1/0, yes/no, true/false); as flags they are\n\
         `--name` and `--no-name`. Sizes in bytes take `K`, `M` and `G`.\n",
    );
    section::<ProcessOpts>(&mut out, Category::Process);
    section::<StackOpts>(&mut out, Category::Stack);
    section::<DaemonOpts>(&mut out, Category::Daemon);
    out
}

fn section<O: Options>(out: &mut String, category: Category) {
    let (title, intro) = match category {
        Category::Process => ("Process", "How one program uses its stack."),
        Category::Stack => (
            "Stack",
            "Fixed when a stack is made: the program that starts a stack decides. Table sizes are\n\
             rounded up to powers of two.",
        ),
        Category::Daemon => ("Daemon", "For `flyoverd`."),
    };
    let _: std::fmt::Result = writeln!(out, "\n## {title}\n\n{intro}");
    for (index, spec) in O::SPECS.iter().enumerate() {
        let default = O::DEFAULT.shown(index).to_string();
        let default = if default.is_empty() {
            "none".to_owned()
        } else {
            format!("`{default}`")
        };
        let long: Vec<&str> = spec.long.lines().map(str::trim).collect();
        let _: std::fmt::Result = write!(
            out,
            "\n### `{}`\n\nFlag `--{}`; default {default}; takes {}.\n\n{}\n",
            spec.env,
            flag_form(spec),
            Takes(&spec.kind),
            long.join("\n").trim(),
        );
    }
}
