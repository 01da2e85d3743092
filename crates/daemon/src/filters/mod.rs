//! Which flows go to which stack. `proof.rs`: may this client have them? `table.rs`: the private truth, with the
//! kernel's maps as its mirror. `key.rs`: what a filter means in terms of flows.

mod key;
mod noted;
mod proof;
mod table;

#[cfg(test)]
mod table_tests;

#[cfg(test)]
use key::claims;
pub use key::{Claim, TCP};
pub use noted::Noted;
pub use proof::check_proof;
pub use table::{FlowMap, FlowTable};
