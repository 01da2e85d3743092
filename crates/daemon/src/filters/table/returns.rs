//! Connections that come back from the kernel: the exception that kept them there gives way to a filter.

use flyover_proto::FilterSpec;

use super::{FlowMap, FlowTable};
use crate::filters::key::{Claim, claims};
use crate::refusal::Refusal;

impl<M: FlowMap> FlowTable<M> {
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
