//! A segment as a script writes it: something to build, or something to compare with.

use super::parse::number;
use crate::peer::Segment;
use crate::stream;
use flyover_wire::{Seq, TcpFlags, TcpHdr, TcpOpts};

/// A number that may be left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Num {
    /// `*`: any.
    Any,
    /// Exactly this; relative, where that makes sense.
    Is(u32),
    /// With `=`: absolute.
    Absolute(u32),
    /// `last`: what the other side sent last.
    Last,
}

/// A segment, written down.
#[derive(Clone, Debug)]
pub struct Pattern {
    flags: TcpFlags,
    seq: Num,
    len: u32,
    ack: Option<Num>,
    win: Option<Num>,
    urg: Option<u16>,
    mss: Option<Num>,
    ws: Option<Num>,
    sack_permitted: bool,
    ts: Option<(Num, Num)>,
    sack: Vec<(u32, u32)>,
    ecn: Option<u8>,
}

/// What is known of both sides' numbers.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// The peer's initial sequence number.
    pub peer: u32,
    /// The stack's, once its SYN was seen.
    pub stack: Option<u32>,
    /// Latest TSval of the peer.
    pub peer_ts: u32,
    /// Latest TSval of the stack.
    pub stack_ts: u32,
    /// What the peer sends.
    pub peer_stream: stream::Pattern,
    /// What the stack sends.
    pub stack_stream: stream::Pattern,
}

fn num(word: &str) -> Result<Num, String> {
    Ok(match word {
        "*" => Num::Any,
        "last" => Num::Last,
        w => match w.strip_prefix('=') {
            Some(w) => Num::Absolute(number(w)? as u32),
            None => Num::Is(signed(w)?),
        },
    })
}

/// Numbers before the SYN are negative.
fn signed(word: &str) -> Result<u32, String> {
    match word.strip_prefix('-') {
        Some(w) => Ok((number(w)? as u32).wrapping_neg()),
        None => Ok(number(word)? as u32),
    }
}

fn flags(word: &str) -> Result<TcpFlags, String> {
    word.chars().try_fold(TcpFlags::NONE, |f, c| {
        Ok(f.with(match c {
            'F' => TcpFlags::FIN,
            'S' => TcpFlags::SYN,
            'R' => TcpFlags::RST,
            'P' => TcpFlags::PSH,
            '.' => TcpFlags::ACK,
            'U' => TcpFlags::URG,
            'E' => TcpFlags::ECE,
            'W' => TcpFlags::CWR,
            '-' => TcpFlags::NONE,
            other => return Err(format!("no flag is called {other}")),
        }))
    })
}

/// Parses what stands behind `<` or `>`.
///
/// # Errors
/// What makes no sense.
pub(super) fn parse(words: &[&str]) -> Result<Pattern, String> {
    let [f, seq, rest @ ..] = words else {
        return Err("flags and sequence number".into());
    };
    let (seq, len) = match seq.split_once(':') {
        None => (num(seq)?, 0),
        Some((a, b)) => {
            let (a, b) = (num(a)?, signed(b)?);
            let Num::Is(start) = a else {
                return Err("a range has two numbers".into());
            };
            (a, b.wrapping_sub(start))
        }
    };
    let mut p = Pattern {
        flags: flags(f)?,
        seq,
        len,
        ack: None,
        win: None,
        urg: None,
        mss: None,
        ws: None,
        sack_permitted: false,
        ts: None,
        sack: Vec::new(),
        ecn: None,
    };
    let mut words = rest.iter().copied().peekable();
    while let Some(w) = words.next() {
        let mut next = || words.next().ok_or(format!("{w} what?"));
        match w {
            "ack" => p.ack = Some(num(next()?)?),
            "win" => p.win = Some(num(next()?)?),
            "urg" => p.urg = Some(number(next()?)? as u16),
            "mss" => p.mss = Some(num(next()?)?),
            "ws" => p.ws = Some(num(next()?)?),
            "sackok" => p.sack_permitted = true,
            "ect" => p.ecn = Some(2),
            "ce" => p.ecn = Some(3),
            "ts" => p.ts = Some((num(next()?)?, num(next()?)?)),
            "sack" => {
                while let Some((a, b)) = words.peek().and_then(|w| w.split_once(':')) {
                    p.sack.push((signed(a)?, signed(b)?));
                    let _: Option<&str> = words.next();
                }
            }
            other => return Err(format!("what is {other}?")),
        }
    }
    Ok(p)
}

