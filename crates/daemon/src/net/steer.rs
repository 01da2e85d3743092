//! The kernel side of flow steering in one namespace: maps, programs on interfaces, and who uses them.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use flyover_vnic::host::bpf::{
    DropLink, Flow, FlowMaps, Found, MAX_XSKS, VnicTarget, XdpAttach, XdpAttachment,
};

use rustix::rand::{GetRandomFlags, getrandom};

use crate::filters::{Claim, FlowMap, FlowTable, Noted};
use crate::power::NO_PRIVILEGE;
use crate::records::{Ledger, MapsId, Records};
use crate::refusal::Refusal;

/// See the module. All methods that attach run in a thread of the namespace.
pub struct Steer {
    /// `None` without privilege: no flow goes to a stack.
    maps: Option<FlowMaps>,
    drops: HashMap<u32, DropLink>,
    xdps: HashMap<u32, XdpAttachment>,
    /// Stacks with a packet V-NIC, by interface; and those with XDP V-NICs, with their place in the map of sockets.
    packet_users: HashMap<u32, BTreeSet<u32>>,
    xdp_users: HashMap<u32, HashMap<u32, XskRange>>,
    /// Socket filters, by stack.
    filters: HashMap<u32, OwnedFd>,
    id: MapsId,
    /// Notes for the next daemon.
    ledger: Option<Ledger>,
}

/// Places in the map of XDP sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct XskRange {
    base: u32,
    queues: u32,
}

fn os(e: impl std::error::Error) -> io::Error {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(e) = source {
        text = format!("{text}: {e}");
        source = e.source();
    }
    io::Error::other(text)
}

impl Steer {
    /// Loads maps and programs, and begins notes of what goes into them.
    ///
    /// # Errors
    /// What the kernel says, for people.
    pub fn load(records: Option<&Records>) -> Result<Self, Refusal> {
        let failed = |e| Refusal::failed("loading the BPF programs", os(e));
        let maps = FlowMaps::load().map_err(failed)?;
        let (flows, device) = maps.identity().map_err(failed)?;
        // Without notes everything works, but for the next daemon.
        let ledger = records.and_then(|records| {
            let ledger = records.ledger(flows, true);
            ledger
                .inspect_err(|e| tracing::error!("no notes of filters: {e}"))
                .ok()
        });
        Ok(Self::over(Some(maps), MapsId { flows, device }, ledger))
    }

    /// For a daemon without privilege: steers nothing.
    pub fn nothing() -> Self {
        let none = MapsId {
            flows: 0,
            device: 0,
        };
        Self::over(None, none, None)
    }

    fn over(maps: Option<FlowMaps>, id: MapsId, mut ledger: Option<Ledger>) -> Self {
        if let Some(ledger) = &mut ledger {
            ledger.own();
        }
        Self {
            maps,
            drops: HashMap::new(),
            xdps: HashMap::new(),
            packet_users: HashMap::new(),
            xdp_users: HashMap::new(),
            filters: HashMap::new(),
            id,
            ledger,
        }
    }

    /// The maps and programs of a daemon that died, which `mount` keeps, with its filters.
    ///
    /// # Errors
    /// They are others, or what the kernel says.
    pub fn found(
        mount: OwnedFd,
        id: MapsId,
        records: &Records,
    ) -> Result<FlowTable<Self>, Refusal> {
        let failed = |e| Refusal::failed("finding the BPF programs", os(e));
        let ledger = records.ledger(id.flows, false);
        let mut ledger = ledger.map_err(|e| Refusal::failed("reading the notes of filters", e))?;
        let mut number = [0; 4];
        getrandom(&mut number, GetRandomFlags::empty())
            .map_err(|e| Refusal::failed("choosing numbers", e))?;
        let number = u32::from_ne_bytes(number);
        // Last: what it finds is detached when it is dropped.
        let (maps, found) = FlowMaps::found(mount, (id.flows, id.device)).map_err(failed)?;
        let noted: Vec<Noted> = ledger.found();
        let mut steer = Self::over(Some(maps), id, Some(ledger));
        let Found {
            drops,
            xdps,
            vnics,
            flows,
        } = found;
        steer.drops.extend(drops);
        steer.xdps.extend(xdps);
        for (ifindex, stack, at) in vnics {
            match at {
                VnicTarget::Packet => {
                    steer.packet_users.entry(ifindex).or_default().insert(stack);
                }
                VnicTarget::Xdp { xsk_base, queues } => {
                    let range = XskRange {
                        base: xsk_base,
                        queues: queues.min(MAX_XSKS),
                    };
                    let users = steer.xdp_users.entry(ifindex).or_default();
                    users.insert(stack, range);
                }
            }
        }
        let written = flows.into_iter().map(|(flow, stack)| {
            let claim = Claim {
                proto: flow.proto,
                local: flow.local,
                remote: flow.remote,
            };
            (claim, stack)
        });
        Ok(FlowTable::found(steer, &noted, written, number))
    }

