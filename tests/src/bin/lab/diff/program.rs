//! A program of `tests/diff`: how it is built, in which modes it runs, which cases it has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// How a program runs under Flyover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// IPv4 over a packet-socket V-NIC.
    V4,
    /// IPv6 over a packet-socket V-NIC.
    V6,
    /// IPv4 over AF_XDP.
    Xdp,
    /// Program and peer on one host: 127.0.0.1, paired at once.
    Lo4,
    /// The same with ::1.
    Lo6,
    /// 127.0.0.1, paired after some calls that moved bytes.
    Late4,
    /// The same with ::1.
    Late6,
    /// Program and peer on one host, by its address on the wire.
    Own4,
}

/// So many calls move bytes before a connection of a late mode is paired.
const LATE: u32 = 3;

impl Mode {
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "v4" => Ok(Self::V4),
            "v6" => Ok(Self::V6),
            "xdp" => Ok(Self::Xdp),
            "lo4" => Ok(Self::Lo4),
            "lo6" => Ok(Self::Lo6),
            "late4" => Ok(Self::Late4),
            "late6" => Ok(Self::Late6),
            "own4" => Ok(Self::Own4),
            _ => bail!("{word:?} is none of the modes v4, v6, xdp, lo4, lo6, late4, late6, own4"),
        }
    }

    /// The modes of the local path.
    pub const LOCAL: [Self; 5] = [Self::Lo4, Self::Lo6, Self::Late4, Self::Late6, Self::Own4];

    /// Both ends of the connections are on one host, under Flyover: after how many calls they are paired.
    pub fn local_after(self) -> Option<u32> {
        match self {
            Self::V4 | Self::V6 | Self::Xdp => None,
            Self::Lo4 | Self::Lo6 | Self::Own4 => Some(0),
            Self::Late4 | Self::Late6 => Some(LATE),
        }
    }

    /// Is it about IPv6?
    pub fn is_v6(self) -> bool {
        matches!(self, Self::V6 | Self::Lo6 | Self::Late6)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
            Self::Xdp => "xdp",
            Self::Lo4 => "lo4",
            Self::Lo6 => "lo6",
            Self::Late4 => "late4",
            Self::Late6 => "late6",
            Self::Own4 => "own4",
        }
    }
}

/// One case, as its program lists it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// It is about the kernel's path: no proof of acceleration.
    pub kernel: bool,
    /// Why a difference is known and not a failure, and in which modes.
    known: Option<(String, Known)>,
}

/// In which modes a difference is known.
#[derive(Clone, Copy, Debug)]
enum Known {
    Everywhere,
    /// On the local path.
    Local,
    /// There, when connections are paired after some calls.
    Late,
    /// Everywhere but on the local path.
    Wire,
}

impl Known {
    fn of(flags: u32) -> Option<Self> {
        let all = [Self::Everywhere, Self::Local, Self::Late, Self::Wire];
        let mut bits = [2, 4, 8, 16].into_iter().zip(all);
        bits.find(|(bit, _)| flags & bit != 0)
            .map(|(_, known)| known)
    }
}

impl Entry {
    /// Why a difference in this mode is known and not a failure.
    pub fn known_in(&self, mode: Mode) -> Option<&String> {
        let after = mode.local_after();
        let (why, modes) = self.known.as_ref()?;
        let here = match modes {
            Known::Everywhere => true,
            Known::Local => after.is_some(),
            Known::Late => after.is_some_and(|calls| calls > 0),
            Known::Wire => after.is_none(),
        };
        here.then_some(why)
    }
}

/// A C or Python file with cases.
#[derive(Clone, Debug)]
pub struct Program {
    /// File name without its ending.
    pub name: String,
    /// In which modes it runs.
    pub modes: Vec<Mode>,
    source: PathBuf,
    cflags: Vec<String>,
}

impl Program {
    /// Those of the modes that suit the families that it runs with.
    pub fn suiting(&self, modes: &[Mode]) -> Vec<Mode> {
        let suits = |mode: &&Mode| {
            let family = if mode.is_v6() { Mode::V6 } else { Mode::V4 };
            self.modes.contains(&family)
        };
        modes.iter().filter(suits).copied().collect()
    }

