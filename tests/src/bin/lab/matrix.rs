//! The life of a process as a matrix (`tests/matrix`): kinds of object x what happens to their holders x states. Every
//! cell runs plain and under Flyover, at the same time, with a plain peer; what it prints must be the same, line by
//! line. Where a cell asks for the path of its socket, `flyover ss --json` answers.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flyover_e2e::cleanup;
use flyover_e2e::lab::{Host, Lab, Setup, Side};
use flyover_e2e::runner::{self, Case};

use crate::diff::host::{Hosts, Outcome};
use crate::diff::program::{Mode, compile};
use crate::diff::side_by_side;

/// The whole matrix has this long on a machine with other work.
const LIMIT: Duration = Duration::from_secs(300);
/// Cells that run at the same time: they wait more than they compute.
const AT_ONCE: usize = 4;

#[derive(clap::Args)]
pub struct Args {
    /// Only cells `KIND.EVENT.STATE` that contain one of these.
    filters: Vec<String>,
    /// v4, v6, xdp, or of the local path lo4, lo6, late4, late6, own4.
    #[arg(long, default_value = "v4")]
    mode: String,
    /// Both sides plain: what differs then is not deterministic and no test.
    #[arg(long)]
    plain: bool,
    /// Print what the cells print.
    #[arg(long)]
    show: bool,
    /// Print the cells, and why those that cannot be are impossible; run nothing.
    #[arg(long)]
    list: bool,
    /// Run every cell so often.
    #[arg(long, default_value_t = 1)]
    repeat: usize,
}

/// Which cells, and how.
#[derive(Clone, Debug)]
struct Selection {
    filters: Vec<String>,
    mode: Mode,
    show: bool,
    repeat: usize,
}

impl Selection {
    fn wants(&self, cell: &str) -> bool {
        let within = |filter: &String| cell.contains(filter.as_str());
        self.filters.is_empty() || self.filters.iter().any(within)
    }
}

/// `lab matrix`: the matrix alone.
pub fn run(args: &Args) -> Result<()> {
    cleanup::prepare()?;
    let setup = runner::setup(args.plain)?;
    let selection = Selection {
        filters: args.filters.clone(),
        mode: Mode::parse(&args.mode)?,
        show: args.show,
        repeat: args.repeat,
    };
    if args.list {
        return list(&cleanup::make_directory(0)?);
    }
    let limit = LIMIT * u32::try_from(args.repeat)?;
    let case = Case::new("matrix", move |setup| matrix(setup, &selection)).lasting(limit);
    let summary = runner::run(&[case], &setup, &[])?;
    cleanup::everything();
    if summary.failed > 0 || summary.passed == 0 {
        std::process::exit(1);
    }
    Ok(())
}

/// The matrix as a case of the complete run, and once more over AF_XDP for what is idle.
pub fn cases(cases: &mut Vec<Case>) {
    for (name, filters, mode) in [
        ("matrix", &[][..], Mode::V4),
        (
            "matrix.xdp",
            &["fork_exec.mid", "rights.mid"][..],
            Mode::Xdp,
        ),
        ("matrix.local", &[][..], Mode::Lo4),
    ] {
        let selection = Selection {
            filters: filters.iter().map(|&f| f.to_owned()).collect(),
            mode,
            show: false,
            repeat: 1,
        };
        let case = Case::new(name, move |setup| matrix(setup, &selection));
        cases.push(case.lasting(LIMIT).only_flyover().calm());
    }
}

/// Owner of a program that changes the user.
const NOBODY: u32 = 65_534;

/// Compiles the program and its twins, into which the loader preloads nothing.
fn build(directory: &Path) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("matrix/matrix.c");
    let program = directory.join("matrix");
    compile(&source, &program, &[])?;
    let twin = directory.join("matrix-static");
    compile(&source, &twin, &["-static".to_owned()])?;
    compile(&source, &directory.join("matrix-m32"), &["-m32".to_owned()])?;
    let twin = directory.join("matrix-setuid");
    std::fs::copy(&program, &twin)?;
    std::os::unix::fs::chown(&twin, Some(NOBODY), None)?;
    std::fs::set_permissions(&twin, Permissions::from_mode(0o4755))?;
    Ok(program)
}

/// Names of the cells, and of those that cannot be the reason.
fn cells(program: &Path) -> Result<Vec<(String, Option<String>)>> {
    let output = Command::new(program).arg("list").output()?;
    ensure!(
        output.status.success(),
        "{} list: {}",
        program.display(),
        output.status
    );
    let text = String::from_utf8(output.stdout)?;
    let cell = |line: &str| match line.split_once('\t') {
        Some((name, why)) => (name.to_owned(), Some(why.to_owned())),
        None => (line.to_owned(), None),
    };
    Ok(text.lines().map(cell).collect())
}

fn list(directory: &Path) -> Result<()> {
    for (name, why) in cells(&build(directory)?)? {
        println!("{name}{}", why.map_or(String::new(), |w| format!(": {w}")));
    }
    cleanup::remove_directory(directory);
    Ok(())
}

