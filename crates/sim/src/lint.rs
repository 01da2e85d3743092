//! Somebody who watches the wire and knows what a TCP must never do, whatever was lost: the rules that hold for every
//! segment of a sender, checked against all that both sides have said so far.

use flyover_vnic::MemFrame;
use flyover_wire::{Endpoint, L4, Seq, TcpFlags, TcpHdr, frame, pretty};
use std::collections::{BTreeMap, BTreeSet};

/// What is known of one direction of a connection.
#[derive(Clone, Debug)]
struct Half {
    iss: Seq,
    /// End of what was ever sent.
    max: Seq,
    /// The last acknowledgment number.
    ack: Option<Seq>,
    /// Right edge of the window that was offered.
    edge: Option<Seq>,
    fin: Option<Seq>,
    mss: u32,
    scale: Option<u8>,
    ts: bool,
    sack: bool,
    last_ts: Option<u32>,
    /// It said SYN+ACK or SYN.
    answered: bool,
    /// It said SYN first.
    began: bool,
}

type Flow = ([u8; 16], u16, [u8; 16], u16);

fn flow(from: Endpoint, to: Endpoint) -> Flow {
    (from.ip.0, from.port, to.ip.0, to.port)
}

/// The watcher.
#[derive(Debug, Default)]
pub struct Lint {
    halves: BTreeMap<Flow, Half>,
    /// A SYN of an earlier incarnation came late: the two sides do not speak of the same connection.
    confused: BTreeSet<Flow>,
    /// The first thing that was wrong.
    pub fault: Option<String>,
    mtu: u32,
}

impl Lint {
    /// A watcher of links with this MTU.
    pub fn new(mtu: u32) -> Self {
        Self {
            mtu,
            ..Self::default()
        }
    }

    /// A host sent this, unharmed as yet.
    pub fn observe(&mut self, f: &MemFrame) {
        if self.fault.is_some() {
            return;
        }
        if let Err(why) = self.check(f) {
            self.fault = Some(format!("{why}: {}", pretty::frame(&f.bytes)));
        }
    }

    fn check(&mut self, f: &MemFrame) -> Result<(), String> {
        let h =
            frame::parse(&f.bytes, f.bytes.len()).map_err(|e| format!("does not parse: {e}"))?;
        let single = f.gso_size == 0;
        if single && f.bytes.len() > self.mtu as usize + 14 {
            return Err(format!("longer than the MTU of {}", self.mtu));
        }
        let L4::Tcp(t) = h.l4 else { return Ok(()) };
        let len = h.payload_len;
        let (us, them) = (
            flow(h.source(), h.destination()),
            flow(h.destination(), h.source()),
        );
        if self.confused.contains(&us) {
            return Ok(());
        }
        if t.flags.has(TcpFlags::SYN) {
            return self.syn(us, them, &t, len);
        }
        let peer = self.halves.get(&them).cloned();
        let Some(me) = self.halves.get_mut(&us) else {
            // Answers to what belongs to no connection.
            return if t.flags.has(TcpFlags::RST) && len == 0 {
                Ok(())
            } else {
                Err("no SYN came before".into())
            };
        };
        if t.flags.has(TcpFlags::RST) {
            return if len == 0 {
                Ok(())
            } else {
                Err("a RST with data".into())
            };
        }
        let Some(peer) = peer else {
            return Err("the peer never spoke".into());
        };
        sequence(me, &peer, &t, len)?;
        window(me, &peer, &t)?;
        options(me, &peer, &t)?;
        if f.gso_size != 0 && u32::from(f.gso_size) > peer.mss {
            return Err(format!(
                "segments of {} for a peer with an MSS of {}",
                f.gso_size, peer.mss
            ));
        }
        if single && len > peer.mss {
            return Err(format!("more than the peer's MSS of {}", peer.mss));
        }
        Ok(())
    }

    fn syn(&mut self, us: Flow, them: Flow, t: &TcpHdr, len: u32) -> Result<(), String> {
        if len != 0 {
            return Err("a SYN with data".into());
        }
        let answer = t.flags.has(TcpFlags::ACK);
        let o = &t.options;
        let again = self.halves.get(&us).is_some_and(|h| h.iss == t.seq);
        if answer && !again && self.halves.contains_key(&us) {
            let _: bool = self.confused.insert(us);
            let _: bool = self.confused.insert(them);
            return Ok(());
        }
        let peer = self.halves.get(&them);
        // Where two SYNs cross, the answer repeats the own one, with all that it offers (as Linux does).
        let crosses = again && self.halves.get(&us).is_some_and(|h| h.began);
        let agreed = peer.map(|p| (p.scale.is_some(), p.ts, p.sack));
        let (scale, ts, sack) = agreed.unwrap_or((true, true, true));
        if let Some(p) = peer.filter(|_| answer && !crosses) {
            let refused = [
                ("a window scale", o.wscale.is_some() && p.scale.is_none()),
                ("timestamps", o.ts.is_some() && !p.ts),
                ("SACK", o.sack_permitted && !p.sack),
            ];
            if let Some((what, _)) = refused.iter().find(|r| r.1) {
                return Err(format!("answers with {what}, which was not offered"));
            }
            if t.ack != p.iss.add(1) {
                return Err("acknowledges another SYN".into());
            }
        }
        if !again {
            let edge = answer.then(|| t.ack.add(u32::from(t.window)));
            self.halves.insert(
                us,
                Half {
                    iss: t.seq,
                    max: t.seq.add(1),
                    ack: answer.then_some(t.ack),
                    edge,
                    fin: None,
                    mss: u32::from(o.mss.unwrap_or(536)),
                    scale: o.wscale,
                    ts: o.ts.is_some(),
                    sack: o.sack_permitted,
                    last_ts: o.ts.map(|v| v.0),
                    answered: answer,
                    began: !answer,
                },
            );
        } else if let Some(h) = self.halves.get_mut(&us) {
            // A SYN may turn into the SYN-ACK of a simultaneous open, and a later one may know the MTU better.
            h.mss = h.mss.max(u32::from(o.mss.unwrap_or(536)));
            h.last_ts = o.ts.map(|v| v.0).or(h.last_ts);
            if answer && !h.answered {
                h.answered = true;
                h.ack = Some(t.ack);
                h.edge = Some(t.ack.add(u32::from(t.window)));
                h.scale = o.wscale.filter(|_| scale);
                h.ts = o.ts.is_some() && ts;
                h.sack = o.sack_permitted && sack;
            }
        }
        Ok(())
    }
}

