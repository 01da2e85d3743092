//! The private truth about flows: which filter claims what for which stack, and what the kernel's map must hold.
//!
//! - A claim belongs to one stack; the same stack may claim it several times (counted).
//! - The kernel's map holds claims with an address as they are. A claim on every address is written once per address
//!   of the host instead of once for any: so packets that this host only forwards are never taken.
//! - A claim on one address wins over a claim on every address.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::time::{Duration, Instant};

use flyover_proto::{FilterSpec, RefusedCode};
use flyover_wire::{Endpoint, FlowKey, Ip};

use super::key::{Claim, claims};
use super::noted::Noted;
use crate::refusal::Refusal;

mod found;
mod lease;
mod returns;

/// What the kernel's map says of a flow that stays with the kernel (`FLOW_PASS` of bpf/flow.h).
pub const FLOW_PASS: u32 = u32::MAX;
/// With a stack's number: the same, until a packet of the flow is seen at that stack's V-NIC (`FLOW_WATCH`).
pub const FLOW_WATCH: u32 = 1 << 31;
/// How long an exception outlives its socket: the kernel's TIME_WAIT (`TCP_TIMEWAIT_LEN`), and a little.
const LINGER: Duration = Duration::from_secs(61);

/// The kernel's flow map, as far as the table needs it.
pub trait FlowMap {
    /// Steers the flows of `key` to `stack`, whoever had them.
    ///
    /// # Errors
    /// As bpf(2): the map is full.
    fn insert(&mut self, key: &Claim, stack: u32) -> io::Result<()>;
    /// Steers them no longer.
    ///
    /// # Errors
    /// As bpf(2).
    fn remove(&mut self, key: &Claim) -> io::Result<()>;
    /// What the map holds for exactly this key.
    fn get(&mut self, key: &Claim) -> Option<u32>;
    /// Notes a filter for the next daemon, or what has become of it.
    fn note(&mut self, noted: &Noted);
    /// The filter is removed.
    fn forget_filter(&mut self, id: u32);
}

#[derive(Debug)]
struct Filter {
    stack: u32,
    spec: FilterSpec,
    /// What it claims now: what its specification says, or, once narrowed, single connections.
    claims: Vec<Claim>,
    /// It claims them for the kernel.
    pass: bool,
    /// It is a port lent to the stack: under which number. Goes with the lease only.
    leased: Option<u64>,
}

#[derive(Debug)]
struct Holder {
    stack: u32,
    filters: u32,
}

/// All filters of one network namespace.
#[derive(Debug)]
pub struct FlowTable<M> {
    map: M,
    filters: HashMap<u32, Filter>,
    by_stack: HashMap<u32, BTreeSet<u32>>,
    claims: HashMap<Claim, Holder>,
    /// Connections that the kernel keeps although a claim would cover them; those with a time end then.
    passes: HashMap<Claim, Option<Instant>>,
    /// Those of them of which a stack wants to know whether their packets reach its V-NICs.
    watches: HashMap<Claim, u32>,
    /// What the kernel's map holds.
    written: HashMap<Claim, u32>,
    addrs: BTreeSet<Ip>,
    last_id: u32,
}

impl<M: FlowMap> FlowTable<M> {
    /// An empty table over an empty map.
    pub fn new(map: M) -> Self {
        Self {
            map,
            filters: HashMap::new(),
            by_stack: HashMap::new(),
            claims: HashMap::new(),
            passes: HashMap::new(),
            watches: HashMap::new(),
            written: HashMap::new(),
            addrs: BTreeSet::new(),
            last_id: 0,
        }
    }

    /// The numbers of a stack's filters above `after`, ascending, at most `most` of them; without those of lent ports.
    pub fn ids_after(&self, stack: u32, after: u32, most: usize) -> Vec<u32> {
        let ids = self.by_stack.get(&stack).into_iter();
        let above = ids.flat_map(|ids| ids.range(after.saturating_add(1)..));
        let above = above.filter(|id| !self.is_leased(**id));
        above.take(most).copied().collect()
    }

    /// The kernel's map.
    pub fn map(&self) -> &M {
        &self.map
    }

