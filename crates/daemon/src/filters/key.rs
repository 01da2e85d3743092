//! What a filter means: one or two claims, each on the flows of one local port.

use flyover_proto::FilterSpec;
use flyover_wire::{Endpoint, Ip};

use crate::refusal::Refusal;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;

/// A claim on flows. It is also a key of the kernel's flow map when `local.ip` is an address; a claim on any address
/// becomes one key per address of the host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Claim {
    /// IP protocol number.
    pub proto: u8,
    /// Local address and port; an unspecified address means every address of the host of that family.
    pub local: Endpoint,
    /// The peer; `None` means every peer.
    pub remote: Option<Endpoint>,
}

impl Claim {
    /// True when it stands for every local address.
    pub fn is_any(&self) -> bool {
        self.local.ip.is_unspecified()
    }

    /// The same port on one address.
    #[must_use]
    pub fn on(mut self, ip: Ip) -> Self {
        self.local.ip = ip;
        self
    }

    /// The claim that covers this one on every address of its family, if there can be one.
    pub fn as_any(&self) -> Option<Self> {
        let any = if self.local.ip.is_v4() {
            Ip::UNSPECIFIED_V4
        } else {
            Ip::UNSPECIFIED_V6
        };
        self.remote.is_none().then(|| self.on(any))
    }
}

/// The claims of a filter: two for a dual-stack listener, else one.
///
/// # Errors
/// The filter contradicts itself.
pub fn claims(spec: &FilterSpec) -> Result<Vec<Claim>, Refusal> {
    let FilterSpec {
        proto,
        local,
        remote,
        dual,
    } = *spec;
    if proto != TCP && proto != UDP {
        return Err(Refusal::bad(format!("protocol {proto} cannot be steered")));
    }
    if local.port == 0
        || local.ip.is_multicast()
        || local.ip.is_broadcast()
        || local.ip.is_loopback()
    {
        return Err(Refusal::bad("local address or port cannot be steered"));
    }
    if let Some(remote) = remote
        && (local.ip.is_unspecified()
            || dual
            || remote.port == 0
            || remote.ip.is_unspecified()
            || remote.ip.is_multicast()
            || remote.ip.is_broadcast()
            || remote.ip.is_v4() != local.ip.is_v4())
    {
        return Err(Refusal::bad("the two ends of the connection do not fit"));
    }
    let claim = Claim {
        proto,
        local,
        remote,
    };
    if !dual {
        return Ok(vec![claim]);
    }
    if !local.ip.is_unspecified() {
        return Err(Refusal::bad(
            "only a socket on every address can be dual-stack",
        ));
    }
    Ok(vec![
        claim.on(Ip::UNSPECIFIED_V4),
        claim.on(Ip::UNSPECIFIED_V6),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ip: Ip, port: u16) -> Endpoint {
        Endpoint { ip, port }
    }

    fn spec(proto: u8, local: Endpoint, remote: Option<Endpoint>, dual: bool) -> FilterSpec {
        FilterSpec {
            proto,
            local,
            remote,
            dual,
        }
    }

    #[test]
    fn a_dual_listener_claims_both_families() {
        let got = claims(&spec(TCP, at(Ip::UNSPECIFIED_V6, 80), None, true)).unwrap();
        assert_eq!(got.len(), 2);
        assert!(got.iter().all(|c| c.is_any() && c.local.port == 80));
        assert_eq!(got[0].on(Ip::v4([10, 0, 0, 1])).as_any(), Some(got[0]));
    }

    #[test]
    fn nonsense_is_refused() {
        let one = Ip::v4([10, 0, 0, 1]);
        let two = at(Ip::v4([10, 0, 0, 2]), 9);
        let six = at(Ip::v6([1; 16]), 9);
        for bad in [
            spec(1, at(one, 80), None, false),
            spec(TCP, at(one, 0), None, false),
            spec(TCP, at(Ip::v4([127, 0, 0, 1]), 80), None, false),
            spec(UDP, at(Ip::v4([224, 0, 0, 1]), 80), None, false),
            spec(TCP, at(one, 80), None, true),
            spec(TCP, at(one, 80), Some(six), false),
            spec(TCP, at(one, 80), Some(at(two.ip, 0)), false),
            spec(TCP, at(Ip::UNSPECIFIED_V4, 80), Some(two), false),
        ] {
            assert!(claims(&bad).is_err(), "{bad:?}");
        }
        assert!(claims(&spec(TCP, at(one, 80), Some(two), false)).is_ok());
    }
}
