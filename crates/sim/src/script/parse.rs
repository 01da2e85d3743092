//! Text to statements.

use super::segment::{self, Pattern};
use flyover_core::SockOpt;

/// One line of a script.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its number, from 1.
    pub number: usize,
    /// Its text.
    pub text: String,
    /// What it says.
    pub statement: Statement,
}

/// What a call must come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// So many bytes.
    Bytes(u64),
    /// The end of the stream.
    Eof,
    /// An error, by name.
    Error(i32),
}

/// A statement.
#[derive(Clone, Debug)]
pub enum Statement {
    /// A stack option by its variable.
    Set(String, String),
    /// The interface's MTU.
    Mtu(u32),
    /// The peer's initial sequence number.
    Isn(u32),
    /// The peer's port.
    Port(u16),
    /// Listens.
    Listen,
    /// Accepts.
    Accept,
    /// Connects.
    Connect,
    /// Queues data.
    Send {
        /// Bytes offered.
        n: u64,
        /// Outcome.
        want: Want,
        /// `MSG_MORE`.
        more: bool,
        /// `MSG_OOB`.
        oob: bool,
    },
    /// Reads data.
    Recv {
        /// Bytes asked for.
        n: u64,
        /// Outcome.
        want: Want,
    },
    /// `shutdown(2)`.
    Shutdown(u32),
    /// `close(2)`.
    Close,
    /// Reset.
    Abort,
    /// A socket option.
    Opt(SockOpt, u32),
    /// The state's name.
    State(String),
    /// `SO_ERROR`.
    Error(i32),
    /// Poll bits.
    Ready(u32),
    /// A counter.
    Stat(String, u64),
    /// Nothing is sent for so many ns.
    Wait(u64),
    /// The peer sends.
    Inject(Pattern),
    /// The stack sends, after so many ns.
    Expect(u64, Pattern),
}

/// Parses a script.
///
/// # Errors
/// The first line that makes no sense.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    for (i, raw) in text.lines().enumerate() {
        let words: Vec<&str> = raw
            .split('#')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        if words.is_empty() {
            continue;
        }
        let statement = statement(&words).map_err(|e| format!("line {}: {raw}: {e}", i + 1))?;
        lines.push(Line {
            number: i + 1,
            text: words.join(" "),
            statement,
        });
    }
    Ok(lines)
}

fn statement(words: &[&str]) -> Result<Statement, String> {
    let (first, rest) = words.split_first().ok_or("empty")?;
    let one = || rest.first().copied().ok_or("something is missing");
    Ok(match *first {
        "set" => match rest {
            [name, value] => Statement::Set((*name).into(), (*value).into()),
            _ => return Err("set NAME value".into()),
        },
        "mtu" => Statement::Mtu(number(one()?)? as u32),
        "isn" => Statement::Isn(number(one()?)? as u32),
        "port" => Statement::Port(number(one()?)? as u16),
        "listen" => Statement::Listen,
        "accept" => Statement::Accept,
        "connect" => Statement::Connect,
        "send" => send(rest)?,
        "recv" => recv(rest)?,
        "shutdown" => Statement::Shutdown(match one()? {
            "rd" => 1,
            "wr" => 2,
            "rdwr" => 3,
            other => return Err(format!("what is {other}?")),
        }),
        "close" => Statement::Close,
        "abort" => Statement::Abort,
        "opt" => match rest {
            [name, value] => Statement::Opt(option(name)?, number(value)? as u32),
            _ => return Err("opt NAME n".into()),
        },
        "state" => Statement::State(one()?.into()),
        "error" => Statement::Error(errno(one()?)?),
        "ready" => Statement::Ready(ready(rest)?),
        "stat" => match rest {
            [name, value] => Statement::Stat((*name).into(), number(value)?),
            _ => return Err("stat NAME n".into()),
        },
        "wait" => Statement::Wait(time(one()?)?),
        "<" => Statement::Inject(segment::parse(rest)?),
        ">" => Statement::Expect(0, segment::parse(rest)?),
        t if t.starts_with('+') => match rest {
            [">", rest @ ..] => Statement::Expect(time(&t[1..])?, segment::parse(rest)?),
            _ => return Err("+time > segment".into()),
        },
        other => return Err(format!("what is {other}?")),
    })
}