impl Pattern {
    /// The segment that the peer sends; `n` is brought up to date.
    ///
    /// # Errors
    /// A value is left open.
    pub(super) fn build(&self, n: &mut Numbers) -> Result<Segment, String> {
        let relative = |num: Num, base: u32| match num {
            Num::Is(v) => Ok(base.wrapping_add(v)),
            Num::Absolute(v) => Ok(v),
            Num::Any | Num::Last => Err("needs a number"),
        };
        let plain = |num: Num, last: u32| match num {
            Num::Is(v) | Num::Absolute(v) => Ok(v),
            Num::Last => Ok(last),
            Num::Any => Err("needs a number"),
        };
        let iss = n.stack.unwrap_or(0);
        let mut s = Segment::new(self.flags, relative(self.seq, n.peer)?, 0);
        if let Some(ack) = self.ack {
            s.ack = Seq(relative(ack, iss)?);
        }
        s.window = plain(self.win.unwrap_or(Num::Is(65_535)), 0)? as u16;
        s.urgent = self.urg.unwrap_or(0);
        let mut o = TcpOpts {
            sack_permitted: self.sack_permitted,
            ..TcpOpts::NONE
        };
        o.mss = self.mss.map(|v| plain(v, 0)).transpose()?.map(|v| v as u16);
        o.wscale = self.ws.map(|v| plain(v, 0)).transpose()?.map(|v| v as u8);
        if let Some((val, ecr)) = self.ts {
            let val = plain(val, n.peer_ts)?;
            o.ts = Some((val, plain(ecr, n.stack_ts)?));
            n.peer_ts = val;
        }
        for (a, b) in &self.sack {
            if !o.push_sack(Seq(iss.wrapping_add(*a)), Seq(iss.wrapping_add(*b))) {
                return Err("too many SACK blocks".into());
            }
        }
        s.options = o;
        s.ecn = self.ecn.unwrap_or(0);
        s.payload = vec![0; self.len as usize];
        let at = s.seq.0.wrapping_sub(n.peer).wrapping_sub(1);
        n.peer_stream.fill(u64::from(at), &mut s.payload);
        Ok(s)
    }

    /// Compares with a segment that the stack sent; `n` is brought up to date.
    ///
    /// # Errors
    /// What differs.
    pub(super) fn compare(
        &self,
        (h, ecn): (&TcpHdr, u8),
        payload: &[u8],
        n: &mut Numbers,
    ) -> Result<(), String> {
        if ecn != self.ecn.unwrap_or(0) {
            return Err(format!("the ECN field is {ecn}"));
        }
        if h.flags.has(TcpFlags::SYN) {
            n.stack = Some(h.seq.0);
        }
        let last_ts = n.peer_ts;
        if let Some((val, _)) = h.options.ts {
            n.stack_ts = val;
        }
        let psh = self.flags.with(TcpFlags::PSH);
        let same_flags = if self.flags == psh {
            h.flags == psh
        } else {
            h.flags.without(TcpFlags::PSH) == self.flags
        };
        if !same_flags {
            return Err(format!("flags are {}", h.flags));
        }
        let iss = n.stack.unwrap_or(0);
        relative("seq", self.seq, h.seq.0, iss)?;
        if payload.len() != self.len as usize {
            return Err(format!("length is {}", payload.len()));
        }
        if let Some(ack) = self.ack {
            relative("ack", ack, h.ack.0, n.peer)?;
        }
        if let Some(w) = self.win {
            exact("win", w, Some(u32::from(h.window)))?;
        }
        if let Some(u) = self.urg {
            exact("urg", Num::Is(u32::from(u)), Some(u32::from(h.urgent)))?;
        }
        self.compare_options(&h.options, h.flags.has(TcpFlags::SYN), n, last_ts)?;
        let at = h.seq.0.wrapping_sub(iss).wrapping_sub(1);
        n.stack_stream
            .check(u64::from(at), payload)
            .map_err(|w| format!("payload: {w:?}"))
    }

    fn compare_options(
        &self,
        o: &TcpOpts,
        syn: bool,
        n: &Numbers,
        last_ts: u32,
    ) -> Result<(), String> {
        for (what, want, got) in [
            ("mss", self.mss, o.mss.map(u32::from)),
            ("ws", self.ws, o.wscale.map(u32::from)),
            ("ts", self.ts.map(|t| t.0), o.ts.map(|t| t.0)),
            ("ecr", self.ts.map(|t| t.1), o.ts.map(|t| t.1)),
        ] {
            match want {
                Some(Num::Last) => exact(what, Num::Is(last_ts), got)?,
                Some(v) => exact(what, v, got)?,
                None if syn && got.is_some() => return Err(format!("has {what} {got:?}")),
                None => {}
            }
        }
        if syn && self.sack_permitted != o.sack_permitted {
            return Err(format!("sackok is {}", o.sack_permitted));
        }
        let blocks: Vec<(u32, u32)> = o
            .sack_blocks()
            .iter()
            .map(|(a, b)| (a.0.wrapping_sub(n.peer), b.0.wrapping_sub(n.peer)))
            .collect();
        if blocks != self.sack {
            return Err(format!("SACK blocks are {blocks:?}"));
        }
        Ok(())
    }
}

fn relative(what: &str, want: Num, got: u32, base: u32) -> Result<(), String> {
    let (same, shown) = match want {
        Num::Any | Num::Last => (true, got),
        Num::Is(v) => (got.wrapping_sub(base) == v, got.wrapping_sub(base)),
        Num::Absolute(v) => (got == v, got),
    };
    if same {
        Ok(())
    } else {
        Err(format!("{what} is {shown}"))
    }
}

fn exact(what: &str, want: Num, got: Option<u32>) -> Result<(), String> {
    let same = match (want, got) {
        (_, None) => false,
        (Num::Any | Num::Last, Some(_)) => true,
        (Num::Is(v) | Num::Absolute(v), Some(got)) => v == got,
    };
    if same {
        Ok(())
    } else {
        Err(format!("{what} is {got:?}"))
    }
}
