//! The SACK blocks of a segment (RFC 2018), and what came twice (RFC 2883).

use super::super::cc::Phase;
use super::super::flight::{Flight, RUNS, Run, mark};
use super::super::tcb::tflag;
use super::{Ack, delivered, highest, rack, reordered, sent_after, tell};
use flyover_wire::{Seq, TcpHdr};

type Block = (Seq, Seq);

/// Notes them all; `hdr` is the segment's.
pub(crate) fn take_sacks(t: Flight<'_>, hdr: &TcpHdr, a: &mut Ack) {
    let n = usize::from(hdr.options.sack_n).min(4);
    let blocks = hdr.options.sack.get(..n).unwrap_or(&[]);
    if t.tflags.get() & tflag::SACK == 0 || blocks.is_empty() {
        return;
    }
    let twice = is_dsack(t, hdr.ack, blocks, a);
    if t.packets_out.get() == 0 {
        return;
    }
    if t.len() + 2 * n > RUNS {
        t.make_room();
    }
    let mut order: [Option<(Block, bool)>; 4] = [None; 4];
    for (i, (slot, b)) in order.iter_mut().zip(blocks).enumerate() {
        let dup = twice && i == 0;
        *slot = (is_valid(t, dup, *b) && b.1.after(a.una)).then_some((*b, dup));
    }
    let una = Seq(t.snd_una.get());
    order.sort_unstable_by_key(|b| b.map_or(u32::MAX, |(b, _)| b.0.since(una.back(1 << 30))));
    let mut low = Seq(t.snd_nxt.get());
    for (block, dup) in order.iter().flatten() {
        walk(t, *block, *dup, &mut low, a);
    }
    if t.cc_phase() != Phase::Loss || t.tflags.get() & tflag::UNDO != 0 {
        reordered(t, low);
    }
}

/// The first block tells of something that came twice (`tcp_check_dsack`).
fn is_dsack(t: Flight<'_>, ack: Seq, blocks: &[Block], a: &mut Ack) -> bool {
    let Some(first) = blocks.first() else {
        return false;
    };
    let within = |o: &Block| !first.1.after(o.1) && !first.0.before(o.0);
    if !first.0.before(ack) && !blocks.get(1).is_some_and(within) {
        return false;
    }
    let len = first.1.since(first.0);
    if !first.0.before(first.1) || len > t.max_wnd.get() {
        return false;
    }
    let f = t.tflags.get();
    let (mss, mut n) = (t.mss.get().max(1), 1);
    if len > mss {
        n = len.div_ceil(mss);
    } else if f & tflag::TLP != 0 && Seq(t.tlp_high.get()) == first.1 {
        a.told |= tell::DSACK_TLP;
    }
    t.dsack_dups.set(t.dsack_dups.get().saturating_add(n));
    if t.dsack_dups.get() > t.total_retrans.get() {
        // More than we ever sent twice: the network doubles packets.
        return false;
    }
    if t.reord_seen.get() > 0 && !a.has(tell::DSACK_TLP) {
        t.tflags.set(f | tflag::RACK_DSACK);
    }
    a.told |= tell::DSACK;
    delivered(t, n);
    let marker = Seq(t.undo_marker.get());
    if f & tflag::UNDO != 0 && !first.1.after(a.una) && first.1.after(marker) {
        unneeded(t, n);
    }
    true
}

/// So many retransmissions of this episode were not needed.
fn unneeded(t: Flight<'_>, n: u32) {
    let left = t.undo_retrans.get();
    if left > 0 && left != u32::MAX {
        t.undo_retrans.set(left.saturating_sub(n));
    }
}

/// `tcp_is_sackblock_valid`.
fn is_valid(t: Flight<'_>, dup: bool, (start, end): Block) -> bool {
    let (una, nxt) = (Seq(t.snd_una.get()), Seq(t.snd_nxt.get()));
    if end.after(nxt) || !start.before(end) || !start.before(nxt) {
        return false;
    }
    if start.after(una) {
        return true;
    }
    if !dup || t.tflags.get() & tflag::UNDO == 0 || end.after(una) {
        return false;
    }
    let marker = Seq(t.undo_marker.get());
    !start.before(marker) || end.after(marker) && !start.before(end.back(t.max_wnd.get()))
}

/// Whole segments within the block are tagged.
fn walk(t: Flight<'_>, block: Block, dup: bool, low: &mut Seq, a: &mut Ack) {
    let mut i = 0;
    while let Some(r) = t.get(i) {
        if !r.start.before(block.1) {
            break;
        }
        let news = dup || !r.has(mark::SACKED);
        if news && r.end.after(block.0) && carve(t, i, &r, block) {
            tag(t, i, dup, low, a);
            let _: bool = t.tidy(i + 1);
            if t.tidy(i) {
                continue;
            }
        }
        i += 1;
    }
}

/// Cuts the run so that what lies in the block is by itself. True: the run is wholly in it; false: it begins before it (the
/// rest is the next run), or no segment of it is whole in the block.
fn carve(t: Flight<'_>, i: usize, r: &Run, (start, end): Block) -> bool {
    if r.start.before(start) {
        let at = r.end_of(start.since(r.start).div_ceil(r.unit));
        if at.before(r.end) && at.before(end) {
            let _: bool = t.split(i, at);
        }
        return false;
    }
    if r.end.after(end) {
        let at = r.end_of(end.since(r.start) / r.unit);
        return at.after(r.start) && t.split(i, at);
    }
    true
}

/// `tcp_sacktag_one`.
fn tag(t: Flight<'_>, i: usize, dup: bool, low: &mut Seq, a: &mut Ack) {
    let Some(mut r) = t.get(i) else { return };
    let n = r.count();
    if dup && r.has(mark::RETRANS | mark::EVER) {
        let marker = Seq(t.undo_marker.get());
        if t.tflags.get() & tflag::UNDO != 0 && r.end.after(marker) {
            unneeded(t, n);
        }
        if r.has(mark::SACKED) {
            *low = low.earliest(r.start);
        }
    }
    if !r.has(mark::SACKED) {
        rack::advance(t, &r, a.now);
        if r.has(mark::RETRANS) {
            if r.has(mark::LOST) {
                r.marks &= !(mark::LOST | mark::RETRANS);
            }
        } else {
            if !r.has(mark::EVER) {
                if r.start.before(highest(t)) {
                    *low = low.earliest(r.start);
                }
                if !r.end.after(Seq(t.recover.get())) {
                    a.told |= tell::ORIGINAL;
                }
                if !r.has(mark::VAGUE) {
                    let (first, last) = a.sack_times.unwrap_or((r.at, r.at));
                    let later = sent_after((r.at, r.end), (last, Seq(0)));
                    a.sack_times = Some((first, if later { r.at } else { last }));
                }
            }
            r.marks &= !mark::LOST;
        }
        r.marks |= mark::SACKED;
        a.told |= tell::SACKED;
        delivered(t, n);
    }
    if dup && r.has(mark::RETRANS) {
        r.marks &= !mark::RETRANS;
    }
    t.set(i, &r);
}
