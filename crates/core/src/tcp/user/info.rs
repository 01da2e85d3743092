//! `TCP_INFO`, queue sizes and the like: true values of the endpoint.

use crate::sock::net::NetSock;
use crate::sock::{Sock, SockId, flag};
use crate::stack::Stack;
use crate::tcp::state::TcpState;
use crate::tcp::tcb::tflag;
use crate::time::{Instant, MS, US};
use core::sync::atomic::Ordering::Relaxed;
use flyover_wire::Seq;

/// What `TCP_INFO` tells (linux/tcp.h names; times in microseconds unless named otherwise).
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of struct tcp_info")]
pub struct TcpInfo {
    pub state: u8,
    pub ca_state: u8,
    pub retransmits: u8,
    pub probes: u8,
    pub backoff: u8,
    pub options: u8,
    pub snd_wscale: u8,
    pub rcv_wscale: u8,
    pub rto: u32,
    pub ato: u32,
    pub snd_mss: u32,
    pub rcv_mss: u32,
    pub unacked: u32,
    pub sacked: u32,
    pub lost: u32,
    pub retrans: u32,
    pub last_data_sent_ms: u32,
    pub last_data_recv_ms: u32,
    pub last_ack_recv_ms: u32,
    pub pmtu: u32,
    pub rcv_ssthresh: u32,
    pub rtt: u32,
    pub rttvar: u32,
    pub snd_ssthresh: u32,
    pub snd_cwnd: u32,
    pub advmss: u32,
    pub rcv_space: u32,
    pub total_retrans: u32,
    pub reordering: u32,
    pub dsack_dups: u32,
    pub reord_seen: u32,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    pub notsent_bytes: u32,
    pub min_rtt: u32,
    pub snd_wnd: u32,
    pub rcv_wnd: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    pub delivered: u32,
}

/// What was queued after `from` when the connection was reset: as Linux, it goes on to be told.
fn lost(s: NetSock<'_>, from: u32) -> u32 {
    let end = Seq(s.net.tcb.recover.get());
    if s.rport.get() == 0 || !end.after(Seq(from)) {
        return 0;
    }
    end.since(Seq(from))
}

/// 1 while our FIN is queued or in flight: Linux counts its number with the bytes.
fn fin_owed(s: NetSock<'_>) -> u32 {
    let f = s.net.tcb.tflags.get();
    let owed = f & tflag::FIN_QUEUED != 0 && f & tflag::FIN_ACKED == 0;
    u32::from(owed && s.tcp_state() != TcpState::Closed)
}

/// Linux's TIME_WAIT is no longer the program's socket, which is closed.
fn state_of(s: &Sock) -> u8 {
    match s.tcp_state() {
        TcpState::TimeWait => TcpState::Closed as u8,
        state => state as u8,
    }
}

