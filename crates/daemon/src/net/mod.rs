//! What the daemon keeps per network namespace: the mirror of the control plane, the flow maps and programs, and the
//! stacks that live there. It lasts as long as a stack of the namespace does.

mod icmp;
mod steer;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use flyover_cplane::{Dims, Link, LinkFlags, LinkKind};
use flyover_proto::Control;

use crate::cplane::{CplaneConfig, CplaneService};
use crate::filters::FlowTable;
use crate::netns::{NetNs, NetNsId};
use crate::records::{MapsId, Records};
use crate::refusal::Refusal;
use crate::session::Progress;
use crate::stacks::Stack;

use icmp::{IcmpService, Report, Trouble};
pub use steer::Steer;

/// A network namespace with stacks.
pub struct Net {
    ns: Arc<NetNs>,
    /// Interfaces that may be used at all; empty: all.
    allowed: Vec<String>,
    /// There is no privilege for V-NICs, nor for the way there.
    local_only: bool,
    records: Option<Arc<Records>>,
    cookie: u64,
    cplane: CplaneService,
    flows: Mutex<FlowTable<Steer>>,
    stacks: Mutex<Vec<Weak<Stack>>>,
    /// Listens for ICMP errors as long as the rest exists.
    _icmp: Option<IcmpService>,
}

impl Net {
    fn open(
        ns: Arc<NetNs>,
        from: &Nets,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<Self>, Refusal> {
        let cookie = cookie(&ns)?;
        let cplane = mirror(&ns, CplaneConfig::default())?;
        progress.tick();
        let steer = if from.local_only {
            Steer::nothing()
        } else {
            ns.run(|| Steer::load(from.records.as_deref()))
                .map_err(|e| Refusal::failed("entering the network namespace", e))??
        };
        Ok(Self::over(ns, cookie, from, cplane, FlowTable::new(steer)))
    }

    /// What a daemon that died left: its flow maps, and tables in the place of its tables.
    fn found(ns: Arc<NetNs>, from: &Nets, left: Left<'_>) -> Result<Arc<Self>, Refusal> {
        let config = CplaneConfig {
            dims: left.dims,
            exact: true,
            ..CplaneConfig::default()
        };
        let cookie = cookie(&ns)?;
        let cplane = mirror(&ns, config)?;
        let flows = ns
            .run(|| Steer::found(left.mount, left.maps, left.records))
            .map_err(|e| Refusal::failed("entering the network namespace", e))??;
        let net = Self::over(ns, cookie, from, cplane, flows);
        net.flows().agree();
        Ok(net)
    }

    fn over(
        ns: Arc<NetNs>,
        cookie: u64,
        from: &Nets,
        cplane: CplaneService,
        flows: FlowTable<Steer>,
    ) -> Arc<Self> {
        let (allowed, local_only) = (from.allowed.clone(), from.local_only);
        let flows = Mutex::new(flows);
        let net = Arc::new_cyclic(|weak: &Weak<Self>| {
            let icmp = (!local_only).then(|| listen_for_errors(&ns, weak));
            Self {
                ns,
                allowed,
                local_only,
                records: from.records.clone(),
                cookie,
                cplane,
                flows,
                stacks: Mutex::default(),
                _icmp: icmp.flatten(),
            }
        });
        net.follow_addrs();
        let weak = Arc::downgrade(&net);
        net.cplane.on_change(move || {
            if let Some(net) = weak.upgrade() {
                net.follow_addrs();
                net.follow_links();
            }
        });
        net
    }

    /// The namespace.
    pub fn ns(&self) -> &NetNs {
        &self.ns
    }

    /// Its stacks have no V-NICs and never get one.
    pub fn is_local_only(&self) -> bool {
        self.local_only
    }

    /// Its cookie, which every socket of it shows.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The control plane.
    pub fn cplane(&self) -> &CplaneService {
        &self.cplane
    }

    /// The filters.
    pub fn flows(&self) -> MutexGuard<'_, FlowTable<Steer>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a stack that is told of changes of the interfaces.
    pub fn add_stack(&self, stack: Weak<Stack>) {
        let mut stacks = self.stacks.lock().unwrap_or_else(PoisonError::into_inner);
        stacks.retain(|s| s.strong_count() > 0);
        stacks.push(stack);
    }

    /// The interfaces that can have a V-NIC, in the order of their numbers. `named`: only these; a port of a bridge or
    /// bond only when it is named.
    pub fn eligible(&self, named: &[String]) -> Vec<Link> {
        let suits = |link: &Link| {
            let ether =
                link.flags.contains(LinkFlags::ETHER) && !link.flags.contains(LinkFlags::LOOPBACK);
            let is_named = named.iter().any(|name| name == link.name.as_str());
            let free = link.master == 0 && link.kind != LinkKind::Dummy;
            let allowed = self.allowed.is_empty()
                || self.allowed.iter().any(|name| name == link.name.as_str());
            allowed && ether && (is_named || (named.is_empty() && free))
        };
        let mut links: Vec<Link> = self.cplane.reader().links().filter(suits).collect();
        links.sort_unstable_by_key(|link| link.ifindex);
        links
    }

    fn follow_addrs(&self) {
        let addrs: Vec<_> = self.cplane.reader().addrs().map(|addr| addr.ip).collect();
        self.flows().set_addrs(addrs);
    }

    fn follow_links(&self) {
        self.live_stacks()
            .iter()
            .for_each(|stack| stack.follow_links(self.records.as_deref()));
    }

    fn live_stacks(&self) -> Vec<Arc<Stack>> {
        let list = self.stacks.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter_map(Weak::upgrade).collect()
    }

    /// Tells the stack whose flow an ICMP error quotes.
    fn pass_on(&self, report: &Report) {
        let Some(id) = self.flows().stack_of(&report.flow) else {
            return;
        };
        let (mtu, errno) = match report.what {
            Trouble::Mtu(mtu) => (mtu, 0),
            Trouble::Unreachable(errno) => (0, errno.raw_os_error()),
        };
        let message = Control::Icmp {
            proto: report.flow.proto,
            local: report.flow.local,
            remote: report.flow.remote,
            seq: report.seq.map(|seq| seq.0),
            mtu,
            errno,
        };
        if let Some(stack) = self.live_stacks().iter().find(|stack| stack.id == id) {
            stack.mention(&message);
        }
    }
}

/// Tells stacks of ICMP errors; they work without, if less well.
fn listen_for_errors(ns: &NetNs, net: &Weak<Net>) -> Option<IcmpService> {
    let net = net.clone();
    let pass_on = move |report: Report| {
        if let Some(net) = net.upgrade() {
            net.pass_on(&report);
        }
    };
    let started = IcmpService::start(ns, pass_on);
    started
        .inspect_err(|e| tracing::error!("no ICMP errors for stacks: {e}"))
        .ok()
}

fn cookie(ns: &NetNs) -> Result<u64, Refusal> {
    ns.cookie()
        .map_err(|e| Refusal::failed("entering the network namespace", e))
}

fn mirror(ns: &NetNs, config: CplaneConfig) -> Result<CplaneService, Refusal> {
    let started = if ns.is_here() {
        CplaneService::start_here()
    } else {
        CplaneService::start_with(ns, config)
    };
    started.map_err(|e| Refusal::failed("mirroring the control plane", e))
}

/// What a daemon that died left of a namespace.
pub struct Left<'r> {
    /// The file system that holds its maps; from a keeper, so perhaps something else.
    pub mount: OwnedFd,
    /// Which maps it must be.
    pub maps: MapsId,
    /// Sizes of its tables.
    pub dims: Dims,
    /// What it noted of its filters.
    pub records: &'r Records,
}

