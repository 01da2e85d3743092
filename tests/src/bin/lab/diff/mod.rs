//! The differential suite: small programs that run plain and under Flyover, each with a plain kernel peer; what they
//! print must be the same, line by line.
//!
//! | file | what lives there |
//! |---|---|
//! | `program.rs` | a program of `tests/diff`: how it is built, which cases it has |
//! | `host.rs` | one of the two labs, with its peer: runs a case, says how it ended |
//! | `compare.rs` | the same case on both; where they differ |

mod compare;
pub mod host;
pub mod program;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use flyover_e2e::cleanup;
use flyover_e2e::runner::{self, Case};

pub use compare::{side_by_side, totals};
use program::{Mode, Program};

/// A file has this long for all its cases.
const LIMIT: Duration = Duration::from_secs(300);

#[derive(clap::Args)]
pub struct Args {
    /// Run only programs whose name contains one of these, or cases: `PROGRAM/CASE` (parts of both will do).
    filters: Vec<String>,
    /// Only this mode: v4, v6 or xdp (default: those that the program names).
    #[arg(long)]
    mode: Option<String>,
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
    mode: Option<Mode>,
    repeat: u32,
    show: bool,
}

impl Selection {
    /// Everything once, as in the complete run of the tests.
    fn everything() -> Self {
        Self {
            filters: Vec::new(),
            mode: None,
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
    let selection = Selection {
        filters: args.filters.clone(),
        mode: args.mode.as_deref().map(Mode::parse).transpose()?,
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
    println!("differential suite: {}", totals());
    println!("{} passed, {} failed", summary.passed, summary.failed);
    if summary.failed > 0 || summary.passed == 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// One case of the runner for every program of the suite.
pub fn cases(cases: &mut Vec<Case>) {
    match Program::all(&directory()) {
        Ok(programs) => {
            cases.extend(
                programs
                    .into_iter()
                    .map(|program| case(program, Selection::everything())),
            );
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
    let mut case = Case::new(format!("diff.{}", program.name), move |setup| {
        compare::program(setup, &program, &selection)
    });
    case.limit = limit;
    case
}
