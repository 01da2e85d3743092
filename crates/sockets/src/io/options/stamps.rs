//! Time stamps of what arrives: seven options share four bits of state, as in the kernel's `sock_set_timestamp`.

use super::STAMPS;

/// One of the options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stamp {
    /// `SO_TIMESTAMP`, in microseconds; `true`: the number for 64-bit time.
    Micros(bool),
    /// `SO_TIMESTAMPNS`.
    Nanos(bool),
    /// `SO_TIMESTAMPING`.
    Flags(bool),
}

/// A stamp is told.
pub const ON: u32 = 1 << 10;
/// In nanoseconds.
pub const NANOS: u32 = 1 << 11;
/// Under the new numbers.
pub const NEW: u32 = 1 << 12;
/// `SO_TIMESTAMPING` asks for software stamps of what arrives.
pub const SOFTWARE: u32 = 1 << 13;

/// `SOF_TIMESTAMPING_SOFTWARE` of linux/net_tstamp.h: tell them. They are made while any socket of the host asks for
/// them, and here always.
const REPORT: u32 = 1 << 4;
/// The flags of `SO_TIMESTAMPING` that ask for stamps of what is sent: hardware, software, scheduler, acknowledgement,
/// completion.
pub const OF_SENDING: u32 = 1 << 0 | 1 << 1 | 1 << 8 | 1 << 9 | 1 << 18;

/// The state after the option was set to `value`.
pub fn after(state: u32, which: Stamp, value: u32) -> u32 {
    let on = value != 0;
    let with = |s: u32, bit: u32, on: bool| if on { s | bit } else { s & !bit };
    let s = match which {
        Stamp::Micros(new) | Stamp::Nanos(new) => {
            let s = with(state, ON, on);
            let s = with(s, NANOS, on && matches!(which, Stamp::Nanos(_)));
            if on { with(s, NEW, new) } else { s }
        }
        Stamp::Flags(new) => {
            let s = with(state, NEW, new && on);
            with(s, SOFTWARE, value & REPORT != 0)
        }
    };
    s & STAMPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_wins() {
        let s = after(0, Stamp::Nanos(false), 1);
        assert_eq!(s, ON | NANOS);
        assert_eq!(after(s, Stamp::Micros(true), 1), ON | NEW);
        assert_eq!(after(s, Stamp::Micros(false), 0), 0);
        assert_eq!(after(s, Stamp::Flags(false), 0x18), ON | NANOS | SOFTWARE);
    }
}
