//! The table of a daemon that died, from what it noted and what the kernel's map holds.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{FLOW_WATCH, Filter, FlowMap, FlowTable, Holder, LINGER};
use crate::filters::Noted;
use crate::filters::key::{Claim, claims};
use flyover_proto::FilterSpec;
use flyover_wire::Endpoint;

impl<M: FlowMap> FlowTable<M> {
    /// The table over a map that holds `written`. The map stays as it is until [`Self::agree`], so that no connection is
    /// without its flow meanwhile. New filters get numbers from `number` on: what somebody still wants removed of the
    /// daemon before shall not be one of this one.
    pub fn found(
        map: M,
        noted: &[Noted],
        written: impl IntoIterator<Item = (Claim, u32)>,
        number: u32,
    ) -> Self {
        let mut table = Self::new(map);
        table.last_id = number;
        table.written = written.into_iter().collect();
        let (narrowed, whole): (Vec<&Noted>, _) = noted.iter().partition(|n| n.narrowed);
        for noted in whole {
            let claims = claims(&noted.spec).unwrap_or_default();
            table.find(noted, claims);
        }
        // What no whole filter explains.
        let single: Vec<(Claim, u32)> = table
            .written
            .iter()
            .filter(|(claim, _)| claim.remote.is_some() && !table.claims.contains_key(claim))
            .map(|(claim, stack)| (*claim, *stack))
            .collect();
        for noted in narrowed {
            let of = |(claim, stack): &(Claim, u32)| {
                let own = *stack == noted.stack && claim.proto == noted.spec.proto;
                (own && covers(&noted.spec, &claim.local)).then_some(*claim)
            };
            // Two filters may cover a connection: it stays until both are gone.
            table.find(noted, single.iter().filter_map(of).collect());
        }
        // The kernel's connections that have ended: how long ago is not noted.
        let until = Instant::now() + LINGER;
        let ended = table
            .written
            .iter()
            .filter(|(_, stack)| **stack & FLOW_WATCH != 0);
        for claim in ended.map(|(claim, _)| *claim) {
            table.passes.entry(claim).or_insert(Some(until));
        }
        table
    }

    fn find(&mut self, noted: &Noted, claims: Vec<Claim>) {
        let Noted {
            id,
            stack,
            spec,
            pass,
            leased,
            ..
        } = *noted;
        for claim in &claims {
            if pass {
                self.passes.insert(*claim, None);
            } else {
                self.claims
                    .entry(*claim)
                    .or_insert(Holder { stack, filters: 0 })
                    .filters += 1;
            }
        }
        self.by_stack.entry(stack).or_default().insert(id);
        let filter = Filter {
            stack,
            spec,
            claims,
            pass,
            leased,
        };
        self.filters.insert(id, filter);
    }

    /// Makes the kernel's map agree with the table, once the addresses are known.
    pub fn agree(&mut self) {
        let keys: BTreeSet<Claim> = self
            .claims
            .keys()
            .chain(self.written.keys())
            .copied()
            .collect();
        for claim in keys {
            if let Err(e) = self.write(&claim) {
                tracing::warn!(?claim, "a flow of an earlier daemon: {e}");
            }
        }
    }

    /// The stacks that have filters.
    pub fn stacks(&self) -> Vec<u32> {
        self.by_stack.keys().copied().collect()
    }
}

/// Whether a filter on `spec` may be narrowed to connections of this local end.
pub(super) fn covers(spec: &FilterSpec, local: &Endpoint) -> bool {
    local.port == spec.local.port
        && (spec.local.ip == local.ip
            || (spec.local.ip.is_unspecified()
                && (spec.dual || spec.local.ip.is_v4() == local.ip.is_v4())))
}
