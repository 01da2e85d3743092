//! The transmission control block: variables of RFC 9293 section 3.3.1 and of the RFCs that extend it.
//! Data only; behaviour lives in `rx`, `tx`, `cc` and `user`.

use crate::stack::buf::Buf;
use flyover_shm::{ByteCell, HalfCell, OptIdx, SharedCell, shm_struct};

/// Ranges above RCV.NXT that are reported to the peer.
pub const RSACK: usize = 4;

shm_struct! {
    /// Control block of one connection. Sequence numbers are raw words; `Seq` wraps them when they are loaded.
    pub struct Tcb {
        // Small numbers.
        /// Shift count of the peer's window field.
        pub snd_scale: ByteCell,
        /// Shift count of our window field.
        pub rcv_scale: ByteCell,
        /// [`crate::tcp::cc::Phase`].
        pub phase: ByteCell,
        /// What `t_rtx` means: [`rtx`].
        pub rtx_kind: ByteCell,
        /// Runs in use in the socket's [`crate::tcp::flight::Table`].
        pub runs_n: ByteCell,
        /// Pairs in use in `rsack`.
        pub rsack_n: ByteCell,
        /// Consecutive timeouts.
        pub backoff: ByteCell,
        /// Segments that are still to be acknowledged at once (quick-ACK mode).
        pub quick: ByteCell,

        /// Initial send sequence number.
        pub iss: SharedCell<u32>,
        /// SND.UNA.
        pub snd_una: SharedCell<u32>,
        /// SND.NXT: first sequence number never sent.
        pub snd_nxt: SharedCell<u32>,
        /// SND.WND in bytes.
        pub snd_wnd: SharedCell<u32>,
        /// SND.WL1.
        pub snd_wl1: SharedCell<u32>,
        /// Last time anything was sent, us.
        pub wstamp: SharedCell<u32>,
        /// Largest window the peer ever offered, bytes.
        pub max_wnd: SharedCell<u32>,
        /// SND.UP, meaningful with `URG_OUT`.
        pub snd_up: SharedCell<u32>,
        /// End of the last segment that was smaller than a full one (Minshall's SND.SML).
        pub snd_sml: SharedCell<u32>,
        /// Buffers in the reassembly queue.
        pub ooo_bufs: SharedCell<u32>,
        /// MSS the peer announced, bytes without options.
        pub peer_mss: HalfCell,
        /// Payload bytes of a full segment, options already taken off.
        pub mss: HalfCell,
        /// [`tflag`] bits.
        pub tflags: SharedCell<u32>,
        /// TS.Recent of RFC 7323.
        pub ts_recent: SharedCell<u32>,

        /// Initial receive sequence number.
        pub irs: SharedCell<u32>,
        /// RCV.NXT.
        pub rcv_nxt: SharedCell<u32>,
        /// Right edge of the window that the peer was told (RCV.NXT + RCV.WND).
        pub rcv_adv: SharedCell<u32>,
        /// Sequence number of a FIN that is ahead of RCV.NXT; meaningful with `FIN_SEEN`.
        pub rcv_fin: SharedCell<u32>,
        /// Segments with payload received.
        pub data_in: SharedCell<u32>,
        /// Bytes received in order since the last ACK we sent.
        pub unacked: SharedCell<u32>,
        /// First out-of-order buffer.
        pub ooo: SharedCell<OptIdx<Buf>>,
        /// Bytes held out of order.
        pub ooo_bytes: SharedCell<u32>,
        /// Largest segment seen from the peer, bytes.
        pub rcv_mss: HalfCell,
        /// The window is not opened further than this yet, in units of 16 bytes; 0 and the largest: no limit.
        pub rcv_ssthresh: HalfCell,
        /// Receive auto-tuning: RCV.NXT at the start of the measurement.
        pub drs_seq: SharedCell<u32>,
        /// Receive auto-tuning: bytes copied to the program in the last round trip.
        pub drs_space: SharedCell<u32>,
        /// Receive auto-tuning: start of the measurement, ns.
        pub drs_time: SharedCell<u64>,
        /// Ranges above RCV.NXT to report, most recent first; pairs of words.
        pub rsack: [SharedCell<u32>; 8],
        /// What came twice, meaningful with `DSACK`: its first sequence number.
        pub dsack_lo: SharedCell<u32>,
        /// The one behind it.
        pub dsack_hi: SharedCell<u32>,

        /// When `ts_recent` was stored, ns.
        pub ts_recent_at: SharedCell<u64>,
        /// Added to the clock for the TSval of this connection.
        pub ts_off: SharedCell<u32>,
        /// Last ACK number sent (Last.ACK.sent of RFC 7323).
        pub last_ack_sent: SharedCell<u32>,

        /// Smoothed round-trip time, ns; 0 before the first sample.
        pub srtt: SharedCell<u64>,
        /// Round-trip time variation, ns.
        pub rttvar: SharedCell<u64>,
        /// Smallest sample, ns.
        pub min_rtt: SharedCell<u64>,
        /// Retransmission timeout, ns, without back-off.
        pub rto: SharedCell<u64>,
        /// When the SYN was sent, ns; 0 when it is not timed.
        pub rtt_at: SharedCell<u64>,
        /// Mean deviation of the round-trip time, ns.
        pub mdev: SharedCell<u64>,
        /// Its largest value in this round trip, ns.
        pub mdev_max: SharedCell<u64>,
        /// When `min_rtt` was taken, ns.
        pub min_rtt_at: SharedCell<u64>,
        /// SND.NXT when this round trip of `mdev_max` began.
        pub rtt_seq: SharedCell<u32>,
        /// Timeouts since SND.UNA last moved.
        pub retransmits: ByteCell,
        /// Index of the first run there.
        pub runs_first: ByteCell,
        /// An error that the timers will tell of, if nothing is acknowledged before: an errno.
        pub soft_error: HalfCell,

        /// Congestion window, segments.
        pub cwnd: SharedCell<u32>,
        /// Slow-start threshold, segments.
        pub ssthresh: SharedCell<u32>,
        /// Segments acknowledged that the window has not yet grown for.
        pub cwnd_acc: SharedCell<u32>,
        /// Linux's `high_seq`: SND.NXT when the phase began; recovery ends when this is acknowledged.
        pub recover: SharedCell<u32>,
        /// Segments sent and not acknowledged cumulatively.
        pub packets_out: SharedCell<u32>,
        /// Those of them that are SACKed; without SACK, duplicate ACKs.
        pub sacked_out: SharedCell<u32>,
        /// Those that count as lost.
        pub lost_out: SharedCell<u32>,
        /// Those that were sent again and are not acknowledged.
        pub retrans_out: SharedCell<u32>,
        /// Segments delivered to the peer, in total.
        pub delivered: SharedCell<u32>,
        /// Segments taken for lost, in total.
        pub lost: SharedCell<u32>,
        /// Bytes sent again, in total.
        pub retrans: SharedCell<u32>,
        /// Segments sent again, in total.
        pub total_retrans: SharedCell<u32>,
        /// Segments that the peer said came twice, in total.
        pub dsack_dups: SharedCell<u32>,
        /// Segments above a hole that are taken for a loss; more where the network changes the order.
        pub reordering: SharedCell<u32>,
        /// How often a changed order was seen.
        pub reord_seen: SharedCell<u32>,
        /// When the oldest retransmission of this episode was made, ms as the timestamp clock counts; 0 for none.
        pub retrans_stamp: SharedCell<u32>,
        /// SND.UNA when the window was last reduced; meaningful with [`tflag::UNDO`].
        pub undo_marker: SharedCell<u32>,
        /// Retransmissions of this episode that were not shown to be unnecessary; `u32::MAX` when there was none yet.
        pub undo_retrans: SharedCell<u32>,
        /// The time that the last segment echoed, as `retrans_stamp`; 0 for none.
        pub echo: SharedCell<u32>,
        /// The threshold before the reduction; 0 when it cannot be undone.
        pub prior_ssthresh: SharedCell<u32>,
        /// SND.NXT when the tail-loss probe went out; meaningful with [`tflag::TLP`].
        pub tlp_high: SharedCell<u32>,
        /// RACK (RFC 8985): when the last delivered segment was sent, us.
        pub rack_at: SharedCell<u32>,
        /// RACK: its end.
        pub rack_end: SharedCell<u32>,
        /// RACK: its round-trip time, us.
        pub rack_rtt: SharedCell<u32>,
        /// RACK: SND.NXT when the reordering window was last widened.
        pub rack_round: SharedCell<u32>,
        /// RACK: width of the reordering window, quarters of the smallest round-trip time.
        pub reo_steps: ByteCell,
        /// RACK: recoveries until it is narrow again.
        pub reo_persist: ByteCell,
        /// Two counts of four bits each: [`Tcb::round_n`], and above it [`Tcb::waits`].
        pub small: ByteCell,
        /// Zero-window or keep-alive probes unanswered.
        pub probes: ByteCell,
        /// Reduction of the window (RFC 6937), in segments: the window before it.
        pub prior_cwnd: SharedCell<u32>,
        /// What left the network since it began.
        pub prr_delivered: SharedCell<u32>,
        /// What was sent since it began.
        pub prr_out: SharedCell<u32>,
        /// Most segments in flight in this window (RFC 7661).
        pub max_out: SharedCell<u32>,
        /// SND.NXT when `max_out` was noted.
        pub usage_end: SharedCell<u32>,
        /// Most segments in flight since the window was last full.
        pub cwnd_used: SharedCell<u32>,
        /// When the window was last full, ms.
        pub cwnd_stamp: SharedCell<u32>,
        /// When data last came, ms; 0 before the first.
        pub data_at: SharedCell<u32>,
        /// CUBIC: W_max, segments.
        pub w_max: SharedCell<u32>,
        /// CUBIC: W_est of the Reno-friendly region, segments.
        pub w_est: SharedCell<u32>,
        /// CUBIC: K, 1024ths of a second.
        pub k: SharedCell<u32>,
        /// CUBIC: origin of the curve, segments.
        pub w_origin: SharedCell<u32>,
        /// CUBIC: start of the epoch, ms; 0 when there is none.
        pub epoch: SharedCell<u32>,
        /// CUBIC: segments acknowledged since.
        pub epoch_acked: SharedCell<u32>,
        /// CUBIC: the window grows by one for so many acknowledged segments.
        pub cubic_cnt: SharedCell<u32>,
        /// CUBIC: the window at the last computation, segments.
        pub cubic_cwnd: SharedCell<u32>,
        /// CUBIC: when that was, ms.
        pub cubic_at: SharedCell<u32>,
        /// CUBIC: smallest round-trip time, us.
        pub delay_min: SharedCell<u32>,
        /// HyStart: smallest sample of this round, us.
        pub round_min: SharedCell<u32>,
        /// HyStart: end of the current round.
        pub round_end: SharedCell<u32>,
        /// HyStart: start of the current round, us.
        pub round_at: SharedCell<u32>,
        /// HyStart: last ACK of the train, us.
        pub train_at: SharedCell<u32>,

        /// Deadline of retransmission, probe or SYN retry, ns; 0 is off.
        pub t_rtx: SharedCell<u64>,
        /// Deadline of the delayed ACK, ns; 0 is off.
        pub t_delack: SharedCell<u64>,
        /// Deadline of keep-alive, ns; 0 is off.
        pub t_keep: SharedCell<u64>,
        /// Deadline of TIME_WAIT, FIN_WAIT_2 or the user timeout, ns; 0 is off.
        pub t_life: SharedCell<u64>,
        /// Last time data was sent, ns.
        pub last_tx: SharedCell<u64>,
        /// When the oldest unanswered transmission was made, ns; 0 when none: for `TCP_USER_TIMEOUT`.
        pub first_rtx: SharedCell<u64>,
        /// Rate limit of challenge ACKs: last one, ns.
        pub challenge_at: SharedCell<u64>,
    }
}