fn send(words: &[&str]) -> Result<Statement, String> {
    let (words, want) = outcome(words)?;
    let n = words.first().map_or(Ok(1), |w| number(w))?;
    let has = |name| words.contains(&name);
    Ok(Statement::Send {
        n,
        want: want.unwrap_or(Want::Bytes(n)),
        more: has("more"),
        oob: has("oob"),
    })
}

fn recv(words: &[&str]) -> Result<Statement, String> {
    let (words, want) = outcome(words)?;
    let n = words.first().map_or(Ok(1), |w| number(w))?;
    Ok(Statement::Recv {
        n,
        want: want.ok_or("recv n = outcome")?,
    })
}

/// Splits off `= outcome`; words after it stay.
fn outcome<'w>(words: &[&'w str]) -> Result<(Vec<&'w str>, Option<Want>), String> {
    let Some(i) = words.iter().position(|w| *w == "=") else {
        return Ok((words.to_vec(), None));
    };
    let word = *words.get(i + 1).ok_or("an outcome is missing")?;
    let want = match word {
        "eof" => Want::Eof,
        w if w.starts_with('E') => Want::Error(errno(w)?),
        w => Want::Bytes(number(w)?),
    };
    let mut rest = words[..i].to_vec();
    rest.extend_from_slice(&words[i + 2..]);
    Ok((rest, Some(want)))
}

pub(super) fn number(word: &str) -> Result<u64, String> {
    let parsed = match word.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => word.parse(),
    };
    parsed.map_err(|_| format!("{word} is no number"))
}

fn time(word: &str) -> Result<u64, String> {
    for (unit, ns) in [("ms", 1e6), ("us", 1e3), ("s", 1e9)] {
        if let Some(n) = word.strip_suffix(unit) {
            let n: f64 = n.parse().map_err(|_| format!("{word} is no time"))?;
            return Ok((n * ns) as u64);
        }
    }
    Err(format!("{word} has no unit"))
}

fn errno(word: &str) -> Result<i32, String> {
    Ok(match word {
        "0" => 0,
        "EAGAIN" => 11,
        "EINVAL" => 22,
        "EPIPE" => 32,
        "ECONNABORTED" => 103,
        "ECONNRESET" => 104,
        "EISCONN" => 106,
        "ENOTCONN" => 107,
        "ETIMEDOUT" => 110,
        "ECONNREFUSED" => 111,
        "EHOSTUNREACH" => 113,
        other => return Err(format!("what is {other}?")),
    })
}

fn ready(words: &[&str]) -> Result<u32, String> {
    use flyover_core::ev;
    words.iter().try_fold(0, |bits, w| {
        Ok(bits
            | match *w {
                "IN" => ev::IN | ev::RDNORM,
                "OUT" => ev::OUT | ev::WRNORM,
                "PRI" => ev::PRI,
                "ERR" => ev::ERR,
                "HUP" => ev::HUP,
                "RDHUP" => ev::RDHUP,
                "none" => 0,
                other => return Err(format!("what is {other}?")),
            })
    })
}

fn option(word: &str) -> Result<SockOpt, String> {
    Ok(match word {
        "nodelay" => SockOpt::NoDelay,
        "cork" => SockOpt::Cork,
        "quickack" => SockOpt::QuickAck,
        "keepalive" => SockOpt::KeepAlive,
        "keepidle" => SockOpt::KeepIdle,
        "keepintvl" => SockOpt::KeepIntvl,
        "keepcnt" => SockOpt::KeepCnt,
        "user_timeout" => SockOpt::UserTimeout,
        "maxseg" => SockOpt::MaxSeg,
        "syncnt" => SockOpt::SynCnt,
        "linger2" => SockOpt::Linger2,
        "linger" => SockOpt::Linger,
        "rcvbuf" => SockOpt::RcvBuf,
        "sndbuf" => SockOpt::SndBuf,
        "rcvlowat" => SockOpt::RcvLowat,
        "oobinline" => SockOpt::OobInline,
        other => return Err(format!("what is {other}?")),
    })
}