    /// The kernel's map, for what is not about filters.
    pub fn map_mut(&mut self) -> &mut M {
        &mut self.map
    }

    /// Adds a filter for `stack`, which may have `most` of them; returns its number, never 0.
    ///
    /// # Errors
    /// It contradicts itself, another stack has one of its flows, the quota is used up, the map is full.
    pub fn add(&mut self, stack: u32, spec: FilterSpec, most: usize) -> Result<u32, Refusal> {
        self.add_as(stack, spec, most, None)
    }

    fn add_as(
        &mut self,
        stack: u32,
        spec: FilterSpec,
        most: usize,
        leased: Option<u64>,
    ) -> Result<u32, Refusal> {
        let wanted = claims(&spec)?;
        if self.count(stack) >= most {
            return Err(Refusal::new(
                RefusedCode::Quota,
                format!("the stack has {most} filters already"),
            ));
        }
        if wanted
            .iter()
            .any(|c| self.claims.get(c).is_some_and(|h| h.stack != stack))
        {
            return Err(Refusal::new(
                RefusedCode::Conflict,
                "another stack has these flows",
            ));
        }
        if !spec.local.ip.is_unspecified() && !self.addrs.contains(&spec.local.ip) {
            return Err(Refusal::bad(format!(
                "{} is not an address of this host",
                spec.local.ip
            )));
        }
        self.sweep();
        if wanted
            .iter()
            .any(|c| matches!(self.passes.get(c), Some(None)))
        {
            return Err(Refusal::new(
                RefusedCode::Conflict,
                "the kernel has this connection",
            ));
        }
        // A connection of the kernel with the same addresses that has ended lingers no longer.
        self.passes.retain(|c, _| !wanted.contains(c));
        let id = self.free_id();
        let claims = wanted.clone();
        let filter = Filter {
            stack,
            spec,
            claims,
            pass: false,
            leased,
        };
        self.enter(id, filter, false);
        for claim in &wanted {
            self.claims
                .entry(*claim)
                .or_insert(Holder { stack, filters: 0 })
                .filters += 1;
        }
        if let Err(e) = wanted.iter().try_for_each(|claim| self.write(claim)) {
            self.strike(stack, id);
            return Err(Refusal::failed("writing the flow map", e));
        }
        Ok(id)
    }

    /// Removes a filter of `stack`; false when it has no such one, or it is a lent port's.
    pub fn remove(&mut self, stack: u32, id: u32) -> bool {
        !self.is_leased(id) && self.strike(stack, id)
    }

    fn strike(&mut self, stack: u32, id: u32) -> bool {
        let own = self.filters.get(&id).filter(|f| f.stack == stack);
        let Some((claims, pass)) = own.map(|f| (f.claims.clone(), f.pass)) else {
            return false;
        };
        self.leave(stack, id);
        if pass {
            let watched = claims.iter().any(|c| self.watches.remove(c).is_some());
            // What was only watched would be the kernel's anyway.
            let linger = if watched { Duration::ZERO } else { LINGER };
            let until = Instant::now() + linger;
            for claim in claims {
                self.passes.insert(claim, Some(until));
            }
            self.sweep();
        } else {
            self.release(&claims);
        }
        true
    }

    /// Keeps a connection of `stack` with the kernel from now on, whatever filters say; ends with [`Self::remove`], and
    /// then a while later, because the kernel's TIME_WAIT outlives the socket.
    ///
    /// # Errors
    /// It is no connection of the stack, the quota is used up, the map is full.
    pub fn add_pass(&mut self, stack: u32, flow: &FlowKey, most: usize) -> Result<u32, Refusal> {
        self.sweep();
        if self.stack_of(flow) != Some(stack) {
            return Err(Refusal::new(
                RefusedCode::Denied,
                "the connection is not the stack's",
            ));
        }
        self.enter_pass(stack, flow, most)
    }

