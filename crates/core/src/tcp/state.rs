//! The states of RFC 9293 section 3.3.2, and what is common knowledge about them.

use crate::sock::Sock;
use core::sync::atomic::Ordering::{Acquire, Release};

/// A connection's state. The numbers are those of the kernel's `TCP_*` (include/net/tcp_states.h, as
/// `/proc/net/tcp`, `ss` and `TCP_INFO` show them), so that zeroed memory must be read as [`TcpState::Closed`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are RFC 9293's")]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    SynRcvd = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Closed = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
}

impl TcpState {
    /// Decodes a word of shared memory; anything unknown is [`TcpState::Closed`].
    pub const fn from_word(w: u32) -> Self {
        match w {
            1 => Self::Established,
            2 => Self::SynSent,
            3 => Self::SynRcvd,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => Self::Closed,
        }
    }

    /// The name that `ss` prints.
    pub const fn ss_name(self) -> &'static str {
        match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::SynRcvd => "SYN-RECV",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Closed => "UNCONN",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }

    /// States in which sequence numbers of both sides are agreed.
    pub const fn is_synchronised(self) -> bool {
        !matches!(
            self,
            Self::Closed | Self::Listen | Self::SynSent | Self::SynRcvd
        )
    }

    /// States in which our side may still send data.
    pub const fn can_send(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait)
    }

    /// States in which queued data and a FIN may still have to be transmitted.
    pub const fn transmits(self) -> bool {
        matches!(
            self,
            Self::Established | Self::CloseWait | Self::FinWait1 | Self::Closing | Self::LastAck
        )
    }

    /// States in which the peer may still send data.
    pub const fn can_receive(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }
}

impl Sock {
    /// The connection's state.
    #[inline]
    pub fn tcp_state(&self) -> TcpState {
        TcpState::from_word(self.state.load(Acquire))
    }

    /// Moves to another state.
    #[inline]
    pub(crate) fn set_tcp_state(&self, s: TcpState) {
        self.state.store(s as u32, Release);
    }
}