    /// Which maps these are.
    pub fn id(&self) -> MapsId {
        self.id
    }

    /// The stacks that receive somewhere.
    pub fn users(&self) -> BTreeSet<u32> {
        let packet = self.packet_users.values().flatten();
        let xdp = self.xdp_users.values().flat_map(HashMap::keys);
        packet.chain(xdp).copied().collect()
    }

    /// The stack ends: it receives nowhere any longer.
    pub fn leave_all(&mut self, stack: u32) {
        let packet = self.packet_users.iter();
        let packet = packet.filter(|(_, users)| users.contains(&stack));
        let xdp = self.xdp_users.iter();
        let xdp = xdp.filter(|(_, users)| users.contains_key(&stack));
        let places: BTreeSet<u32> = packet
            .map(|(i, _)| *i)
            .chain(xdp.map(|(i, _)| *i))
            .collect();
        for ifindex in places {
            self.leave(ifindex, stack);
        }
        self.forget(stack);
    }

    fn maps(&mut self) -> io::Result<&mut FlowMaps> {
        self.maps
            .as_mut()
            .ok_or_else(|| io::Error::new(io::ErrorKind::PermissionDenied, NO_PRIVILEGE))
    }

    /// Keeps maps and programs in place after the daemon's death, for keepers; `None` when there are none.
    pub fn keepalive(&self) -> Option<BorrowedFd<'_>> {
        self.maps.as_ref().map(FlowMaps::keepalive)
    }

    /// The socket filter that lets a stack's flows into its packet sockets.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn stack_filter(&mut self, stack: u32) -> io::Result<OwnedFd> {
        if let Some(filter) = self.filters.get(&stack) {
            return filter.try_clone();
        }
        let filter = self.maps()?.stack_filter(stack).map_err(os)?;
        let copy = filter.try_clone()?;
        self.filters.insert(stack, filter);
        Ok(copy)
    }

    /// The stack has ended.
    pub fn forget(&mut self, stack: u32) {
        self.filters.remove(&stack);
    }

    /// A stack receives on an interface by a packet socket: keeps the kernel's stack from its flows there.
    ///
    /// # Errors
    /// As bpf(2).
    pub fn use_packet(&mut self, ifindex: u32, stack: u32) -> io::Result<()> {
        if !self.drops.contains_key(&ifindex) {
            let link = self.maps()?.attach_drop(ifindex).map_err(os)?;
            self.drops.insert(ifindex, link);
        }
        self.packet_users.entry(ifindex).or_default().insert(stack);
        let set = self
            .maps()?
            .set_vnic(ifindex, stack, VnicTarget::Packet)
            .map_err(os);
        if set.is_err() {
            self.leave(ifindex, stack);
        }
        set
    }

    /// Attaches the XDP program to an interface, before its sockets are made; kept until [`Self::leave`].
    ///
    /// # Errors
    /// As bpf(2); another XDP program is there.
    pub fn prepare_xdp(&mut self, ifindex: u32, how: XdpAttach) -> io::Result<()> {
        if !self.xdps.contains_key(&ifindex) {
            let attachment = self.maps()?.attach_xdp(ifindex, how).map_err(os)?;
            self.xdps.insert(ifindex, attachment);
        }
        Ok(())
    }

    /// A stack receives on an interface by AF_XDP sockets, one per queue.
    ///
    /// # Errors
    /// As bpf(2); the map of sockets is full.
    pub fn use_xdp(
        &mut self,
        ifindex: u32,
        stack: u32,
        socks: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let queues = u32::try_from(socks.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let base = self.free_range(queues).ok_or(io::ErrorKind::StorageFull)?;
        self.xdp_users
            .entry(ifindex)
            .or_default()
            .insert(stack, XskRange { base, queues });
        let maps = self.maps()?;
        let mut done = Ok(());
        for (at, sock) in (base..).zip(socks) {
            done = done.and_then(|()| maps.set_xsk(at, *sock));
        }
        let target = VnicTarget::Xdp {
            xsk_base: base,
            queues,
        };
        let done = done
            .and_then(|()| maps.set_vnic(ifindex, stack, target))
            .map_err(os);
        if done.is_err() {
            self.leave(ifindex, stack);
        }
        done
    }

    /// The stack receives on the interface no longer. The last one detaches the program.
    pub fn leave(&mut self, ifindex: u32, stack: u32) {
        let Some(maps) = &mut self.maps else { return };
        if let Err(e) = maps.remove_vnic(ifindex, stack) {
            tracing::warn!(ifindex, stack, "removing a V-NIC from the map: {e}");
        }
        if let Some(users) = self.packet_users.get_mut(&ifindex) {
            users.remove(&stack);
        }
        if self
            .packet_users
            .get(&ifindex)
            .is_none_or(BTreeSet::is_empty)
        {
            self.packet_users.remove(&ifindex);
            self.drops.remove(&ifindex);
        }
        if let Some(range) = self
            .xdp_users
            .get_mut(&ifindex)
            .and_then(|users| users.remove(&stack))
        {
            for at in range.base..range.base + range.queues {
                let _: Result<(), _> = maps.remove_xsk(at);
            }
        }
        if self.xdp_users.get(&ifindex).is_none_or(HashMap::is_empty) {
            self.xdp_users.remove(&ifindex);
            self.xdps.remove(&ifindex);
        }
    }

    /// How the XDP program is attached to an interface, for people.
    pub fn xdp_mode(&self, ifindex: u32) -> Option<String> {
        self.xdps
            .get(&ifindex)
            .map(|a| format!("{:?}", a.mode).to_lowercase())
    }

    fn free_range(&self, queues: u32) -> Option<u32> {
        let mut taken: Vec<XskRange> = self
            .xdp_users
            .values()
            .flat_map(|users| users.values().copied())
            .collect();
        taken.sort_unstable_by_key(|range| range.base);
        let mut at = 0;
        for range in taken {
            if range.base >= at + queues {
                break;
            }
            at = range.base + range.queues;
        }
        (at + queues <= MAX_XSKS).then_some(at)
    }
}

impl FlowMap for Steer {
    fn insert(&mut self, key: &Claim, stack: u32) -> io::Result<()> {
        self.maps()?.insert(&flow(key), stack).map_err(os)
    }
    fn remove(&mut self, key: &Claim) -> io::Result<()> {
        self.maps()?.remove(&flow(key)).map_err(os)
    }
    fn get(&mut self, key: &Claim) -> Option<u32> {
        self.maps().ok()?.owner(&flow(key))
    }
    fn note(&mut self, noted: &Noted) {
        if let Some(ledger) = &mut self.ledger {
            ledger.set(noted);
        }
    }
    fn forget_filter(&mut self, id: u32) {
        if let Some(ledger) = &mut self.ledger {
            ledger.remove(id);
        }
    }
}

fn flow(claim: &Claim) -> Flow {
    let Claim {
        proto,
        local,
        remote,
    } = *claim;
    Flow {
        proto,
        local,
        remote,
    }
}
