//! Just enough netlink to ask one question: a request message, and the attributes of its answer.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

const HEADER: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A netlink socket of one protocol.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

/// The part of an answer after the netlink header.
#[derive(Debug)]
pub(super) struct Answer(Vec<u8>);

/// A request under construction: type-specific header, then attributes.
#[derive(Debug)]
pub(super) struct Request {
    kind: u16,
    body: Vec<u8>,
}

impl Request {
    pub(super) fn new(kind: u16, header: &[u8]) -> Self {
        Self {
            kind,
            body: header.to_vec(),
        }
    }

    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let len = (4 + value.len()) as u16;
        self.body.extend_from_slice(&len.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }
}

impl Netlink {
    /// `protocol`: `libc::NETLINK_*`.
    pub(super) fn open(protocol: i32) -> io::Result<Self> {
        let protocol = u32::try_from(protocol)
            .ok()
            .and_then(core::num::NonZeroU32::new)
            .map(rustix::net::Protocol::from_raw);
        Ok(Self(socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?))
    }

    /// Sends a request that has one message for an answer.
    pub(super) fn ask(&self, request: &Request) -> io::Result<Answer> {
        let len = (HEADER + request.body.len()) as u32;
        let mut message = Vec::with_capacity(len as usize);
        message.extend_from_slice(&len.to_ne_bytes());
        message.extend_from_slice(&request.kind.to_ne_bytes());
        message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        message.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        message.extend_from_slice(&request.body);
        let _sent: usize = send(self.0.as_fd(), &message, SendFlags::empty())?;
        let mut answer = vec![0u8; 1 << 16];
        let (n, _) = recv(self.0.as_fd(), answer.as_mut_slice(), RecvFlags::empty())?;
        answer.truncate(n);
        let kind = word16(&answer, 4).ok_or(io::ErrorKind::InvalidData)?;
        if kind == NLMSG_ERROR {
            let code = word32(&answer, HEADER).unwrap_or(0).cast_signed();
            return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
        }
        let len = word32(&answer, 0).unwrap_or(0) as usize;
        answer.truncate(len);
        Ok(Answer(answer.split_off(HEADER.min(answer.len()))))
    }
}

impl Answer {
    /// The type-specific header.
    pub(super) fn header(&self) -> &[u8] {
        &self.0
    }

    /// The attributes after a header of `skip` bytes.
    pub(super) fn attributes(&self, skip: usize) -> Attributes<'_> {
        Attributes(self.0.get(skip..).unwrap_or_default())
    }
}

/// A run of attributes, possibly nested in one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The first attribute of a type.
    pub(super) fn value(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub(super) fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.value(kind).unwrap_or_default())
    }

    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        word32(self.value(kind)?, 0)
    }

    pub(super) fn text(self, kind: u16) -> String {
        let bytes = self.value(kind).unwrap_or_default();
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(word16(self.0, 0)?);
        let kind = word16(self.0, 2)? & NLA_TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

pub(super) fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
