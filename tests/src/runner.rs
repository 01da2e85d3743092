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
    /// Ended with an error or by force.
    pub failed: u32,
}

/// Runs the cases whose name contains one of `filters` (all, without a filter).
pub fn run(cases: &[Case], setup: &Setup, filters: &[String]) -> Result<Summary> {
    let wanted = |case: &&Case| {
        let named = filters.is_empty() || filters.iter().any(|word| case.name.contains(word));
        named && !(setup.plain && case.only_flyover)
    };
    let cases: Vec<&Case> = cases.iter().filter(wanted).collect();
    let mut summary = Summary::default();
    let mut failures = Vec::new();
    for (number, case) in cases.iter().enumerate() {
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
            Ok(()) => {
                summary.passed += 1;
                println!(" ok      {seconds:>5.1} s");
            }
            Err(error) => {
                summary.failed += 1;
                println!(
                    " FAILED  {seconds:>5.1} s\n    {}",
                    indent(&format!("{error:#}"))
                );
                print_logs(&directory);
                failures.push(case.name.clone());
            }
        }
        cleanup::remove_directory(&directory);
    }
    for name in &failures {
        println!("failed: {name}");
    }
    Ok(summary)
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
    })
}

/// `tests/programs` of the source tree, or a copy of it.
pub fn scripts() -> PathBuf {
    match std::env::var_os(SCRIPTS_VARIABLE) {
        Some(copy) => copy.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("programs"),
    }
}