    fn enter_pass(&mut self, stack: u32, flow: &FlowKey, most: usize) -> Result<u32, Refusal> {
        if self.count(stack) >= most {
            return Err(Refusal::new(
                RefusedCode::Quota,
                format!("the stack has {most} filters already"),
            ));
        }
        let claim = Claim {
            proto: flow.proto,
            local: flow.local,
            remote: Some(flow.remote),
        };
        let id = self.free_id();
        let spec = FilterSpec {
            proto: flow.proto,
            local: flow.local,
            remote: Some(flow.remote),
            dual: false,
        };
        let filter = Filter {
            stack,
            spec,
            claims: vec![claim],
            pass: true,
            leased: None,
        };
        self.enter(id, filter, false);
        self.passes.insert(claim, None);
        if let Err(e) = self.write_one(&claim) {
            self.passes.remove(&claim);
            self.leave(stack, id);
            return Err(Refusal::failed("writing the flow map", e));
        }
        Ok(id)
    }

    /// Enters a filter, noted before anything follows from it.
    fn enter(&mut self, id: u32, filter: Filter, narrowed: bool) {
        self.map.note(&Noted {
            id,
            stack: filter.stack,
            spec: filter.spec,
            pass: filter.pass,
            narrowed,
            leased: filter.leased,
        });
        self.by_stack.entry(filter.stack).or_default().insert(id);
        self.filters.insert(id, filter);
    }

    /// Strikes a filter out, whatever follows from it.
    fn leave(&mut self, stack: u32, id: u32) {
        self.filters.remove(&id);
        self.map.forget_filter(id);
        if let Entry::Occupied(mut ids) = self.by_stack.entry(stack) {
            ids.get_mut().remove(&id);
            if ids.get().is_empty() {
                ids.remove();
            }
        }
    }

    /// Ends the exceptions whose time has come.
    fn sweep(&mut self) {
        if self.passes.is_empty() {
            return;
        }
        let now = Instant::now();
        let over: Vec<Claim> = self
            .passes
            .iter()
            .filter(|(_, until)| until.is_some_and(|t| t <= now))
            .map(|(claim, _)| *claim)
            .collect();
        for claim in over {
            self.passes.remove(&claim);
            if let Err(e) = self.write_one(&claim) {
                tracing::warn!(?claim, "ending an exception: {e}");
            }
        }
    }

    fn release(&mut self, claims: &[Claim]) {
        for claim in claims {
            if let Entry::Occupied(mut holder) = self.claims.entry(*claim) {
                holder.get_mut().filters -= 1;
                if holder.get().filters == 0 {
                    holder.remove();
                }
            }
            if let Err(e) = self.write(claim) {
                tracing::warn!(?claim, "removing a flow: {e}");
            }
        }
    }

    /// Replaces what a filter of `stack` claims by these connections, which it must cover. A connection that another
    /// stack has, or that the map has no room for, is left out; false when the stack has no such filter.
    pub fn narrow(&mut self, stack: u32, id: u32, to: &[(Endpoint, Endpoint)]) -> bool {
        let own = |f: &&Filter| f.stack == stack && f.leased.is_none();
        let Some(spec) = self.filters.get(&id).filter(own).map(|f| f.spec) else {
            return false;
        };
        let mut exact: Vec<Claim> = Vec::new();
        for (local, remote) in to.iter().filter(|(local, _)| found::covers(&spec, local)) {
            let one = FilterSpec {
                local: *local,
                remote: Some(*remote),
                dual: false,
                ..spec
            };
            for claim in claims(&one).unwrap_or_default() {
                let taken = self.claims.get(&claim).is_some_and(|h| h.stack != stack);
                if !taken && !exact.contains(&claim) {
                    exact.push(claim);
                }
            }
        }
        // The new ones first: no packet of a connection falls between.
        for claim in &exact {
            self.claims
                .entry(*claim)
                .or_insert(Holder { stack, filters: 0 })
                .filters += 1;
            if let Err(e) = self.write(claim) {
                tracing::warn!(?claim, "narrowing a filter: {e}");
            }
        }
        self.map.note(&Noted {
            id,
            stack,
            spec,
            pass: false,
            narrowed: true,
            leased: None,
        });
        let old = self
            .filters
            .get_mut(&id)
            .map(|f| std::mem::replace(&mut f.claims, exact));
        self.release(&old.unwrap_or_default());
        true
    }

