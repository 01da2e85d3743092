//! Connections that the kernel has: the exceptions that keep them there, and those that come back, whose exception gives
//! way to a filter.

use std::time::Instant;

use flyover_proto::{FilterSpec, RefusedCode};
use flyover_wire::FlowKey;

use super::{FLOW_PASS, FlowMap, FlowTable};
use crate::filters::key::{Claim, claims};
use crate::refusal::Refusal;

impl<M: FlowMap> FlowTable<M> {
    /// Finds out whether the packets of a connection that the kernel has come in where `stack` receives: they may take another
    /// way, or other addresses until they have passed a translation. Returns the number of the exception that keeps it with the
    /// kernel meanwhile.
    ///
    /// # Errors
    /// A stack has it, the quota is used up, the map is full.
    pub fn watch(&mut self, stack: u32, flow: &FlowKey, most: usize) -> Result<u32, Refusal> {
        self.sweep();
        let claim = exactly(flow);
        if self.claims.contains_key(&claim) || self.passes.contains_key(&claim) {
            return Err(Refusal::new(
                RefusedCode::Conflict,
                "a stack has or had this connection",
            ));
        }
        self.watches.insert(claim, stack);
        self.enter_pass(stack, flow, most).inspect_err(|_| {
            self.watches.remove(&claim);
        })
    }

    /// True when packets of a connection that `stack` [watches](Self::watch) were seen at its V-NICs.
    pub fn was_seen(&mut self, stack: u32, flow: &FlowKey) -> bool {
        let claim = exactly(flow);
        self.watches.get(&claim) == Some(&stack) && self.map.get(&claim) == Some(FLOW_PASS)
    }

    /// The exception that keeps this connection of `stack` with the kernel.
    pub fn pass_of(&self, stack: u32, flow: &FlowKey) -> Option<u32> {
        let claim = Claim {
            proto: flow.proto,
            local: flow.local,
            remote: Some(flow.remote),
        };
        let own = self.by_stack.get(&stack).into_iter().flatten();
        own.copied().find(|id| {
            let filter = self.filters.get(id);
            filter.is_some_and(|f| f.pass && f.claims == [claim])
        })
    }

    /// Takes an exception back at once: the stack keeps the connection.
    pub fn cancel_pass(&mut self, stack: u32, id: u32) {
        let flow = self.filters.get(&id).filter(|f| f.pass).map(|f| f.spec);
        if self.remove(stack, id)
            && let Some(claim) = flow.and_then(|spec| claims(&spec).ok()?.pop())
        {
            self.passes.insert(claim, Some(Instant::now()));
            self.sweep();
        }
    }

    /// Steers a connection to `stack` that the kernel has, because of the exception `pass` or without one (0). Until
    /// [`Self::reclaimed`] or [`Self::unclaim`] the exception is only out of force. Returns the filter's number.
    ///
    /// # Errors
    /// As [`Self::add`], and when the exception is another one's.
    pub fn reclaim(
        &mut self,
        stack: u32,
        spec: FilterSpec,
        pass: u32,
        most: usize,
    ) -> Result<u32, Refusal> {
        let claim = claims(&spec)?;
        let own = self
            .filters
            .get(&pass)
            .is_some_and(|f| f.pass && f.stack == stack && f.claims == claim);
        let suspended: Vec<Claim> = claim.into_iter().filter(|_| own).collect();
        for claim in &suspended {
            self.passes.remove(claim);
        }
        self.add(stack, spec, most)
            .inspect_err(|_| self.resume(&suspended))
    }

    /// The stack has the connection: the exception is over, and nothing of it lingers.
    pub fn reclaimed(&mut self, stack: u32, pass: u32) {
        if self
            .filters
            .get(&pass)
            .is_some_and(|f| f.pass && f.stack == stack)
        {
            let claims = self.filters.get(&pass).map(|f| f.claims.clone());
            for claim in claims.unwrap_or_default() {
                self.watches.remove(&claim);
            }
            self.leave(stack, pass);
        }
    }

    /// The kernel keeps it: the exception is in force again.
    pub fn unclaim(&mut self, stack: u32, id: u32, pass: u32) {
        let own = self
            .filters
            .get(&pass)
            .filter(|f| f.pass && f.stack == stack)
            .map(|f| f.claims.clone());
        self.resume(&own.unwrap_or_default());
        self.remove(stack, id);
    }

    fn resume(&mut self, claims: &[Claim]) {
        for claim in claims {
            self.passes.insert(*claim, None);
            if let Err(e) = self.write_one(claim) {
                tracing::warn!(?claim, "an exception that was suspended: {e}");
            }
        }
    }
}

fn exactly(flow: &FlowKey) -> Claim {
    Claim {
        proto: flow.proto,
        local: flow.local,
        remote: Some(flow.remote),
    }
}