/// All namespaces with stacks.
pub struct Nets {
    /// Interfaces that may be used at all; empty: all.
    allowed: Vec<String>,
    /// As [`Net::is_local_only`].
    local_only: bool,
    /// Notes for the next daemon.
    records: Option<Arc<Records>>,
    places: Mutex<HashMap<NetNsId, Arc<Mutex<Weak<Net>>>>>,
    /// Those that earlier daemons left, by the number of their flow maps. A namespace can have several: a socket looks
    /// into the maps that it was made for as long as it lives.
    found: Mutex<HashMap<u32, Weak<Net>>>,
}

impl Nets {
    /// None yet.
    pub fn new(allowed: Vec<String>, local_only: bool, records: Option<Arc<Records>>) -> Self {
        Self {
            allowed,
            local_only,
            records,
            places: Mutex::default(),
            found: Mutex::default(),
        }
    }

    /// What a daemon that died left of `ns`; stacks that are made from now on join it, if it is the first.
    ///
    /// # Errors
    /// It is not what it must be, or as [`Self::open`].
    pub fn find(&self, ns: &Arc<NetNs>, left: Left<'_>) -> Result<Arc<Net>, Refusal> {
        // Rarely two at a time, and then they wait for the same.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let maps = left.maps.flows;
        if let Some(net) = found.get(&maps).and_then(Weak::upgrade) {
            return Ok(net);
        }
        let place = self.place(ns);
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let net = Net::found(ns.clone(), self, left)?;
        found.insert(maps, Arc::downgrade(&net));
        if place.strong_count() == 0 {
            *place = Arc::downgrade(&net);
        }
        Ok(net)
    }

    /// One lock per namespace: making one takes long, and concerns nobody else.
    fn place(&self, ns: &NetNs) -> Arc<Mutex<Weak<Net>>> {
        let mut map = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        map.retain(|_, place| {
            Arc::strong_count(place) > 1 || place.try_lock().is_ok_and(|n| n.strong_count() > 0)
        });
        map.entry(ns.id()).or_default().clone()
    }

    /// What is kept of `ns`, made when there is nothing yet.
    ///
    /// # Errors
    /// It cannot be entered, mirrored or steered.
    pub fn open(&self, ns: &Arc<NetNs>, progress: &mut Progress<'_>) -> Result<Arc<Net>, Refusal> {
        let place = self.place(ns);
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(net) = place.upgrade() {
            return Ok(net);
        }
        let net = Net::open(ns.clone(), self, progress)?;
        *place = Arc::downgrade(&net);
        Ok(net)
    }
}

/// Attachments and map entries need the right namespace: runs `work` there.
///
/// # Errors
/// As [`NetNs::run`], or `work`'s own.
pub fn within<T: Send>(ns: &NetNs, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    ns.run(work)?
}
