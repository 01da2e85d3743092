//! Runs named cases one after the other, each with a time limit, and prints the summary.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cleanup;
use crate::cmd::tail;
use crate::lab::Setup;
use crate::local::SCRIPTS_VARIABLE;
use crate::procfs;
use crate::wiring;

/// What a case does with its own [`Setup`].
type Work = Box<dyn Fn(&Setup) -> Result<()> + Send + Sync>;

/// One named test.
pub struct Case {
    /// `group.case.side`.
    pub name: String,
    /// When it is ended by force.
    pub limit: Duration,
    /// Makes no sense without Flyover, so `--plain` leaves it out.
    pub only_flyover: bool,
    work: Work,
}

impl Case {
    /// A case with the usual time limit.
    pub fn new(
        name: impl Into<String>,
        work: impl Fn(&Setup) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        let limit = Duration::from_secs(90);
        Self {
            name: name.into(),
            limit,
            only_flyover: false,
            work: Box::new(work),
        }
    }

    /// The same with another time limit.
    pub fn lasting(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same, left out of runs without Flyover.
    pub fn only_flyover(mut self) -> Self {
        self.only_flyover = true;
        self
    }
}

/// How many cases did what.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Ended without an error.
    pub passed: u32,
    /// Of those, the ones that had failed at first.
    pub unsteady: u32,
    /// Ended with an error or by force.
    pub failed: u32,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        match self.unsteady {
            0 => Ok(()),
            n => write!(f, "; {n} of the passed ones at the second attempt only"),
        }
    }
}

/// Runs the cases whose name contains one of `filters` (all, without a filter), once each.
pub fn run(cases: &[Case], setup: &Setup, filters: &[String]) -> Result<Summary> {
    run_again(cases, setup, filters, false)
}

/// The same. With `again`, what failed is run once more when all others are through: a case that fails now and then, on a
/// machine with other work for example, is told apart from one that fails. The summary names both, with their errors.
pub fn run_again(
    cases: &[Case],
    setup: &Setup,
    filters: &[String],
    again: bool,
) -> Result<Summary> {
    let wanted = |case: &&Case| {
        let named = filters.is_empty() || filters.iter().any(|word| case.name.contains(word));
        named && !(setup.plain && case.only_flyover)
    };
    let cases: Vec<&Case> = cases.iter().filter(wanted).collect();
    let mut failures = run_all(&cases, setup)?;
    let mut summary = Summary::default();
    let mut unsteady = Vec::new();
    if again && !failures.is_empty() {
        println!("once more: what failed");
        let failed: Vec<&Case> = failures.iter().map(|f| f.case).collect();
        let still = run_all(&failed, setup)?;
        let stays = |f: &Failure<'_>| still.iter().any(|s| s.case.name == f.case.name);
        unsteady = failures.extract_if(.., |f| !stays(f)).collect();
    }
    for (what, list) in [("passed the second time", &unsteady), ("failed", &failures)] {
        for Failure { case, error } in list {
            println!("{what}: {}: {error}", case.name);
        }
    }
    summary.failed = u32::try_from(failures.len())?;
    summary.unsteady = u32::try_from(unsteady.len())?;
    summary.passed = u32::try_from(cases.len())? - summary.failed;
    Ok(summary)
}

/// A case that failed, and the beginning of what it said.
struct Failure<'a> {
    case: &'a Case,
    error: String,
}

fn run_all<'a>(cases: &[&'a Case], setup: &Setup) -> Result<Vec<Failure<'a>>> {
    let mut failures = Vec::new();
    for (number, &case) in cases.iter().enumerate() {
        print!("[{:>2}/{}] {:<44}", number + 1, cases.len(), case.name);
        std::io::stdout().flush()?;
        let directory = cleanup::make_directory(u32::try_from(number)?)?;
        let begun = Instant::now();
        let result = run_one(
            case,
            &Setup {
                directory: directory.clone(),
                ..setup.clone()
            },
        );
        let seconds = begun.elapsed().as_secs_f64();
        cleanup::may_continue();
        match result {
            Ok(()) => println!(" ok      {seconds:>5.1} s"),
            Err(error) => {
                let error = format!("{error:#}");
                println!(" FAILED  {seconds:>5.1} s\n    {}", indent(&error));
                print_logs(&directory);
                let line = error.split_whitespace().collect::<Vec<_>>().join(" ");
                let error = line.chars().take(300).collect();
                failures.push(Failure { case, error });
            }
        }
        cleanup::remove_directory(&directory);
    }
    Ok(failures)
}

/// Runs one case beside a watchdog, which kills every process of the run when the time is over:
/// whatever the case waits for then fails.
fn run_one(case: &Case, setup: &Setup) -> Result<()> {
    let (done, finished) = mpsc::channel::<()>();
    let limit = case.limit;
    let name = case.name.clone();
    let watchdog = std::thread::spawn(move || {
        if finished.recv_timeout(limit) != Err(mpsc::RecvTimeoutError::Timeout) {
            return false;
        }
        cleanup::kill_all(&procfs::descendants(std::process::id()));
        if finished.recv_timeout(Duration::from_secs(30)) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!(" FAILED: {name} hangs although its processes were killed");
            cleanup::everything();
            std::process::exit(1);
        }
        true
    });
    let result = (case.work)(setup);
    let _ = done.send(());
    let timed_out = watchdog.join().unwrap_or(true);
    match (timed_out, result) {
        (false, result) => result,
        (true, Ok(())) => anyhow::bail!("took longer than {limit:?}"),
        (true, Err(error)) => Err(error).context(format!("took longer than {limit:?}")),
    }
}

fn indent(text: &str) -> String {
    text.replace('\n', "\n    ")
}

/// The end of everything that the programs of a failed case printed.
fn print_logs(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut logs: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|end| end == "out" || end == "err")
        })
        .collect();
    logs.sort();
    for path in logs {
        // What is no text is payload.
        let Ok(text) = String::from_utf8(fs::read(&path).unwrap_or_default()) else {
            continue;
        };
        if !text.trim().is_empty() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let end: String = tail(&text, 12).chars().take(2000).collect();
            println!("    --- {name}\n    {}", indent(end.trim_end()));
        }
    }
}

/// The end of a runner: an error is printed as one chain of causes.
pub fn report(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The directory of the running program: where Cargo put everything that was built.
pub fn built_programs() -> Result<PathBuf> {
    let program = std::env::current_exe().context("finding the program's own path")?;
    Ok(program
        .parent()
        .context("the program has no directory")?
        .to_owned())
}

/// A [`Setup`] with the programs that were built beside this one.
///
/// # Errors
/// They were not built; `plain` ones need nothing of Flyover.
pub fn setup(plain: bool) -> Result<Setup> {
    let bin = built_programs()?;
    ensure!(
        plain || wiring::is_built(&bin),
        "{} holds no flyover, flyoverd and libflyover.so: build the workspace first, or use --plain",
        bin.display()
    );
    Ok(Setup {
        bin,
        programs: scripts(),
        directory: std::env::temp_dir(),
        plain,
        options: Vec::new(),
        daemon_options: Vec::new(),
    })
}

/// `tests/programs` of the source tree, or a copy of it.
pub fn scripts() -> PathBuf {
    match std::env::var_os(SCRIPTS_VARIABLE) {
        Some(copy) => copy.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("programs"),
    }
}
