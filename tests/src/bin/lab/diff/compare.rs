//! The same case on the kernel and under Flyover, side by side; where they differ.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail, ensure};
use flyover_e2e::lab::{Setup, Side};

use super::Selection;
use super::count::{What, add};
use super::host::{Hosts, Outcome};
use super::program::{Entry, Mode, Program};

/// Runs all cases of a program in all its modes. An error lists every difference.
pub fn program(setup: &Setup, program: &Program, selection: &Selection) -> Result<()> {
    let words = program.build(&setup.directory)?;
    let peer = program.build_peer(&setup.directory)?;
    let entries = program.list(&words)?;
    let modes = match &selection.modes {
        Some(modes) => program.suiting(modes),
        None => program.modes.clone(),
    };
    if modes.is_empty() {
        return Ok(());
    }
    let hosts = |name: &str, side: Side| {
        let setup = Setup {
            directory: setup.directory.join(name),
            ..setup.clone()
        };
        Hosts::new(&setup, side, &peer, &modes)
    };
    let plain = hosts("plain", Side::Neither)?;
    let flyover = hosts("flyover", Side::Client)?;
    let pair = Pair {
        plain,
        flyover,
        is_plain: setup.plain,
    };
    let mut report = String::new();
    for mode in modes {
        let mut paired = Paired::default();
        for entry in &entries {
            if !selection.wants_case(&program.name, &entry.name) {
                continue;
            }
            for _ in 0..selection.repeat {
                let outcome = pair
                    .compare(&words, entry, mode, selection, &mut report)
                    .with_context(|| format!("{} {}", entry.name, mode.name()))?;
                if !entry.kernel {
                    paired.add(&outcome);
                }
            }
        }
        if mode.local_after() == Some(0) && !setup.plain {
            paired.ensure_most()?;
        }
    }
    pair.plain.finish()?;
    pair.flyover.finish()?;
    if !report.is_empty() {
        bail!("{}", report.trim_end());
    }
    Ok(())
}

/// The proof of the local path: of the cases of a program in which the kernel accepted a connection, most had a pair.
/// Some leave a connection in the backlog, or break it off.
#[derive(Default)]
struct Paired {
    accepted: u32,
    paired: u32,
}

impl Paired {
    fn add(&mut self, outcome: &Outcome) {
        if outcome.accepted > 0 {
            self.accepted += 1;
            self.paired += u32::from(outcome.pairs > 0);
        }
    }

    fn ensure_most(&self) -> Result<()> {
        let Self { accepted, paired } = *self;
        ensure!(
            paired * 2 >= accepted,
            "only {paired} of {accepted} cases with connections went through shared memory"
        );
        Ok(())
    }
}

struct Pair {
    plain: Hosts,
    flyover: Hosts,
    /// Both are plain: `--plain`.
    is_plain: bool,
}

impl Pair {
    /// One case on both sides at the same time.
    fn run(&self, words: &[std::path::PathBuf], case: &str, mode: Mode) -> Result<[Outcome; 2]> {
        std::thread::scope(|scope| {
            let plain = scope.spawn(|| self.plain.run(words, case, mode));
            let flyover = self.flyover.run(words, case, mode);
            let Ok(plain) = plain.join() else {
                bail!("the thread of the plain side panicked");
            };
            Ok([plain?, flyover?])
        })
    }

