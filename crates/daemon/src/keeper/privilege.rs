//! Giving up what the keeper does not need. The daemon has started it as the client's user; when that is root, its
//! capabilities go here.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// Drops all capabilities for good. Called before the process has a second thread.
///
/// # Errors
/// As prctl(2), capset(2).
pub fn give_up() -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    // Without CAP_SETPCAP there is nothing in the bounding set that could be gained: no_new_privs sees to that.
    for cap in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(cap) {
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    Ok(())
}
