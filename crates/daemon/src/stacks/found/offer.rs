//! Calling a keeper, and what it offers.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};

use flyover_proto::{
    Call, Deadline, FdBag, MAX_MESSAGE, MAX_OWNERS, NicDesc, Notice, Packet, Token, recv, send,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, socketpair,
};

use super::owners::Ends;
use crate::net::within;
use crate::netns::NetNs;
use crate::nic::Nic;
use crate::records::{Ident, Record};
use crate::refusal::Refusal;
use crate::stacks::stack::claim_name;

/// What a keeper offers.
pub struct Offer {
    pub epoch: u64,
    pub nic_gen: u32,
    pub deaf: bool,
    pub memory: OwnedFd,
    pub deaths: OwnedFd,
    pub keepalive: OwnedFd,
    pub claim: OwnedFd,
    pub nics: Vec<(NicDesc, Vec<OwnedFd>)>,
    pub channels: BTreeMap<u16, Ends>,
}

pub fn bad(text: &str) -> Refusal {
    Refusal::failed("finding the stack", text)
}

/// Calls the keeper, and returns the channel on which it is to answer.
pub fn call(ns: &NetNs, record: &Record, deadline: Deadline) -> Result<OwnedFd, Refusal> {
    let failed = |e: std::io::Error| Refusal::failed("calling the keeper", e);
    let cloexec = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, cloexec, None)
        .map_err(|e| failed(e.into()))?;
    let token = Token {
        a: record.token.0,
        b: record.token.1,
    };
    let mut buf = [0; 64];
    let len = Call::Adopt { token }.encode(0, &mut buf);
    let len = len.map_err(|e| failed(std::io::Error::other(e)))?;
    within(ns, || {
        let name = SocketAddrUnix::new_abstract_name(claim_name(record.id).as_bytes())?;
        let sock = socket_with(AddressFamily::UNIX, SocketType::DGRAM, cloexec, None)?;
        connect(&sock, &name)?;
        Ok(send(
            sock.as_fd(),
            &buf[..len],
            &[theirs.as_fd()],
            deadline,
        )?)
    })
    .map_err(failed)?;
    Ok(ours)
}

pub fn receive(control: &OwnedFd, record: &Record, deadline: Deadline) -> Result<Offer, Refusal> {
    let mut buf = vec![0; MAX_MESSAGE];
    let mut next = || -> Result<(Notice, FdBag), Refusal> {
        match recv(control.as_fd(), &mut buf, deadline) {
            Ok(Packet::Message(len, fds)) => match Notice::decode(&buf[..len]) {
                Ok((_, notice)) => Ok((notice, fds)),
                Err(e) => Err(Refusal::failed("reading the keeper's offer", e)),
            },
            Ok(Packet::Closed) | Err(Errno::CONNRESET) => Err(bad("its keeper hung up")),
            Err(e) => Err(Refusal::failed("waiting for the keeper's offer", e)),
        }
    };
    let (
        Notice::Offer {
            stack_id,
            epoch,
            owners,
            nic_gen,
            nics,
            deaf,
        },
        mut fds,
    ) = next()?
    else {
        return Err(bad("its keeper talks nonsense"));
    };
    if stack_id != record.id || owners as usize > MAX_OWNERS {
        return Err(bad("its keeper offers another one"));
    }
    let (Some(memory), Some(deaths), Some(claim), Some(keepalive)) =
        (fds.pop(), fds.pop(), fds.pop(), fds.pop())
    else {
        return Err(bad("descriptors are missing"));
    };
    let mut list = Vec::new();
    for desc in nics.iter() {
        let own: Vec<OwnedFd> = (0..desc.fd_count()).map_while(|_| fds.pop()).collect();
        list.push((desc.clone(), own));
    }
    let mut channels = BTreeMap::new();
    while channels.len() < owners as usize {
        // Anything else that it says meanwhile it will have to say again, or nobody misses it.
        if let (Notice::Channel { owner }, mut fds) = next()?
            && let Some(channel) = fds.pop()
        {
            channels.insert(owner, (channel, fds.pop()));
        }
    }
    Ok(Offer {
        epoch,
        nic_gen,
        deaf,
        memory,
        deaths,
        keepalive,
        claim,
        nics: list,
        channels,
    })
}

/// Is it what the notes say? Returns the V-NICs; one that was being made or given up when the daemon died is none.
pub fn verify(record: &Record, offer: &Offer) -> Result<Vec<Nic>, Refusal> {
    let same = |fd: &OwnedFd, noted: Ident| Ident::of(fd).is_ok_and(|ident| ident == noted);
    if !same(&offer.memory, record.memory)
        || !same(&offer.deaths, record.deaths)
        || !same(&offer.claim, record.claim)
    {
        return Err(bad("its keeper offers other descriptors than it was given"));
    }
    if !is_writable(&offer.memory) {
        return Err(bad("its keeper offers memory that cannot be written"));
    }
    nics_of(record, &offer.nics)
}

/// Not a copy that can only be read.
pub fn is_writable(memory: &OwnedFd) -> bool {
    rustix::fs::fcntl_getfl(memory)
        .is_ok_and(|f| f & rustix::fs::OFlags::RWMODE == rustix::fs::OFlags::RDWR)
}

/// The V-NICs that are noted, of those that are there.
pub fn nics_of(record: &Record, there: &[(NicDesc, Vec<OwnedFd>)]) -> Result<Vec<Nic>, Refusal> {
    let mut nics = Vec::new();
    for note in &record.nics {
        let desc = note.desc();
        let found = there.iter().find(|(offered, _)| *offered == desc);
        let Some((_, fds)) = found else { continue };
        let idents: Result<Vec<Ident>, _> = fds.iter().map(Ident::of).collect();
        if idents.ok().as_ref() != Some(&note.fds) {
            return Err(bad("its V-NICs are not those that it was given"));
        }
        let copies: Result<Vec<OwnedFd>, _> = fds.iter().map(OwnedFd::try_clone).collect();
        let copies = copies.map_err(|e| Refusal::failed("duplicating descriptors", e))?;
        nics.push(Nic::found(
            desc,
            note.name.clone(),
            note.why.clone(),
            copies,
        ));
    }
    Ok(nics)
}