/// Bits of the lower count in [`Tcb::small`], and the most that either can be.
const LOW: u32 = 4;
const SMALL: u32 = (1 << LOW) - 1;

impl Tcb {
    /// Samples in this round.
    pub fn round_n(&self) -> u32 {
        self.small.get() & SMALL
    }

    /// Sets it.
    pub fn set_round_n(&self, n: u32) {
        self.small.set(self.waits() << LOW | n.min(SMALL));
    }

    /// How often something had to wait for the neighbour, in a row.
    pub fn waits(&self) -> u32 {
        self.small.get() >> LOW
    }

    /// Sets it.
    pub fn set_waits(&self, n: u32) {
        self.small.set(n.min(SMALL) << LOW | self.round_n());
    }
}

/// Bits of [`Tcb::tflags`].
pub mod tflag {
    /// Window scaling agreed.
    pub const WSCALE: u32 = 1 << 0;
    /// Timestamps agreed.
    pub const TS: u32 = 1 << 1;
    /// SACK agreed.
    pub const SACK: u32 = 1 << 2;
    /// The program has closed its sending direction: a FIN follows the data.
    pub const FIN_QUEUED: u32 = 1 << 3;
    /// The FIN was sent (it occupies SND.NXT - 1).
    pub const FIN_SENT: u32 = 1 << 4;
    /// A FIN was seen ahead of RCV.NXT.
    pub const FIN_SEEN: u32 = 1 << 5;
    /// An ACK must go out now.
    pub const ACK_NOW: u32 = 1 << 6;
    /// Urgent data is to be sent.
    pub const URG_OUT: u32 = 1 << 7;
    /// Records have ends in the send queue, or had (`MSG_EOR`).
    pub const RECORDS: u32 = 1 << 8;
    /// What came last was a full segment that does not end anything: more is under way. Not of a V-NIC that merges.
    pub const MORE_COMES: u32 = 1 << 9;
    /// The neighbour was unresolved at the last transmission.
    pub const BLOCKED: u32 = 1 << 10;
    /// Our SYN has left.
    pub const ACTIVE: u32 = 1 << 11;
    /// A tail-loss probe was sent for the current flight.
    pub const TLP: u32 = 1 << 12;
    /// Sending was limited by the congestion window in this flight.
    pub const CWND_LIMITED: u32 = 1 << 13;
    /// `MSG_MORE`: hold back a small segment until more comes.
    pub const MORE: u32 = 1 << 14;
    /// In SYN_SENT: a program sleeps in `send`.
    pub const SENDER: u32 = MORE;
    /// The V-NIC was full: try again at the next poll.
    pub const TX_FULL: u32 = 1 << 15;
    /// Simultaneous open: SYN_RCVD reached from SYN_SENT.
    pub const SIMULTANEOUS: u32 = 1 << 16;
    /// The last FIN we sent is acknowledged.
    pub const FIN_ACKED: u32 = 1 << 17;
    /// The next ACK says what came twice (RFC 2883).
    pub const DSACK: u32 = 1 << 18;
    /// The last byte queued came with `MSG_MORE`: it is not pushed.
    pub const NO_PUSH: u32 = 1 << 23;
    /// The ACK does not wait for the end of the batch: every such segment has one of its own (RFC 5681 section 4.2).
    pub const ACK_EACH: u32 = 1 << 24;
    /// What must not wait.
    pub const ACK_AT_ONCE: u32 = ACK_NOW | ACK_EACH;
    /// The program answers what comes: acknowledgments ride on the answers (Linux's "ping-pong" mode).
    pub const ANSWERS: u32 = 1 << 25;
    /// ECN agreed.
    pub const ECN: u32 = 1 << 19;
    /// The peer's packets were ECT at least once.
    pub const ECN_SEEN: u32 = 1 << 20;
    /// What we send says ECE, until the peer's CWR.
    pub const ECN_ECHO: u32 = 1 << 21;
    /// The next new data says CWR.
    pub const ECN_CWR: u32 = 1 << 22;
    /// The reduction of the window may turn out to have been a mistake.
    pub const UNDO: u32 = 1 << 26;
    /// The tail-loss probe was something sent before.
    pub const TLP_AGAIN: u32 = 1 << 27;
    /// After a timeout: was it spurious (RFC 5682)?
    pub const FRTO: u32 = 1 << 28;
    /// RACK: something new was delivered.
    pub const RACK_NEWS: u32 = 1 << 29;
    /// RACK: the peer said that something came twice.
    pub const RACK_DSACK: u32 = 1 << 30;
    /// HyStart has ended slow start.
    pub const HYSTART: u32 = 1 << 31;
}

/// Meanings of [`Tcb::rtx_kind`].
pub mod rtx {
    /// Off.
    pub const NONE: u32 = 0;
    /// Retransmission (RFC 6298).
    pub const RTO: u32 = 1;
    /// Tail-loss probe (RFC 8985 section 7).
    pub const TLP: u32 = 2;
    /// Zero-window probe (RFC 9293 section 3.8.6.1).
    pub const PERSIST: u32 = 3;
    /// The neighbour was unresolved or the V-NIC full: try again.
    pub const RETRY: u32 = 4;
    /// The reordering window (RFC 8985 section 6.3).
    pub const REO: u32 = 5;
}
