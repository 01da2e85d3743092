//! The transmission control block: variables of RFC 9293 section 3.3.1 and of the RFCs that extend it.
//! Data only; behaviour lives in `rx`, `tx`, `cc` and `user`.

use crate::stack::buf::Buf;
use flyover_shm::{ByteCell, HalfCell, OptIdx, SharedCell, shm_struct};

/// SACKed ranges that are remembered above SND.UNA.
pub const SACKED: usize = 16;
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
        /// Pairs in use in `sacked`.
        pub sacked_n: ByteCell,
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
        /// SND.WL2.
        pub snd_wl2: SharedCell<u32>,
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
        /// RCV.UP, meaningful with `URG_IN`.
        pub rcv_up: SharedCell<u32>,
        /// Sequence number of a FIN that is ahead of RCV.NXT; meaningful with `FIN_SEEN`.
        pub rcv_fin: SharedCell<u32>,
        /// Bytes received in order since the last ACK we sent.
        pub unacked: SharedCell<u32>,
        /// First out-of-order buffer.
        pub ooo: SharedCell<OptIdx<Buf>>,
        /// Bytes held out of order.
        pub ooo_bytes: SharedCell<u32>,
        /// Largest segment seen from the peer, bytes.
        pub rcv_mss: SharedCell<u32>,
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
        /// When the timed segment was sent, ns; 0 when none is timed.
        pub rtt_at: SharedCell<u64>,
        /// The ACK that ends the timing covers this sequence number.
        pub rtt_seq: SharedCell<u32>,

        /// Congestion window, bytes.
        pub cwnd: SharedCell<u32>,
        /// Slow-start threshold, bytes.
        pub ssthresh: SharedCell<u32>,
        /// SND.NXT when recovery began: it ends when this is acknowledged.
        pub recover: SharedCell<u32>,
        /// Next sequence number that recovery considers for retransmission.
        pub rtx_nxt: SharedCell<u32>,
        /// What is below and not SACKed counts as lost.
        pub lost_edge: SharedCell<u32>,
        /// When the segment at SND.UNA was last retransmitted, ns.
        pub head_rtx_at: SharedCell<u64>,
        /// Bytes sent again, in total.
        pub retrans: SharedCell<u32>,
        /// SACKed ranges above SND.UNA, ascending; pairs of words.
        pub sacked: [SharedCell<u32>; 32],
        /// Bytes ACKed that the window has not yet grown for.
        pub cwnd_acc: SharedCell<u32>,
        /// Reduction of the window (RFC 6937), in segments: the window before it; 0 when none goes on.
        pub prr_prior: HalfCell,
        /// What left the network since it began.
        pub prr_delivered: HalfCell,
        /// What was sent since it began.
        pub prr_out: HalfCell,
        /// Fills the gap; always 0.
        pub gap: HalfCell,
        /// When data last came, ms; 0 before the first.
        pub data_at: SharedCell<u32>,
        /// SND.NXT when the segment at SND.UNA was last retransmitted.
        pub head_rtx_nxt: SharedCell<u32>,
        /// CUBIC: W_max, bytes.
        pub w_max: SharedCell<u32>,
        /// CUBIC: W_est of the Reno-friendly region, bytes.
        pub w_est: SharedCell<u32>,
        /// CUBIC: K, ms.
        pub k_ms: SharedCell<u32>,
        /// CUBIC: cwnd at the start of the epoch, bytes.
        pub w_origin: SharedCell<u32>,
        /// CUBIC: start of the epoch, ns; 0 when there is none.
        pub epoch: SharedCell<u64>,
        /// HyStart-like: smallest sample of this round, ns.
        pub round_min: SharedCell<u64>,
        /// End of the current round.
        pub round_end: SharedCell<u32>,
        /// Samples in this round.
        pub round_n: ByteCell,
        /// Zero-window or keep-alive probes unanswered.
        pub probes: ByteCell,
        /// Duplicate ACKs in a row.
        pub dupacks: HalfCell,

        /// Deadline of retransmission, probe or SYN retry, ns; 0 is off.
        pub t_rtx: SharedCell<u64>,
        /// Deadline of the delayed ACK, ns; 0 is off.
        pub t_delack: SharedCell<u64>,
        /// Deadline of keep-alive, ns; 0 is off.
        pub t_keep: SharedCell<u64>,
        /// Deadline of TIME_WAIT, FIN_WAIT_2 or the user timeout, ns; 0 is off.
        pub t_life: SharedCell<u64>,
        /// Last time anything came from the peer, ns.
        pub last_rx: SharedCell<u64>,
        /// Last time data was sent, ns.
        pub last_tx: SharedCell<u64>,
        /// When the oldest unanswered transmission was made, ns; 0 when none: for `TCP_USER_TIMEOUT`.
        pub first_rtx: SharedCell<u64>,
        /// Rate limit of challenge ACKs: last one, ns.
        pub challenge_at: SharedCell<u64>,
        /// Out-of-band byte received; meaningful with `OOB_HERE`.
        pub oob: SharedCell<u32>,
        /// Stream position (receive-queue count) of the urgent mark.
        pub urg_mark: SharedCell<u32>,
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
    /// Urgent data was announced by the peer.
    pub const URG_IN: u32 = 1 << 8;
    /// An out-of-band byte can be read.
    pub const OOB_HERE: u32 = 1 << 9;
    /// The neighbour was unresolved at the last transmission.
    pub const BLOCKED: u32 = 1 << 10;
    /// The connection was opened actively.
    pub const ACTIVE: u32 = 1 << 11;
    /// A tail-loss probe was sent for the current flight.
    pub const TLP: u32 = 1 << 12;
    /// Sending was limited by the program, not by the network, in this flight.
    pub const APP_LIMITED: u32 = 1 << 13;
    /// `MSG_MORE`: hold back a small segment until more comes.
    pub const MORE: u32 = 1 << 14;
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
}
