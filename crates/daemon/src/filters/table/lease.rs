//! Ports lent to a stack: one filter each, on all peers of a local address and port, which goes with the lease.

use std::collections::HashSet;

use flyover_proto::FilterSpec;
use flyover_wire::{Endpoint, Ip};

use super::{FlowMap, FlowTable};
use crate::filters::TCP;
use crate::refusal::Refusal;

impl<M: FlowMap> FlowTable<M> {
    /// Lends a port to `stack`, which may have `most` filters. The caller holds it in the kernel.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn lend(
        &mut self,
        stack: u32,
        lease: u64,
        local: Endpoint,
        most: usize,
    ) -> Result<(), Refusal> {
        let spec = FilterSpec {
            proto: TCP,
            local,
            remote: None,
            dual: false,
        };
        self.add_as(stack, spec, most, Some(lease)).map(drop)
    }

    /// What `stack` is lent, and under which number.
    pub fn lent(&self, stack: u32) -> Vec<(u64, Endpoint)> {
        let ids = self.by_stack.get(&stack).into_iter().flatten();
        let filters = ids.filter_map(|id| self.filters.get(id));
        filters
            .filter_map(|f| Some((f.leased?, f.spec.local)))
            .collect()
    }

    /// How many ports are lent, to all stacks together.
    pub fn lent_to_all(&self) -> usize {
        let leased = self.filters.values().filter(|f| f.leased.is_some());
        leased.count()
    }

    /// Takes back what `stack` was lent under other numbers than `lease`.
    pub fn end_leases(&mut self, stack: u32, lease: u64) {
        for id in self.by_stack.get(&stack).cloned().unwrap_or_default() {
            let number = self.filters.get(&id).and_then(|f| f.leased);
            if number.is_some_and(|number| number != lease) {
                self.strike(stack, id);
            }
        }
    }

    /// Local ports of `ip` that flows are steered by: a connection that ended in its kernel socket may still be there.
    pub fn ports_in_use(&self, ip: Ip) -> HashSet<u16> {
        let known = self.claims.keys().chain(self.passes.keys());
        let here = known.filter(|c| c.is_any() || c.local.ip == ip);
        here.map(|c| c.local.port).collect()
    }

    pub(super) fn is_leased(&self, id: u32) -> bool {
        self.filters.get(&id).is_some_and(|f| f.leased.is_some())
    }
}
