//! TCP. RFCs 9293, 6298 (RTO), 5681/6675 (recovery), 9438 (CUBIC), 7323 (window scale, timestamps, PAWS), 2018 (SACK),
//! 5961 (blind attacks), 6528 (ISN), 1122 (delayed ACK, Nagle, keep-alive), 8985 (RACK, tail-loss probe), 3168 (ECN),
//! 6937 (rate of reduction), 3522 and 5682 (undoing it), 7661 (a window that is not used).
//!
//! | folder | what |
//! |---|---|
//! | `tcb`, `state` | the control block and its states: data |
//! | `rx/` | one file per step of RFC 9293 section 3.10.7 |
//! | `tx/` | what to send next, and how |
//! | `cc/` | how much may be in flight |
//! | `flight`, `loss/` | what is in flight; what of it is lost, and whether it was |
//! | `window` | how much the peer may send |
//! | `user/` | connect, listen, accept, send, recv, shutdown, close |

pub mod cc;
mod ecn;
pub(crate) mod flight;
pub(crate) mod loss;
mod patience;
pub mod reasm;
pub mod rtt;
pub mod rx;
pub mod sack;
pub mod state;
pub mod tcb;
pub mod timers;
pub mod tx;
pub mod user;
pub(crate) mod window;
