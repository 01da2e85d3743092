//! Options that are fixed when a stack is made: table sizes and protocol behaviour.

use crate::table::{Kind, Unit, options};

const fn int(min: u32, max: u32, unit: Unit) -> Kind {
    Kind::Int { min, max, unit }
}

const fn bytes(min: u32, max: u32) -> Kind {
    int(min, max, Unit::Bytes)
}

const fn millis(min: u32, max: u32) -> Kind {
    int(min, max, Unit::Millis)
}

const fn pow2(min: u32, max: u32) -> Kind {
    Kind::Pow2 { min, max }
}

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;
const GIB: u32 = 1 << 30;

options! {
    /// What a stack is like. The first process of a stack decides; whoever attaches later gets the
    /// stack as it is. Table sizes are powers of two.
    pub struct StackOpts, Stack as words {
        /// Sockets of the stack, orphans and `TIME_WAIT` included. When all are taken, further
        /// sockets stay on the kernel path, counted. Slots that were never used cost no memory.
        max_sockets: u32 = 131_072, pow2(64, 1 << 18), "FLYOVER_MAX_SOCKETS", "max-sockets",
            "sockets of a stack";
        /// Packet buffers of 4 KiB that hold data to send, to retransmit and to read. They are what
        /// most of a stack's memory goes to, but untouched ones cost nothing.
        buffers: u32 = 16384, pow2(512, 1 << 20), "FLYOVER_BUFFERS", "buffers",
            "packet buffers of 4 KiB";
        /// Registrations of sockets in epoll sets, of all sets together.
        max_items: u32 = 262_144, pow2(64, 1 << 20), "FLYOVER_MAX_ITEMS", "max-items",
            "epoll registrations";
        /// Epoll sets with accelerated members.
        max_sets: u32 = 16_384, pow2(16, 1 << 16), "FLYOVER_MAX_SETS", "max-sets",
            "epoll sets";
        /// Threads that sleep in blocking calls at the same time.
        max_waiters: u32 = 8192, pow2(16, 1 << 16), "FLYOVER_MAX_WAITERS", "max-waiters",
            "sleeping threads";
        /// V-NICs: one per interface, or one per queue of an interface with several.
        max_nics: u32 = 16, pow2(1, 16), "FLYOVER_MAX_NICS", "max-nics",
            "V-NICs of a stack";
        /// Processes attached at the same time. The sockets of further processes stay on the kernel
        /// path, counted, with a message.
        max_owners: u32 = 4096, pow2(2, 4096), "FLYOVER_MAX_OWNERS", "max-owners",
            "processes of a stack";

        /// Receive buffer of a new TCP socket, payload bytes; it grows by itself up to
        /// `tcp_rmem_max` unless `SO_RCVBUF` is set. As Linux's `tcp_rmem[1]`.
        tcp_rmem: u32 = 131_072, bytes(4 * KIB, GIB), "FLYOVER_TCP_RMEM", "tcp-rmem",
            "initial TCP receive buffer";
        /// Largest receive buffer that a TCP socket grows to. As Linux's `tcp_rmem[2]`.
        tcp_rmem_max: u32 = 6 * MIB, bytes(4 * KIB, GIB), "FLYOVER_TCP_RMEM_MAX", "tcp-rmem-max",
            "largest TCP receive buffer";
        /// Send buffer of a new TCP socket, payload bytes; it grows with the congestion window up
        /// to `tcp_wmem_max` unless `SO_SNDBUF` is set. As Linux's `tcp_wmem[1]`.
        tcp_wmem: u32 = 16_384, bytes(4 * KIB, GIB), "FLYOVER_TCP_WMEM", "tcp-wmem",
            "initial TCP send buffer";
        /// Largest send buffer that a TCP socket grows to. As Linux's `tcp_wmem[2]`.
        tcp_wmem_max: u32 = 4 * MIB, bytes(4 * KIB, GIB), "FLYOVER_TCP_WMEM_MAX", "tcp-wmem-max",
            "largest TCP send buffer";
        /// Receive buffer of a UDP socket, bytes. As Linux's `rmem_default`.
        udp_rmem: u32 = 212_992, bytes(4 * KIB, GIB), "FLYOVER_UDP_RMEM", "udp-rmem",
            "UDP receive buffer";
        /// Bytes of UDP datagrams that may wait for a neighbour or for the V-NIC. As Linux's
        /// `wmem_default`.
        udp_wmem: u32 = 212_992, bytes(4 * KIB, GIB), "FLYOVER_UDP_WMEM", "udp-wmem",
            "UDP send buffer";

        /// Upper limit of the backlog given to `listen`. As Linux's `somaxconn`.
        somaxconn: u32 = 4096, int(1, 65_535, Unit::Count), "FLYOVER_SOMAXCONN", "somaxconn",
            "largest listen backlog";
        /// Half-open connections of one listener, at most; twice its backlog if that is less. As Linux's
        /// `tcp_max_syn_backlog`.
        syn_backlog: u32 = 4096, int(8, 65_535, Unit::Count), "FLYOVER_SYN_BACKLOG", "syn-backlog",
            "half-open connections of a listener";
        /// Answer SYNs with cookies when a listener has as many half-open connections as it may have
        /// (RFC 4987 section 3.6). As Linux's `tcp_syncookies`.
        syn_cookies: bool = true, Kind::Switch, "FLYOVER_SYN_COOKIES", "syn-cookies",
            "SYN cookies when too many connections are half-open";
        /// Answer with RST when the accept queue is full, instead of letting the client try again.
        /// As Linux's `tcp_abort_on_overflow`.
        abort_on_overflow: bool = false, Kind::Switch,
            "FLYOVER_ABORT_ON_OVERFLOW", "abort-on-overflow",
            "RST when the accept queue is full";

        /// Initial congestion window, segments (RFC 6928).
        initial_cwnd: u32 = 10, int(1, 1000, Unit::Count), "FLYOVER_INITIAL_CWND", "initial-cwnd",
            "initial congestion window, segments";
        /// Start again from the initial window after an idle time of one RTO (RFC 5681 section
        /// 4.1). As Linux's `tcp_slow_start_after_idle`.
        slow_start_after_idle: bool = true, Kind::Switch,
            "FLYOVER_SLOW_START_AFTER_IDLE", "slow-start-after-idle",
            "shrink the window after idle times";
        /// Offer and use TCP timestamps (RFC 7323).
        timestamps: bool = true, Kind::Switch, "FLYOVER_TIMESTAMPS", "timestamps",
            "TCP timestamps";
        /// Offer and use window scaling (RFC 7323).
        window_scaling: bool = true, Kind::Switch, "FLYOVER_WINDOW_SCALING", "window-scaling",
            "TCP window scaling";
        /// Offer and use selective acknowledgments (RFC 2018).
        sack: bool = true, Kind::Switch, "FLYOVER_SACK", "sack",
            "selective acknowledgments";
        /// Explicit congestion notification (RFC 3168): 0 never, 1 asked for and agreed to, 2 agreed to
        /// when the peer asks. As Linux's `tcp_ecn`.
        ecn: u32 = 2, int(0, 2, Unit::Count), "FLYOVER_ECN", "ecn",
            "explicit congestion notification: 0 never, 1 ask, 2 if asked";

        /// Lower limit of the retransmission timeout. As Linux's `TCP_RTO_MIN`.
        rto_min_ms: u32 = 200, millis(1, 10_000), "FLYOVER_RTO_MIN_MS", "rto-min-ms",
            "smallest retransmission timeout";
        /// Upper limit of the retransmission timeout (RFC 6298 section 2.5 asks for at least 60 s).
        rto_max_ms: u32 = 120_000, millis(1000, 600_000), "FLYOVER_RTO_MAX_MS", "rto-max-ms",
            "largest retransmission timeout";
        /// Retransmission timeout before the first measurement (RFC 6298 section 2.1).
        rto_init_ms: u32 = 1000, millis(1, 60_000), "FLYOVER_RTO_INIT_MS", "rto-init-ms",
            "first retransmission timeout";
        /// Longest delay of an acknowledgment (RFC 9293 section 3.8.6.3 allows up to 500 ms).
        delack_ms: u32 = 40, millis(0, 500), "FLYOVER_DELACK_MS", "delack-ms",
            "longest delay of an acknowledgment";
        /// Time in `TIME_WAIT`: twice the maximum segment lifetime.
        time_wait_ms: u32 = 60_000, millis(0, 600_000), "FLYOVER_TIME_WAIT_MS", "time-wait-ms",
            "time in TIME_WAIT";
        /// Time that a closed socket waits in `FIN_WAIT2` for the peer's FIN. As Linux's
        /// `tcp_fin_timeout`.
        fin_wait2_ms: u32 = 60_000, millis(0, 600_000), "FLYOVER_FIN_WAIT2_MS", "fin-wait2-ms",
            "time in FIN_WAIT2 after close";

        /// Idle time before the first keepalive probe (sockets with `SO_KEEPALIVE`).
        keepalive_time_s: u32 = 7200, int(1, 32_767, Unit::Seconds),
            "FLYOVER_KEEPALIVE_TIME_S", "keepalive-time-s", "idle time before keepalive probes";
        /// Time between keepalive probes.
        keepalive_interval_s: u32 = 75, int(1, 32_767, Unit::Seconds),
            "FLYOVER_KEEPALIVE_INTERVAL_S", "keepalive-interval-s", "time between keepalive probes";
        /// Unanswered keepalive probes after which a connection is given up.
        keepalive_probes: u32 = 9, int(1, 127, Unit::Count),
            "FLYOVER_KEEPALIVE_PROBES", "keepalive-probes", "keepalive probes";
        /// Retransmissions of a SYN with growing distance before `connect` fails with `ETIMEDOUT`; four at even distance come
        /// before them.
        syn_retries: u32 = 6, int(0, 127, Unit::Count), "FLYOVER_SYN_RETRIES", "syn-retries",
            "retransmissions of SYN";
        /// Retransmissions of a SYN+ACK before a half-open connection is dropped.
        synack_retries: u32 = 5, int(0, 255, Unit::Count),
            "FLYOVER_SYNACK_RETRIES", "synack-retries", "retransmissions of SYN+ACK";
        /// Retransmissions of data before a connection is given up (RFC 1122's R2).
        retries2: u32 = 15, int(0, 255, Unit::Count), "FLYOVER_RETRIES2", "retries2",
            "retransmissions before giving up";
        /// As `retries2`, for connections that the application has closed.
        orphan_retries: u32 = 8, int(0, 255, Unit::Count),
            "FLYOVER_ORPHAN_RETRIES", "orphan-retries", "retransmissions of closed sockets";

        /// Smallest path MTU that an ICMP message can bring about, bytes. As Linux's `min_pmtu`.
        pmtu_min: u32 = 552, bytes(68, 1500), "FLYOVER_PMTU_MIN", "pmtu-min",
            "smallest path MTU believed";
        /// Time after which a lowered path MTU is forgotten (RFC 1191 section 6.3).
        pmtu_expires_s: u32 = 600, int(1, 86_400, Unit::Seconds),
            "FLYOVER_PMTU_EXPIRES_S", "pmtu-expires-s", "time a lowered path MTU lasts";
    }
}

impl StackOpts {
    /// Options that contradict each other, as a sentence; `None` when all is well.
    #[must_use]
    pub fn conflict(&self) -> Option<&'static str> {
        if self.tcp_rmem > self.tcp_rmem_max {
            Some("tcp_rmem is larger than tcp_rmem_max")
        } else if self.tcp_wmem > self.tcp_wmem_max {
            Some("tcp_wmem is larger than tcp_wmem_max")
        } else if self.rto_min_ms > self.rto_max_ms || self.rto_init_ms > self.rto_max_ms {
            Some("rto_min_ms or rto_init_ms is larger than rto_max_ms")
        } else {
            None
        }
    }
}
