//! Cases that mostly wait, two at a time. Each lane is a process: what a case leaves behind is found among the runner's own
//! descendants, so two cases at once need two runners.
//!
//! A lane reads names of cases from its standard input and answers each with what the case printed and a line that begins
//! with [`MARK`]. It ends when there are no more.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::cleanup;
use crate::lab::Setup;
use crate::runner::{Case, Failure, Run};

/// How many.
const LANES: usize = 2;
/// Begins a line that the lane itself says.
const MARK: char = '\u{1e}';

/// The parent's end of a lane.
struct Lane {
    child: Child,
    names: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Lane {
    fn start(arguments: &[String]) -> Result<Self> {
        cleanup::may_continue();
        let program = std::env::current_exe().context("finding the program's own path")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a lane")?;
        cleanup::register_lane(child.id());
        let names = child.stdin.take().context("a lane without input")?;
        let answers = child.stdout.take().context("a lane without output")?;
        Ok(Self {
            child,
            names,
            answers: BufReader::new(answers),
        })
    }

    /// What was printed, and the lane's own line.
    fn answer(&mut self) -> Result<(String, Value)> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            let n = self.answers.read_line(&mut line)?;
            ensure!(n > 0, "a lane ended: {text}");
            match line.split_once(MARK) {
                Some((before, said)) => {
                    text.push_str(before);
                    return Ok((text, serde_json::from_str(said)?));
                }
                None => text.push_str(&line),
            }
        }
    }

    fn run(&mut self, case: &Case) -> Result<(String, Value)> {
        writeln!(self.names, "{}", case.name)?;
        self.answer()
    }

    /// No more names: what it says at its end.
    fn end(mut self) -> Result<Value> {
        drop(self.names);
        let mut text = String::new();
        let mut said = Value::Null;
        while self.answers.read_line(&mut text)? > 0 {
            if let Some((_, line)) = text.split_once(MARK) {
                said = serde_json::from_str(line)?;
            }
            text.clear();
        }
        let pid = self.child.id();
        let status = self.child.wait()?;
        cleanup::forget_lane(pid);
        ensure!(status.success(), "a lane ended with {status}");
        Ok(said)
    }
}

/// Runs the cases in lanes, which are this program with these arguments. Returns the failures, and what each lane said at
/// its end. `done` of `all` cases were run before.
pub fn run<'a>(
    cases: &[&'a Case],
    arguments: &[String],
    (done, all): (usize, usize),
) -> Result<(Vec<Failure<'a>>, Vec<Value>)> {
    let waiting: Mutex<VecDeque<&Case>> = Mutex::new(cases.iter().copied().collect());
    let ended = Mutex::new((done, Vec::new()));
    let work = || -> Result<Value> {
        let mut lane = Lane::start(arguments)?;
        loop {
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(case) = { next }.pop_front() else {
                return lane.end();
            };
            let (text, said) = lane.run(case)?;
            cleanup::may_continue();
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.0 += 1;
            print!("[{:>2}/{all}] {:<44}{text}", ended.0, case.name);
            println!("{}", said["line"].as_str().unwrap_or_default());
            if let Some(error) = said["error"].as_str() {
                let error = error.to_owned();
                ended.1.push(Failure { case, error });
            }
        }
    };
    let last = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(work)).collect();
        let last = lanes.into_iter().map(|lane| match lane.join() {
            Ok(said) => said,
            Err(_) => anyhow::bail!("the thread of a lane panicked"),
        });
        last.collect::<Result<Vec<Value>>>()
    })?;
    let (_, failures) = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((failures, last))
}

/// Is a lane, until there are no more names; says `last` at its end.
pub fn serve(cases: &[Case], setup: &Setup, last: impl FnOnce() -> Value) -> Result<()> {
    let mut run = Run::new(setup);
    for name in std::io::stdin().lines() {
        let name = name?;
        let case = cases.iter().find(|case| case.name == name);
        let case = case.with_context(|| format!("no case is called {name}"))?;
        let result = run.one(case)?;
        let error = result.error.as_deref().map(crate::runner::short);
        say(&json!({ "line": result.line(), "error": error }));
    }
    say(&last());
    Ok(())
}

fn say(value: &Value) {
    println!("{MARK}{value}");
}
