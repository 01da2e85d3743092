//! Neighbours: who is on a link under which MAC address, and the row that holds it.

use flyover_shm::{OptIdx, SeqCount, SharedCell, shm_struct};
use flyover_wire::{Ip, Mac};

/// A neighbour as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neigh {
    /// Interface that it is on.
    pub ifindex: u32,
    /// Its address on the link.
    pub ip: Ip,
    /// Its MAC address; meaningless unless [`NeighState::is_usable`].
    pub mac: Mac,
    /// What the kernel thinks of it.
    pub state: NeighState,
}

/// State of a neighbour (`NUD_*`, rtnetlink(7); RFC 4861 section 7.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NeighState {
    /// Known by name only, or resolution has just been asked for.
    None = 0,
    /// The kernel is asking for its MAC address.
    Incomplete = 1,
    /// It answered lately.
    Reachable = 2,
    /// It has not been heard of for a while; its MAC address is used until it is disproved.
    Stale = 3,
    /// A packet went to a stale neighbour; a probe follows unless it is heard of.
    Delay = 4,
    /// The kernel is asking whether it is still there.
    Probe = 5,
    /// It did not answer.
    Failed = 6,
    /// Set by hand.
    Permanent = 7,
}

impl NeighState {
    /// May packets be sent to its MAC address (`NUD_VALID`)?
    #[must_use]
    pub const fn is_usable(self) -> bool {
        match self {
            Self::Reachable | Self::Stale | Self::Delay | Self::Probe | Self::Permanent => true,
            Self::None | Self::Incomplete | Self::Failed => false,
        }
    }

    /// Name for logs and dumps.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Delay => "delay",
            Self::Probe => "probe",
            Self::Failed => "failed",
            Self::Permanent => "permanent",
        }
    }

    fn decode(word: u32) -> Self {
        match word {
            1 => Self::Incomplete,
            2 => Self::Reachable,
            3 => Self::Stale,
            4 => Self::Delay,
            5 => Self::Probe,
            6 => Self::Failed,
            7 => Self::Permanent,
            _ => Self::None,
        }
    }
}

shm_struct! {
    /// A neighbour in the table. Free when `ifindex` is 0. Its version lies in a table of its own,
    /// so that moving all versions touches few cache lines.
    pub struct NeighRow {
        pub seq: SeqCount,
        /// Next row of the same hash chain.
        pub next: SharedCell<OptIdx<NeighRow>>,
        pub ip_high: SharedCell<u64>,
        pub ip_low: SharedCell<u64>,
        pub mac: SharedCell<u64>,
        pub ifindex: SharedCell<u32>,
        pub state: SharedCell<u32>,
    }
}

impl NeighRow {
    /// The neighbour in this row; `None` when the row is free or changes too fast.
    pub(crate) fn load(&self) -> Option<Neigh> {
        let neigh = self.seq.read(|| Neigh {
            ifindex: self.ifindex.get(),
            ip: Ip::from_halves(self.ip_high.get(), self.ip_low.get()),
            mac: Mac::from_u64(self.mac.get()),
            state: NeighState::decode(self.state.get()),
        })?;
        (neigh.ifindex != 0).then_some(neigh)
    }

    #[cfg(feature = "writer")]
    pub(crate) fn store(&self, neigh: Option<&Neigh>) {
        self.seq.write(|| {
            self.ifindex.set(neigh.map_or(0, |neigh| neigh.ifindex));
            if let Some(neigh) = neigh {
                self.ip_high.set(neigh.ip.hi());
                self.ip_low.set(neigh.ip.lo());
                self.mac.set(neigh.mac.to_u64());
                self.state.set(neigh.state as u32);
            }
        });
    }
}