    /// All programs of the directory, by name. `peer.c` and the modules of the vocabulary are none.
    pub fn all(directory: &Path) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        let entries =
            fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
        for entry in entries {
            let source = entry?.path();
            let ending = source.extension().and_then(|e| e.to_str()).unwrap_or("");
            let name = source.file_stem().and_then(|e| e.to_str()).unwrap_or("");
            if ["c", "py"].contains(&ending) && !["peer", "diff"].contains(&name) {
                let name = match ending {
                    "py" => format!("{name}.py"),
                    _ => name.to_owned(),
                };
                found.push(Self::read(name, source)?);
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// Reads what the file says about itself in its first lines: `diff: modes=v4,v6,xdp cflags=-O2,-DX`.
    fn read(name: String, source: PathBuf) -> Result<Self> {
        let text =
            fs::read_to_string(&source).with_context(|| format!("reading {}", source.display()))?;
        let mut program = Self {
            name,
            modes: vec![Mode::V4, Mode::V6],
            source,
            cflags: Vec::new(),
        };
        let directives = text
            .lines()
            .take(10)
            .filter_map(|line| line.split_once("diff: "));
        for word in directives.flat_map(|(_, words)| words.split_whitespace()) {
            match word.split_once('=') {
                Some(("modes", list)) => {
                    program.modes = list.split(',').map(Mode::parse).collect::<Result<_>>()?;
                }
                Some(("cflags", list)) => {
                    program.cflags = list.split(',').map(str::to_owned).collect();
                }
                _ => {}
            }
        }
        Ok(program)
    }

    /// The words that start it, after compiling it into `directory` if it is written in C.
    pub fn build(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        if self.name.ends_with(".py") {
            return Ok(vec!["/usr/bin/python3".into(), self.source.clone()]);
        }
        let target = directory.join(&self.name);
        compile(&self.source, &target, &self.cflags)?;
        Ok(vec![target])
    }

    /// The peer, compiled into `directory`.
    pub fn build_peer(&self, directory: &Path) -> Result<PathBuf> {
        // A vocabulary of one's own may have a peer of its own.
        let beside = self.source.with_file_name("peer.c");
        let source = if beside.exists() {
            beside
        } else {
            super::directory().join("peer.c")
        };
        let target = directory.join("peer");
        compile(&source, &target, &[])?;
        Ok(target)
    }

    /// Its cases: lines of name, flags (1 kernel, others: [`Known`]) and the reason.
    pub fn list(&self, words: &[PathBuf]) -> Result<Vec<Entry>> {
        let (first, rest) = words.split_first().context("no program")?;
        let output = Command::new(first).args(rest).arg("list").output()?;
        ensure!(
            output.status.success(),
            "{} list: {}\n{}",
            self.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout);
        let entries = text.lines().filter_map(|line| {
            let mut fields = line.split('\t');
            let name = fields.next()?.to_owned();
            let flags: u32 = fields.next()?.parse().ok()?;
            let why = fields.next().unwrap_or_default().to_owned();
            Some(Entry {
                name,
                kernel: flags & 1 != 0,
                known: Known::of(flags).map(|modes| (why, modes)),
            })
        });
        Ok(entries.collect())
    }
}

/// Compiles a C file; the vocabulary of the suite is found.
pub fn compile(source: &Path, target: &Path, extra: &[String]) -> Result<()> {
    let output = Command::new("gcc")
        .args(
            "-D_GNU_SOURCE -O1 -g -Wall -Wextra -Wno-unused-parameter -fno-toplevel-reorder"
                .split(' '),
        )
        .arg("-I")
        .arg(super::directory())
        .args(extra)
        .arg("-o")
        .args([target, source])
        .arg("-lpthread")
        .output()
        .context("running gcc")?;
    ensure!(
        output.status.success(),
        "gcc {}:\n{}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
