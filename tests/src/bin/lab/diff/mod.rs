//! The differential suite: small programs that run plain and under Flyover, each with a plain kernel peer; what they
//! print must be the same, line by line.
//!
//! | file | what lives there |
//! |---|---|
//! | `program.rs` | a program of `tests/diff`: how it is built, which cases it has |
//! | `host.rs` | one of the two labs, with its peer: runs a case, says how it ended |
//! | `compare.rs` | the same case on both; where they differ |
//! | `count.rs` | how many were compared |

mod compare;
mod count;
pub mod host;
pub mod program;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use flyover_e2e::cleanup;
use flyover_e2e::runner::{self, Case};

pub use compare::side_by_side;
pub use count::{Count, count};
use program::{Mode, Program};

/// A file has this long for all its cases.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(clap::Args)]
pub struct Args {
    /// Run only programs whose name contains one of these, or cases: `PROGRAM/CASE` (parts of both will do).
    filters: Vec<String>,
    /// Only these modes: v4, v6, xdp, or of the local path lo4, lo6, late4, late6, own4 (default: those that the program
    /// names).
    #[arg(long, value_delimiter = ',')]
    mode: Vec<String>,
    /// All modes of the local path.
    #[arg(long, conflicts_with = "mode")]
    local: bool,
    /// Both sides plain: what differs then is not deterministic and no test.
    #[arg(long)]
    plain: bool,
    /// Run every case so often.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    /// Print what the cases print.
    #[arg(long)]
    show: bool,
    /// Directory with the programs (default: tests/diff of the source tree).
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// Which cases, and how.
#[derive(Clone, Debug)]
pub struct Selection {
    filters: Vec<String>,
    /// None: those that the program names.
    modes: Option<Vec<Mode>>,
    repeat: u32,
    show: bool,
}

impl Selection {
    /// Everything once, as in the complete run of the tests.
    fn everything(modes: Option<Vec<Mode>>) -> Self {
        Self {
            filters: Vec::new(),
            modes,
            repeat: 1,
            show: false,
        }
    }

    fn wants_program(&self, name: &str) -> bool {
        let part = |filter: &String| {
            let program = filter.split('/').next().unwrap_or_default();
            name.contains(program)
        };
        self.filters.is_empty() || self.filters.iter().any(part)
    }

    fn wants_case(&self, program: &str, case: &str) -> bool {
        let fits = |filter: &String| match filter.split_once('/') {
            Some((file, part)) => program.contains(file) && case.contains(part),
            None => program.contains(filter.as_str()),
        };
        self.filters.is_empty() || self.filters.iter().any(fits)
    }
}

/// `tests/diff` of the source tree.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("diff")
}

/// `lab diff`: the suite alone.
pub fn run(args: &Args) -> Result<()> {
    cleanup::prepare()?;
    let setup = runner::setup(args.plain)?;
    let named: Vec<Mode> = args
        .mode
        .iter()
        .map(|word| Mode::parse(word))
        .collect::<Result<_>>()?;
    let selection = Selection {
        filters: args.filters.clone(),
        modes: match named {
            _ if args.local => Some(Mode::LOCAL.to_vec()),
            named if named.is_empty() => None,
            named => Some(named),
        },
        repeat: args.repeat,
        show: args.show,
    };
    let programs = args.programs.clone().unwrap_or_else(directory);
    let mut cases = Vec::new();
    for program in Program::all(&programs)? {
        if selection.wants_program(&program.name) {
            cases.push(case(program, selection.clone()));
        }
    }
    let summary = runner::run(&cases, &setup, &[])?;
    cleanup::everything();
    println!("differential suite: {}", count());
    println!("{summary}");
    if summary.failed > 0 || summary.passed == 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// One case of the runner for every program of the suite.
pub fn cases(cases: &mut Vec<Case>) {
    match Program::all(&directory()) {
        Ok(programs) => {
            for program in programs {
                // Datagrams have no local path.
                if !program.name.contains("udp") {
                    let local = Selection::everything(Some(vec![Mode::Lo4]));
                    cases.push(case(program.clone(), local));
                }
                cases.push(case(program, Selection::everything(None)));
            }
        }
        Err(error) => {
            let text = format!("{error:#}");
            cases.push(Case::new("diff", move |_| anyhow::bail!("{text}")));
        }
    }
}

fn case(program: Program, selection: Selection) -> Case {
    // More seeds than usual are asked for by somebody who looks on.
    let longer = if std::env::var_os("DIFF_SEEDS").is_some() {
        100
    } else {
        1
    };
    let limit = LIMIT * selection.repeat * longer;
    let local = |modes: &Vec<Mode>| modes.iter().all(|mode| mode.local_after().is_some());
    let group = match &selection.modes {
        Some(modes) if local(modes) => "diff.local",
        _ => "diff",
    };
    let mut case = Case::new(format!("{group}.{}", program.name), move |setup| {
        compare::program(setup, &program, &selection)
    });
    case.limit = limit;
    case.calm()
}
