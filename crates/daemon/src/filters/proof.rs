//! May this client have these flows? The kernel socket that it passes must hold the port. Everything is asked of the
//! kernel; nothing of the client's memory.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use flyover_proto::{FilterSpec, RefusedCode};
use flyover_wire::{Endpoint, Ip};
use rustix::net::{AddressFamily, getsockname, sockopt};

use super::key::TCP;
use crate::netns::socket_cookie;
use crate::refusal::Refusal;

fn denied(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusedCode::Denied, text)
}

/// Checks that `sock` is a socket of the namespace `netns_cookie`, of the filter's protocol, and bound to the filter's
/// local port and address; and that it listens, if the filter takes connections of any peer.
///
/// # Errors
/// What does not fit.
pub fn check_proof(
    spec: &FilterSpec,
    sock: BorrowedFd<'_>,
    netns_cookie: u64,
) -> Result<(), Refusal> {
    let cookie = socket_cookie(sock).map_err(|_| denied("the descriptor is no socket"))?;
    if cookie != netns_cookie {
        return Err(denied("the socket is of another network namespace"));
    }
    let family =
        sockopt::socket_domain(sock).map_err(|e| Refusal::failed("asking for SO_DOMAIN", e))?;
    if family != AddressFamily::INET && family != AddressFamily::INET6 {
        return Err(denied("the socket is neither IPv4 nor IPv6"));
    }
    let proto =
        sockopt::socket_protocol(sock).map_err(|e| Refusal::failed("asking for SO_PROTOCOL", e))?;
    if proto.map(|p| p.as_raw().get()) != Some(u32::from(spec.proto)) {
        return Err(denied("the socket is of another protocol"));
    }
    check_address(spec, sock, family)?;
    // Several sockets can be bound to one TCP port (SO_REUSEADDR), but only one user's can listen on it.
    if spec.proto == TCP
        && spec.remote.is_none()
        && !sockopt::socket_acceptconn(sock).unwrap_or(false)
    {
        return Err(denied("the socket does not listen"));
    }
    Ok(())
}

fn check_address(
    spec: &FilterSpec,
    sock: BorrowedFd<'_>,
    family: AddressFamily,
) -> Result<(), Refusal> {
    let name =
        getsockname(sock).map_err(|e| Refusal::failed("asking for the socket's address", e))?;
    let name = SocketAddr::try_from(name)
        .map_err(|e| Refusal::failed("reading the socket's address", e))?;
    let bound = Endpoint {
        ip: Ip::from(name.ip()),
        port: name.port(),
    };
    if bound.port == 0 || bound.port != spec.local.port {
        return Err(denied(format!(
            "the socket holds port {}, not {}",
            bound.port, spec.local.port
        )));
    }
    let v6_any = family == AddressFamily::INET6 && bound.ip.is_unspecified() && !bound.ip.is_v4();
    let takes_v4 = !v6_any || !sockopt::ipv6_v6only(sock).unwrap_or(true);
    if spec.dual && !(v6_any && takes_v4) {
        return Err(denied("the socket is not dual-stack"));
    }
    let fits = if v6_any {
        !spec.local.ip.is_v4() || takes_v4
    } else if bound.ip.is_unspecified() {
        spec.local.ip.is_v4()
    } else {
        bound.ip == spec.local.ip
    };
    if fits {
        Ok(())
    } else {
        Err(denied(format!(
            "the socket is bound to {}, not {}",
            bound.ip, spec.local.ip
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd as _;

    fn cookie() -> u64 {
        crate::netns::NetNs::here().unwrap().cookie().unwrap()
    }

    fn spec(proto: u8, ip: Ip, port: u16, dual: bool) -> FilterSpec {
        FilterSpec {
            proto,
            local: Endpoint { ip, port },
            remote: None,
            dual,
        }
    }

    #[test]
    fn a_listener_proves_its_port_only() {
        let here = cookie();
        let l = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = l.local_addr().unwrap().port();
        let check = |s: FilterSpec| check_proof(&s, l.as_fd(), here);
        check(spec(6, Ip::UNSPECIFIED_V4, port, false)).unwrap();
        check(spec(6, Ip::v4([10, 0, 0, 1]), port, false)).unwrap();
        assert!(check(spec(6, Ip::UNSPECIFIED_V4, port ^ 1, false)).is_err());
        assert!(check(spec(17, Ip::UNSPECIFIED_V4, port, false)).is_err());
        assert!(check(spec(6, Ip::UNSPECIFIED_V6, port, false)).is_err());
        assert!(check(spec(6, Ip::UNSPECIFIED_V6, port, true)).is_err());
        assert!(
            check_proof(
                &spec(6, Ip::UNSPECIFIED_V4, port, false),
                l.as_fd(),
                here ^ 1
            )
            .is_err()
        );
    }

    #[test]
    fn a_bound_address_proves_no_other() {
        let s = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = s.local_addr().unwrap().port();
        let check = |ip| check_proof(&spec(17, ip, port, false), s.as_fd(), cookie());
        check(Ip::v4([127, 0, 0, 1])).unwrap();
        assert!(check(Ip::v4([127, 0, 0, 2])).is_err());
        assert!(check(Ip::UNSPECIFIED_V4).is_err());
    }

    #[test]
    fn dual_stack_needs_a_dual_socket() {
        let l = TcpListener::bind("[::]:0").unwrap();
        let port = l.local_addr().unwrap().port();
        let check = |s: FilterSpec| check_proof(&s, l.as_fd(), cookie());
        check(spec(6, Ip::UNSPECIFIED_V6, port, true)).unwrap();
        check(spec(6, Ip::UNSPECIFIED_V4, port, false)).unwrap();
        check(spec(6, Ip::v6([0xfd; 16]), port, false)).unwrap();
    }

    #[test]
    fn lies_are_refused() {
        let here = cookie();
        let file = std::fs::File::open("/dev/null").unwrap();
        let pair = std::os::unix::net::UnixDatagram::pair().unwrap();
        let unbound = UdpSocket::bind("0.0.0.0:0").unwrap();
        let s = spec(6, Ip::UNSPECIFIED_V4, 80, false);
        assert!(check_proof(&s, file.as_fd(), here).is_err());
        assert!(check_proof(&s, pair.0.as_fd(), here).is_err());
        assert!(check_proof(&s, unbound.as_fd(), here).is_err());
        let bound = rustix::net::socket(AddressFamily::INET, rustix::net::SocketType::STREAM, None)
            .unwrap();
        rustix::net::bind(&bound, &SocketAddr::from(([0, 0, 0, 0], 0))).unwrap();
        let port = SocketAddr::try_from(getsockname(&bound).unwrap())
            .unwrap()
            .port();
        let e = check_proof(
            &spec(6, Ip::UNSPECIFIED_V4, port, false),
            bound.as_fd(),
            here,
        )
        .unwrap_err();
        assert!(e.text.contains("listen"), "{e}");
        let mut flow = spec(6, Ip::v4([10, 0, 0, 1]), port, false);
        flow.remote = Some(Endpoint {
            ip: Ip::v4([10, 0, 0, 2]),
            port: 80,
        });
        check_proof(&flow, bound.as_fd(), here).unwrap();
    }
}