    fn compare(
        &self,
        words: &[std::path::PathBuf],
        entry: &Entry,
        mode: Mode,
        selection: &Selection,
        report: &mut String,
    ) -> Result<Outcome> {
        let outcomes = self.run(words, &entry.name, mode)?;
        if selection.show {
            println!(
                "\n--- {} {}\n{}",
                entry.name,
                mode.name(),
                outcomes[0].text.trim_end()
            );
        }
        let difference = self.difference(&outcomes, entry, mode);
        if mode.local_after().is_some() {
            add(What::Accepted, u32::from(outcomes[1].accepted > 0));
            add(What::Paired, u32::from(outcomes[1].pairs > 0));
            add(What::Pairs, outcomes[1].pairs as u32);
        }
        add(What::Compared, 1);
        match (entry.known_in(mode), difference) {
            (None, None) => {}
            (None, Some(text)) => {
                add(What::Different, 1);
                // Once more, so that the reader knows whether it is always so.
                let again = self.run(words, &entry.name, mode)?;
                let always = match self.difference(&again, entry, mode) {
                    _ if again[0].text != outcomes[0].text => {
                        " (the plain side differs from itself: the case is not deterministic)"
                    }
                    Some(second) if second == text => "",
                    Some(_) => " (another time it differs in another way)",
                    None => " (not every time)",
                };
                writeln!(report, "{} {}{always}\n{text}", entry.name, mode.name())?;
                let stderr = outcomes[1].stderr.trim();
                if !stderr.is_empty() {
                    writeln!(report, "    stderr: {stderr}")?;
                }
            }
            (Some(_), Some(text)) => {
                add(What::Known, 1);
                if selection.show {
                    println!("{text}");
                }
            }
            // Before the pairing such a case is as ever.
            (Some(_), None) if mode.local_after().is_some_and(|after| after > 0) => {}
            (Some(why), None) => {
                println!(
                    "\n    {} {} is equal now; known: {why}",
                    entry.name,
                    mode.name()
                );
            }
        }
        let [_, flyover] = outcomes;
        Ok(flyover)
    }

    /// What differs, for people; `None` when nothing does and the run really was accelerated.
    fn difference(
        &self,
        [plain, flyover]: &[Outcome; 2],
        entry: &Entry,
        mode: Mode,
    ) -> Option<String> {
        if plain.text != flyover.text {
            return Some(side_by_side(&plain.text, &flyover.text));
        }
        if plain.text.contains("GIVEN UP") {
            return Some(format!("    {}", plain.text.trim_end()));
        }
        if entry.kernel || self.is_plain {
            return None;
        }
        if mode.local_after().is_some() {
            // Proven by [`Paired`]: a connection that nobody accepts has only one end.
            return None;
        }
        let mut bypass = String::new();
        for (what, one, other) in [
            ("TCP connections", plain.kernel_tcp, flyover.kernel_tcp),
            ("datagrams", plain.kernel_udp, flyover.kernel_udp),
        ] {
            if one > 0 && other > 0 {
                let _ = writeln!(bypass, "    not accelerated: {other} {what} of the kernel");
            }
        }
        (!bypass.is_empty()).then(|| bypass.trim_end().to_owned())
    }
}

/// Lines of both, those that only one has marked: `-` plain, `+` Flyover.
pub fn side_by_side(plain: &str, flyover: &str) -> String {
    let one: Vec<&str> = plain.lines().collect();
    let other: Vec<&str> = flyover.lines().collect();
    // Length of the longest common rest from line i of one and line j of the other.
    let mut rest = vec![vec![0_u32; other.len() + 1]; one.len() + 1];
    for i in (0..one.len()).rev() {
        for j in (0..other.len()).rev() {
            rest[i][j] = if one[i] == other[j] {
                rest[i + 1][j + 1] + 1
            } else {
                rest[i + 1][j].max(rest[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines = Vec::new();
    while i < one.len() || j < other.len() {
        if i < one.len() && j < other.len() && one[i] == other[j] {
            lines.push(format!("      {}", one[i]));
            i += 1;
            j += 1;
        } else if i < one.len() && (j == other.len() || rest[i + 1][j] >= rest[i][j + 1]) {
            lines.push(format!("    - {}", one[i]));
            i += 1;
        } else {
            lines.push(format!("    + {}", other[j]));
            j += 1;
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::side_by_side;

    #[test]
    fn differing_lines_are_marked() {
        let text = side_by_side("a\nb\nc\n", "a\nx\nc\n");
        assert_eq!(text, "      a\n    - b\n    + x\n      c");
    }
}