impl Stack<'_> {
    /// What can be said of an end of a pair: the kernel knows the rest of its own connection beside it.
    fn local_info(self, id: SockId) -> TcpInfo {
        let s = self.sock(id);
        let sent = s.bytes_out.load(Relaxed);
        TcpInfo {
            state: state_of(s),
            last_data_sent_ms: u32::MAX,
            last_data_recv_ms: u32::MAX,
            bytes_acked: sent,
            bytes_received: s.bytes_in.load(Relaxed),
            bytes_sent: sent,
            notsent_bytes: crate::local::unacked(self, s),
            ..TcpInfo::default()
        }
    }

    /// A snapshot for `TCP_INFO` at time `now`. Values may belong to different moments.
    pub fn tcp_info(self, id: SockId, now: Instant) -> TcpInfo {
        let Some(s) = self.net_of(id).filter(|s| !s.has(flag::PAIRED)) else {
            return self.local_info(id);
        };
        let t = &s.net.tcb;
        let mss = t.mss.get().max(1);
        let flight = Seq(t.snd_nxt.get()).since(Seq(t.snd_una.get()));
        let f = t.tflags.get();
        let bit = |flag: u32, v: u8| if f & flag != 0 { v } else { 0 };
        let us = |ns: u64| u32::try_from(ns / US).unwrap_or(u32::MAX);
        let ago = |at: u64| u32::try_from(now.since(Instant(at)) / MS).unwrap_or(u32::MAX);
        let queued = s.net.sq_len.load(Relaxed);
        TcpInfo {
            state: state_of(&s),
            ca_state: t.phase.get().min(4) as u8,
            retransmits: t.retransmits.get() as u8,
            probes: t.probes.get().min(255) as u8,
            backoff: t.backoff.get().min(255) as u8,
            options: bit(tflag::TS, 1)
                | bit(tflag::SACK, 2)
                | bit(tflag::WSCALE, 4)
                | bit(tflag::ECN, 8)
                | bit(tflag::ECN_SEEN, 16),
            snd_wscale: t.snd_scale.get() as u8,
            rcv_wscale: t.rcv_scale.get() as u8,
            rto: us(crate::tcp::rtt::rto(t, &self.opts)),
            ato: self.opts.delack_ms.saturating_mul(1000),
            snd_mss: mss,
            rcv_mss: t.rcv_mss.get(),
            unacked: t.packets_out.get(),
            sacked: t.sacked_out.get(),
            lost: t.lost_out.get(),
            retrans: t.retrans_out.get(),
            last_data_sent_ms: ago(t.last_tx.get()),
            // Nothing has come yet: since it began.
            last_data_recv_ms: match t.data_at.get() {
                0 => ago(t.drs_time.get()),
                at => now.ms32().wrapping_sub(at),
            },
            last_ack_recv_ms: ago(s.last_rx.get()),
            pmtu: s.net.rt_mtu.get(),
            rcv_ssthresh: t.rcv_ssthresh.get() << 4,
            rtt: us(t.srtt.get()),
            rttvar: us(t.mdev.get()),
            snd_ssthresh: t.ssthresh.get(),
            snd_cwnd: t.cwnd.get(),
            advmss: u32::from(super::connect::our_mss(s)) - u32::from(bit(tflag::TS, 12)),
            rcv_space: t.drs_space.get(),
            total_retrans: t.total_retrans.get(),
            reordering: t.reordering.get(),
            dsack_dups: t.dsack_dups.get(),
            reord_seen: t.reord_seen.get(),
            bytes_acked: s.bytes_out.load(Relaxed).saturating_sub(u64::from(flight)),
            bytes_received: s.bytes_in.load(Relaxed),
            bytes_sent: s
                .bytes_out
                .load(Relaxed)
                .saturating_add(u64::from(t.retrans.get())),
            bytes_retrans: u64::from(t.retrans.get()),
            segs_out: s.segs_out.load(Relaxed),
            segs_in: s.segs_in.load(Relaxed),
            notsent_bytes: queued.saturating_sub(flight),
            min_rtt: us(t.min_rtt.get()),
            snd_wnd: t.snd_wnd.get(),
            rcv_wnd: Seq(t.rcv_adv.get()).since(Seq(t.rcv_nxt.get())),
            data_segs_in: s.net.tcb.data_in.get(),
            data_segs_out: s.net.data_out.get(),
            delivered: t.delivered.get(),
        }
    }

    /// `SIOCINQ`: bytes that can be read now; an urgent mark ahead ends them, a FIN does not count.
    pub fn inq(self, id: SockId) -> u32 {
        let s = self.sock(id);
        let queued = s.rq_available();
        match super::oob::stop_at(s) {
            Some(mark) if !s.has(flag::OOBINLINE) => {
                let ahead = mark.wrapping_sub(s.rq_out.load(Relaxed));
                if ahead < 1 << 31 {
                    ahead.min(queued)
                } else {
                    queued
                }
            }
            _ => queued,
        }
    }

    /// `SIOCOUTQ`: bytes not yet acknowledged, sent or not.
    pub fn outq(self, id: SockId) -> u32 {
        if self.is_paired(id) {
            return crate::local::unacked(self, self.sock(id));
        }
        let Some(s) = self.net_of(id) else { return 0 };
        if s.tcp_state() == TcpState::Closed {
            return lost(s, s.net.tcb.snd_una.get());
        }
        s.net.sq_len.load(Relaxed).saturating_add(fin_owed(s))
    }

    /// `SIOCOUTQNSD`: bytes not yet sent.
    pub fn outq_unsent(self, id: SockId) -> u32 {
        let Some(s) = self.net_of(id) else { return 0 };
        if s.tcp_state() == TcpState::Closed {
            return lost(s, s.net.tcb.snd_nxt.get());
        }
        let flight = Seq(s.net.tcb.snd_nxt.get()).since(Seq(s.net.tcb.snd_una.get()));
        let queued = s.net.sq_len.load(Relaxed).saturating_add(fin_owed(s));
        queued.saturating_sub(flight)
    }

    /// True when everything sent, FIN included, is acknowledged: what `SO_LINGER` waits for.
    pub fn all_acked(self, id: SockId) -> bool {
        let Some(s) = self.net_of(id) else {
            return true;
        };
        let t = &s.net.tcb;
        s.net.sq_len.load(Relaxed) == 0
            && (t.tflags.get() & tflag::FIN_QUEUED == 0 || t.tflags.get() & tflag::FIN_ACKED != 0)
    }
}