    /// Removes all filters of a stack.
    pub fn remove_stack(&mut self, stack: u32) {
        for id in self.by_stack.get(&stack).cloned().unwrap_or_default() {
            self.strike(stack, id);
        }
        self.sweep();
    }

    /// Tells which addresses the host has now; loopback ones are left out.
    pub fn set_addrs(&mut self, addrs: impl IntoIterator<Item = Ip>) {
        let now: BTreeSet<Ip> = addrs.into_iter().filter(|ip| !ip.is_loopback()).collect();
        let before = std::mem::replace(&mut self.addrs, now);
        let changed: Vec<Ip> = before.symmetric_difference(&self.addrs).copied().collect();
        if changed.is_empty() {
            return;
        }
        let touched: Vec<Claim> = self.claims.keys().copied().collect();
        for claim in touched {
            for ip in changed
                .iter()
                .filter(|ip| claim.is_any() && ip.is_v4() == claim.local.ip.is_v4())
            {
                if let Err(e) = self.write_one(&claim.on(*ip)) {
                    tracing::warn!(?claim, %ip, "following a change of address: {e}");
                }
            }
        }
    }

    /// How many filters a stack has.
    pub fn count(&self, stack: u32) -> usize {
        self.by_stack.get(&stack).map_or(0, BTreeSet::len)
    }

    /// The stack that gets the packets of a connection.
    pub fn stack_of(&self, flow: &FlowKey) -> Option<u32> {
        let mut claim = Claim {
            proto: flow.proto,
            local: flow.local,
            remote: Some(flow.remote),
        };
        let exact = self.owner(&claim);
        claim.remote = None;
        exact
            .or_else(|| self.owner(&claim))
            .filter(|stack| stack & FLOW_WATCH == 0)
    }

    /// The filters of a stack with their numbers, in the order of the numbers; without those of lent ports.
    pub fn of_stack(&self, stack: u32) -> Vec<(u32, FilterSpec)> {
        let ids = self.by_stack.get(&stack).into_iter().flatten();
        let mut list: Vec<_> = ids
            .filter_map(|id| Some((*id, self.filters.get(id)?)))
            .filter(|(_, f)| f.leased.is_none())
            .map(|(id, f)| (id, f.spec))
            .collect();
        list.sort_unstable_by_key(|(id, _)| *id);
        list
    }

    fn free_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let meant = self.last_id != 0 && self.last_id != flyover_core::LEASED;
            if meant && !self.filters.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Makes the kernel's map agree with the claims, where this claim matters.
    fn write(&mut self, claim: &Claim) -> io::Result<()> {
        if !claim.is_any() {
            return self.write_one(claim);
        }
        let same_family = |ip: &&Ip| ip.is_v4() == claim.local.ip.is_v4();
        let keys: Vec<Claim> = self
            .addrs
            .iter()
            .filter(same_family)
            .map(|ip| claim.on(*ip))
            .collect();
        keys.iter().try_for_each(|key| self.write_one(key))
    }

    fn write_one(&mut self, key: &Claim) -> io::Result<()> {
        match self.owner(key) {
            Some(stack) if self.written.get(key) == Some(&stack) => {}
            Some(stack) => {
                self.map.insert(key, stack)?;
                self.written.insert(*key, stack);
            }
            None => {
                if self.written.remove(key).is_some() {
                    self.map.remove(key)?;
                }
            }
        }
        Ok(())
    }

    /// Who must get the flows of a key with an address.
    fn owner(&self, key: &Claim) -> Option<u32> {
        if self.passes.contains_key(key) {
            let watcher = self.watches.get(key);
            return Some(watcher.map_or(FLOW_PASS, |stack| FLOW_WATCH | stack));
        }
        let exact = self.claims.get(key);
        let any = || {
            self.claims
                .get(&key.as_any()?)
                .filter(|_| self.addrs.contains(&key.local.ip))
        };
        exact.or_else(any).map(|holder| holder.stack)
    }

    /// The map and what it must hold, for tests.
    #[cfg(test)]
    pub(super) fn parts(&self) -> (&M, &HashMap<Claim, u32>) {
        (&self.map, &self.written)
    }
}
