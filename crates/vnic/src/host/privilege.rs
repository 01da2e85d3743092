//! What this process may do, as far as V-NICs need it: tried, not concluded from its user number. Root of a user
//! namespace or of a container has a number and capabilities that the kernel does not honour here.

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};
use rustix::thread::{CapabilitySet, capabilities};

/// What making V-NICs, steering flows and serving other namespaces and users takes.
const NEEDED: [(CapabilitySet, &str); 5] = [
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
    // Also for loading the BPF programs.
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN"),
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
];

/// The names of the capabilities that `flyoverd` needs and the calling thread lacks; all of them when its user namespace
/// is not the machine's, or when it cannot be found out. Empty: it can make V-NICs.
pub fn missing_privileges() -> Vec<&'static str> {
    let effective = if counts_here() {
        capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective)
    } else {
        CapabilitySet::empty()
    };
    let lacks = |(cap, _): &&(CapabilitySet, _)| !effective.contains(*cap);
    NEEDED.iter().filter(lacks).map(|(_, name)| *name).collect()
}

/// True when CAP_NET_ADMIN is held in the machine's user namespace, which `SO_RCVBUFFORCE` (socket(7)) asks for whatever
/// namespaces the process is in. Then its other capabilities are of that namespace, too.
fn counts_here() -> bool {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
        .and_then(|sock| sockopt::set_socket_recv_buffer_size_force(&sock, 4096))
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::set_capabilities;

    fn missing_without(given_up: CapabilitySet) -> Vec<&'static str> {
        let mut sets = capabilities(None).unwrap();
        sets.effective -= given_up;
        set_capabilities(None, sets).unwrap();
        missing_privileges()
    }

    #[test]
    fn capabilities_that_were_given_up_are_missing() {
        if !missing_privileges().is_empty() {
            return;
        }
        // Capabilities are a thread's own: the other tests keep theirs.
        let check = || {
            assert_eq!(missing_without(CapabilitySet::NET_RAW), ["CAP_NET_RAW"]);
            // Without CAP_NET_ADMIN nothing says that the others count.
            assert_eq!(
                missing_without(CapabilitySet::NET_ADMIN).len(),
                NEEDED.len()
            );
        };
        std::thread::spawn(check).join().unwrap();
    }
}
