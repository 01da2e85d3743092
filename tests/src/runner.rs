//! Runs named cases one after the other, each with a time limit, and prints the summary.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cleanup;
use crate::cmd::tail;
use crate::lab::Setup;
use crate::lanes;
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
    /// Mostly waits, so two such cases run at a time.
    pub calm: bool,
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
            calm: false,
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

    /// The same, beside another calm one.
    pub fn calm(mut self) -> Self {
        self.calm = true;
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
    run_again(cases, setup, filters, false, None).map(|(summary, _)| summary)
}

/// The same. With `again`, what failed is run once more when all others are through: a case that fails now and then, on a
/// machine with other work for example, is told apart from one that fails. The summary names both, with their errors.
/// With `lane`, arguments that make this program a lane, the calm cases run in lanes, whose last words are returned.
pub fn run_again(
    cases: &[Case],
    setup: &Setup,
    filters: &[String],
    again: bool,
    lane: Option<&[String]>,
) -> Result<(Summary, Vec<Value>)> {
    let wanted = |case: &&Case| {
        let named = filters.is_empty() || filters.iter().any(|word| case.name.contains(word));
        named && !(setup.plain && case.only_flyover)
    };
    let cases: Vec<&Case> = cases.iter().filter(wanted).collect();
    let (calm, busy): (Vec<&Case>, Vec<&Case>) = match lane {
        Some(_) => cases.iter().partition(|case| case.calm),
        None => (Vec::new(), cases.clone()),
    };
    let mut failures = run_all(&busy, setup, cases.len())?;
    let mut last = Vec::new();
    if let (Some(lane), false) = (lane, calm.is_empty()) {
        let (failed, said) = lanes::run(&calm, lane, (busy.len(), cases.len()))?;
        failures.extend(failed);
        last = said;
    }
    let mut summary = Summary::default();
    let mut unsteady = Vec::new();
    if again && !failures.is_empty() {
        println!("once more: what failed");
        let failed: Vec<&Case> = failures.iter().map(|f| f.case).collect();
        let still = run_all(&failed, setup, failed.len())?;
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
    Ok((summary, last))
}

/// A case that failed, and the beginning of what it said.
pub struct Failure<'a> {
    /// Which.
    pub case: &'a Case,
    /// [`short`].
    pub error: String,
}

/// How a case ended.
pub struct Ended {
    seconds: f64,
    /// Why it failed.
    pub error: Option<String>,
    /// The ends of the logs, of a case that failed.
    logs: String,
}

impl Ended {
    /// For people: one line, or more of a case that failed.
    pub fn line(&self) -> String {
        let Self {
            seconds,
            error,
            logs,
        } = self;
        match error {
            None => format!(" ok      {seconds:>5.1} s"),
            Some(error) => format!(" FAILED  {seconds:>5.1} s\n    {}{logs}", indent(error)),
        }
    }
}

/// The beginning of an error, as one line.
pub fn short(error: &str) -> String {
    let line = error.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}

/// Cases that run one after the other.
pub struct Run<'a> {
    setup: &'a Setup,
    number: u32,
}

impl<'a> Run<'a> {
    /// None yet.
    pub fn new(setup: &'a Setup) -> Self {
        Self { setup, number: 0 }
    }

    /// Runs the next one, in a directory of its own.
    pub fn one(&mut self, case: &Case) -> Result<Ended> {
        let directory = cleanup::make_directory(self.number)?;
        self.number += 1;
        let begun = Instant::now();
        let result = run_one(
            case,
            &Setup {
                directory: directory.clone(),
                ..self.setup.clone()
            },
        );
        let seconds = begun.elapsed().as_secs_f64();
        cleanup::may_continue();
        let error = result.err().map(|error| format!("{error:#}"));
        let logs = match error {
            Some(_) => logs(&directory),
            None => String::new(),
        };
        cleanup::remove_directory(&directory);
        Ok(Ended {
            seconds,
            error,
            logs,
        })
    }
}

fn run_all<'a>(cases: &[&'a Case], setup: &Setup, all: usize) -> Result<Vec<Failure<'a>>> {
    let mut failures = Vec::new();
    let mut run = Run::new(setup);
    for (number, &case) in cases.iter().enumerate() {
        print!("[{:>2}/{all}] {:<44}", number + 1, case.name);
        std::io::stdout().flush()?;
        let ended = run.one(case)?;
        println!("{}", ended.line());
        if let Some(error) = ended.error.as_deref().map(short) {
            failures.push(Failure { case, error });
        }
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
fn logs(directory: &Path) -> String {
    let Ok(entries) = fs::read_dir(directory) else {
        return String::new();
    };
    let mut all = String::new();
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
            let end = indent(end.trim_end());
            all.push_str(&format!("\n    --- {name}\n    {end}"));
        }
    }
    all
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