/// Runs the chosen cells; an error lists every difference.
fn matrix(setup: &Setup, selection: &Selection) -> Result<()> {
    let program = build(&setup.directory)?;
    let peer = setup.directory.join("peer");
    compile(&crate::diff::directory().join("peer.c"), &peer, &[])?;
    let hosts = |name: &str, side: Side| {
        let directory = setup.directory.join(name);
        let setup = Setup {
            directory,
            ..setup.clone()
        };
        Hosts::new(&setup, side, &peer, &[selection.mode])
    };
    let wanted = cells(&program)?
        .into_iter()
        .filter(|(name, why)| why.is_none() && selection.wants(name))
        .flat_map(|(name, _)| std::iter::repeat_n(name, selection.repeat));
    let table = Table {
        plain: hosts("plain", Side::Neither)?,
        flyover: hosts("flyover", Side::Client)?,
        words: vec![program],
        mode: selection.mode,
        show: selection.show,
        paths: setup.directory.join("paths.sock"),
        is_plain: setup.plain,
    };
    let report = table.run(wanted.collect())?;
    table.plain.finish()?;
    table.flyover.finish()?;
    if !report.is_empty() {
        bail!("{}", report.trim_end());
    }
    Ok(())
}

struct Table {
    plain: Hosts,
    flyover: Hosts,
    words: Vec<PathBuf>,
    mode: Mode,
    show: bool,
    /// The socket on which cells ask for paths.
    paths: PathBuf,
    is_plain: bool,
}

impl Table {
    /// All these cells; what differs, for people.
    fn run(&self, cells: Vec<String>) -> Result<String> {
        let count = cells.len();
        ensure!(count > 0, "no cell has such a name");
        let differ = AtomicUsize::new(0);
        let report = Mutex::new(String::new());
        let queue = Mutex::new(VecDeque::from(cells));
        let done = AtomicBool::new(false);
        let listener = UnixListener::bind(&self.paths)?;
        listener.set_nonblocking(true)?;
        let work = || -> Result<()> {
            loop {
                let next = queue
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front();
                let Some(cell) = next else { return Ok(()) };
                if let Some(text) = self.compare(&cell).with_context(|| cell.clone())? {
                    differ.fetch_add(1, Ordering::Relaxed);
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    writeln!(report, "{text}")?;
                }
            }
        };
        std::thread::scope(|scope| {
            let paths = scope.spawn(|| answer_paths(&listener, self.flyover.lab(), &done));
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            let ends: Vec<_> = workers.into_iter().map(|w| w.join()).collect();
            done.store(true, Ordering::Relaxed);
            for end in ends {
                end.map_err(|_| anyhow::anyhow!("a worker panicked"))??;
            }
            match paths.join() {
                Ok(answered) => answered,
                Err(_) => bail!("the thread that answers for paths panicked"),
            }
        })?;
        print!(" {count} cells, {} differ", differ.load(Ordering::Relaxed));
        Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// One cell on both sides; what differs.
    fn compare(&self, cell: &str) -> Result<Option<String>> {
        let [plain, flyover] = self.both(cell)?;
        if self.show {
            println!("\n--- {cell}\n{}", flyover.text.trim_end());
        }
        let Some(text) = difference(&plain, &flyover) else {
            return Ok(None);
        };
        // Once more, so that the reader knows whether it is always so.
        let [plain, again] = self.both(cell)?;
        let always = match difference(&plain, &again) {
            Some(second) if second == text => "",
            Some(_) => " (another time it differs in another way)",
            None => " (not every time)",
        };
        let stderr = flyover.stderr.trim();
        let stderr = match stderr {
            "" => String::new(),
            some => format!("\n    stderr: {some}"),
        };
        Ok(Some(format!("{cell}{always}\n{text}{stderr}")))
    }

    fn both(&self, cell: &str) -> Result<[Outcome; 2]> {
        std::thread::scope(|scope| {
            let plain = scope.spawn(|| self.plain.run(&self.words, cell, self.mode));
            let paths = [("MATRIX_SS", self.paths.as_path())];
            let asks = if self.is_plain { &[][..] } else { &paths[..] };
            let flyover = self.flyover.run_with(&self.words, cell, self.mode, asks);
            let Ok(plain) = plain.join() else {
                bail!("the thread of the plain side panicked");
            };
            let mut both = [plain?, flyover?];
            // Within a host, only connections leave the kernel's path.
            if self.mode.local_after().is_some()
                && (cell.starts_with("listener.") || cell.starts_with("udp_"))
            {
                both.iter_mut().for_each(forget_path);
            }
            Ok(both)
        })
    }
}

fn forget_path(outcome: &mut Outcome) {
    let lines = outcome.text.lines();
    let kept = lines.filter(|line| !line.contains("path: "));
    outcome.text = kept.flat_map(|line| [line, "\n"]).collect();
}

fn difference(plain: &Outcome, flyover: &Outcome) -> Option<String> {
    if plain.text != flyover.text {
        return Some(side_by_side(&plain.text, &flyover.text));
    }
    let failed = plain.text.is_empty() || plain.text.contains("GIVEN UP");
    failed.then(|| format!("    {}", plain.text.trim_end()))
}

/// Answers questions for the path of a socket, which is named by its `SO_COOKIE`, until all cells are done.
fn answer_paths(listener: &UnixListener, lab: &Lab, done: &AtomicBool) -> Result<()> {
    while !done.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((asked, _)) => {
                if let Err(error) = answer_path(asked, lab) {
                    eprintln!("asking for a path: {error:#}");
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn answer_path(mut asked: UnixStream, lab: &Lab) -> Result<()> {
    asked.set_nonblocking(false)?;
    let mut line = String::new();
    BufReader::new(&asked).read_line(&mut line)?;
    let mut rows = lab.ss(Host::Client)?;
    rows.retain(|row| row.cookie == line.trim());
    let answer = if rows.iter().any(|row| row.is_accelerated()) {
        "accelerated"
    } else if rows.iter().all(|row| row.path == "kernel") {
        // What the stack does not know is the kernel's.
        "kernel"
    } else {
        "neither"
    };
    asked.write_all(answer.as_bytes())?;
    Ok(())
}
