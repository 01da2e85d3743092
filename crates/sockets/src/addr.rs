//! Socket addresses as bytes: `sockaddr_in`, `sockaddr_in6` and (for the library's own sockets) `sockaddr_un`.
//! Layouts: `ip(7)`, `ipv6(7)`, `unix(7)`.

use flyover_wire::{Endpoint, Ip};

use crate::errno::Errno;

/// An address of any family in the kernel's layout.
#[derive(Clone, Copy)]
pub struct Addr {
    bytes: [u8; 128],
    len: u8,
}

impl Default for Addr {
    fn default() -> Self {
        Self {
            bytes: [0; 128],
            len: 0,
        }
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Addr").field(&self.as_bytes()).finish()
    }
}

impl Addr {
    /// The bytes as the application gave them; longer than `sockaddr_storage` is `EINVAL`.
    pub fn from_bytes(raw: &[u8]) -> Result<Self, Errno> {
        let mut a = Self::default();
        let into = a.bytes.get_mut(..raw.len()).ok_or(Errno::EINVAL)?;
        into.copy_from_slice(raw);
        a.len = raw.len() as u8;
        Ok(a)
    }

    /// The address of `ep` for a socket of the family (`v6`: `AF_INET6`, IPv4 addresses v4-mapped).
    pub fn inet(ep: Endpoint, v6: bool) -> Self {
        Self::inet_scoped(ep, v6, 0)
    }

    /// As [`Addr::inet`] with the `sin6_scope_id` of a link-local address.
    pub fn inet_scoped(ep: Endpoint, v6: bool, scope: u32) -> Self {
        let mut a = Self::default();
        if v6 {
            put(&mut a.bytes, 0, &(libc::AF_INET6 as u16).to_ne_bytes());
            put(&mut a.bytes, 2, &ep.port.to_be_bytes());
            put(&mut a.bytes, 8, &ep.ip.0);
            put(&mut a.bytes, 24, &scope.to_ne_bytes());
            a.len = 28;
        } else {
            put(&mut a.bytes, 0, &(libc::AF_INET as u16).to_ne_bytes());
            put(&mut a.bytes, 2, &ep.port.to_be_bytes());
            put(&mut a.bytes, 4, &ep.ip.as_v4().unwrap_or([0; 4]));
            a.len = 16;
        }
        a
    }

    /// `AF_UNSPEC`: `connect` to it dissolves a connection.
    pub fn nowhere() -> Self {
        Self {
            len: 16,
            ..Self::default()
        }
    }

    /// An abstract Unix address (`unix(7)`): the name without its leading zero byte, at most 100 bytes.
    pub fn unix_abstract(name: &[u8]) -> Self {
        let mut a = Self::default();
        let n = name.len().min(100);
        put(&mut a.bytes, 0, &(libc::AF_UNIX as u16).to_ne_bytes());
        put(&mut a.bytes, 3, name.get(..n).unwrap_or_default());
        a.len = 3 + n as u8;
        a
    }

    /// `AF_UNSPEC`: what breaks a connection off (connect(2)).
    pub fn unspec() -> Self {
        Self {
            len: 16,
            ..Self::default()
        }
    }

    /// The bytes in use.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// The whole buffer, for the kernel to write into; set the length with [`Addr::set_len`] afterwards.
    pub fn buffer(&mut self) -> &mut [u8; 128] {
        &mut self.bytes
    }

    /// Says how many bytes of the buffer are valid.
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(128) as u8;
    }

    /// The address family, 0 (`AF_UNSPEC`) when there is none.
    pub fn family(&self) -> i32 {
        match self.as_bytes() {
            [a, b, ..] => i32::from(u16::from_ne_bytes([*a, *b])),
            _ => 0,
        }
    }

    /// The IP endpoint, `None` when this is not a complete inet address.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let b = self.as_bytes();
        let port = u16::from_be_bytes([*b.get(2)?, *b.get(3)?]);
        let ip = match self.family() {
            libc::AF_INET if b.len() >= 16 => Ip::v4(take(b, 4)?),
            libc::AF_INET6 if b.len() >= 24 => Ip::v6(take(b, 8)?),
            _ => return None,
        };
        Some(Endpoint { ip, port })
    }

    /// `sin6_scope_id`, 0 when there is none.
    pub fn scope(&self) -> u32 {
        match self.family() {
            libc::AF_INET6 => take(self.as_bytes(), 24).map_or(0, u32::from_ne_bytes),
            _ => 0,
        }
    }
}

fn put(into: &mut [u8], at: usize, what: &[u8]) {
    if let Some(s) = into.get_mut(at..at.saturating_add(what.len())) {
        s.copy_from_slice(what);
    }
}

fn take<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inet_addresses_survive() {
        let four = Endpoint {
            ip: Ip::v4([10, 1, 2, 3]),
            port: 8080,
        };
        let a = Addr::inet(four, false);
        assert_eq!(a.as_bytes().len(), 16);
        assert_eq!(a.endpoint(), Some(four));
        let mapped = Addr::inet(four, true);
        assert_eq!(mapped.as_bytes().len(), 28);
        assert_eq!(mapped.endpoint(), Some(four));
        assert_eq!(mapped.family(), libc::AF_INET6);
    }

    #[test]
    fn short_and_long_addresses_are_not_endpoints() {
        assert!(Addr::from_bytes(&[0; 129]).is_err());
        let a = Addr::from_bytes(
            &Addr::inet(
                Endpoint {
                    ip: Ip::v4([1; 4]),
                    port: 1,
                },
                false,
            )
            .as_bytes()[..8],
        );
        assert_eq!(a.unwrap().endpoint(), None);
    }
}