fn sequence(me: &mut Half, peer: &Half, t: &TcpHdr, len: u32) -> Result<(), String> {
    let end = t.seq.add(len);
    if t.seq.after(me.max) {
        return Err(format!("leaves a hole after {}", me.max));
    }
    // The peer's window before it said anything but SYN is unscaled; all it ever offered may be used.
    let edge = peer.edge.unwrap_or_else(|| me.iss.add(1 + 65_535));
    if len > 0 && end.after(edge) {
        return Err(format!("{} bytes beyond the window", end.since(edge)));
    }
    if let Some(fin) = me.fin
        && len > 0
        && end.after(fin)
    {
        return Err("data behind the FIN".into());
    }
    if t.flags.has(TcpFlags::FIN) {
        if me.fin.is_some_and(|f| f != end) {
            return Err("the FIN moved".into());
        }
        if end.before(me.max) && me.fin.is_none() {
            return Err("a FIN before what was sent".into());
        }
        me.fin = Some(end);
        me.max = me.max.latest(end.add(1));
    }
    me.max = me.max.latest(end);
    Ok(())
}

fn window(me: &mut Half, peer: &Half, t: &TcpHdr) -> Result<(), String> {
    if !t.flags.has(TcpFlags::ACK) {
        return Err("no ACK flag".into());
    }
    if t.ack.after(peer.max) {
        return Err(format!(
            "acknowledges what was never sent, after {}",
            peer.max
        ));
    }
    if me.ack.is_some_and(|a| t.ack.before(a)) {
        return Err(format!("acknowledges less than before: {:?}", me.ack));
    }
    me.ack = Some(t.ack);
    let shift = if peer.scale.is_some() {
        me.scale.unwrap_or(0)
    } else {
        0
    };
    let edge = t.ack.add(u32::from(t.window) << shift);
    if let Some(old) = me.edge
        && edge.before(old)
    {
        return Err(format!(
            "takes {} bytes of the window back",
            old.since(edge)
        ));
    }
    me.edge = Some(edge);
    Ok(())
}

fn options(me: &mut Half, peer: &Half, t: &TcpHdr) -> Result<(), String> {
    let o = &t.options;
    if o.mss.is_some() || o.wscale.is_some() || o.sack_permitted {
        return Err("an option of a SYN".into());
    }
    match (me.ts && peer.ts, o.ts) {
        (true, None) => return Err("no timestamp (RFC 7323 section 3.2)".into()),
        (false, Some(_)) => return Err("a timestamp that was not agreed".into()),
        (_, Some((val, ecr))) => {
            if me.last_ts.is_some_and(|l| Seq(val).before(Seq(l))) {
                return Err("the timestamp went back".into());
            }
            me.last_ts = Some(val);
            if peer.last_ts.is_some_and(|l| Seq(ecr).after(Seq(l))) {
                return Err("echoes a timestamp that was never sent".into());
            }
        }
        (false, None) => {}
    }
    let blocks = o.sack_blocks();
    if !(blocks.is_empty() || me.sack && peer.sack) {
        return Err("SACK blocks without agreement".into());
    }
    // RFC 2883 section 4: the first block may say what came twice, below the ACK or within the second block.
    let twice = match blocks {
        [(a, b), rest @ ..] => {
            let within = |(c, d): &(Seq, Seq)| c.before_eq(*a) && b.before_eq(*d);
            usize::from(b.before_eq(t.ack) || rest.first().is_some_and(within))
        }
        [] => 0,
    };
    if let Some((a, b)) = blocks.first().filter(|_| twice == 1)
        && (!a.before(*b) || b.after(peer.max))
    {
        return Err(format!("an impossible D-SACK block {a}:{b}"));
    }
    let blocks = &blocks[twice..];
    // As Linux: the ACK of a FIN that waited for data still says what was out of order.
    let behind_fin = t.ack == peer.max && blocks.iter().all(|b| b.1.before_eq(t.ack));
    let blocks = if behind_fin { &[] } else { blocks };
    for (i, (a, b)) in blocks.iter().enumerate() {
        if !a.before(*b) || a.before_eq(t.ack) || b.after(peer.max) {
            return Err(format!("an impossible SACK block {a}:{b}"));
        }
        if blocks[..i]
            .iter()
            .any(|(c, d)| a.before(*d) && c.before(*b))
        {
            return Err("SACK blocks overlap".into());
        }
    }
    Ok(())
}
