//! Attaching the programs to interfaces, as links that a descriptor owns. Each has a name in the private
//! bpffs as well: whoever holds that file system keeps the programs attached when this process dies.

use std::io;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as Mode};

use super::BpfError;
use crate::host::XdpMode;
use crate::host::probe::{Interface, interface};

/// A link with a name in the private bpffs; both go when it is dropped, only the link when the process dies.
#[derive(Debug)]
struct Kept(Option<PinnedLink>);

impl Kept {
    fn new(link: FdLink, path: PathBuf) -> Result<Self, BpfError> {
        let pinned = link.pin(path);
        let pinned = pinned.map_err(|e| BpfError::Os("naming a link", io::Error::other(e)))?;
        Ok(Self(Some(pinned)))
    }
}

impl Kept {
    /// One that an earlier process made.
    fn found(path: PathBuf) -> Result<Self, BpfError> {
        let pinned = PinnedLink::from_pin(path);
        let pinned = pinned.map_err(|e| BpfError::Os("finding a link", io::Error::other(e)))?;
        Ok(Self(Some(pinned)))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The interface, and with it the link, may be gone already; the name then stays until the bpffs goes.
        let _: Option<Result<FdLink, io::Error>> = self.0.take().map(PinnedLink::unpin);
    }
}

/// `xdp_flow` on an interface, until dropped.
#[derive(Debug)]
pub struct XdpAttachment {
    /// Keeps the program attached.
    _link: Kept,
    /// Native or generic.
    pub mode: XdpMode,
}

/// How `xdp_flow` is to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpAttach {
    /// In the driver if that works, else generic.
    Auto,
    /// In the driver.
    Native,
    /// After the socket buffer is made: any driver, slow.
    Generic,
}

/// `tc_drop` on an interface, until dropped.
#[derive(Debug)]
pub struct DropLink {
    _link: Kept,
}

pub(super) const XDP: &str = "xdp_flow";
pub(super) const DROP: &str = "tc_drop";
/// What the names of the links begin with; the interface's number follows.
pub(super) const XDP_NAME: &str = "xdp-";
pub(super) const DROP_NAME: &str = "drop-";

/// Has the kernel verify and keep the programs that interfaces get.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    xdp(ebpf)?.load().map_err(|e| BpfError::Program(XDP, e))?;
    classifier(ebpf)?
        .load()
        .map_err(|e| BpfError::Program(DROP, e))
}

fn xdp(ebpf: &mut Ebpf) -> Result<&mut Xdp, BpfError> {
    let program = ebpf.program_mut(XDP).ok_or(BpfError::Missing(XDP))?;
    program.try_into().map_err(|e| BpfError::Program(XDP, e))
}

fn classifier(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, BpfError> {
    let program = ebpf.program_mut(DROP).ok_or(BpfError::Missing(DROP))?;
    program.try_into().map_err(|e| BpfError::Program(DROP, e))
}

fn look_at(ifindex: u32) -> Result<Interface, BpfError> {
    interface(ifindex).map_err(|e| BpfError::Os("looking at an interface", e))
}

pub(super) fn attach_xdp(
    ebpf: &mut Ebpf,
    names: &Path,
    ifindex: u32,
    how: XdpAttach,
) -> Result<XdpAttachment, BpfError> {
    if look_at(ifindex)?.xdp.is_some() {
        return Err(BpfError::Foreign { ifindex });
    }
    let program = xdp(ebpf)?;
    let failed = |e| BpfError::Program(XDP, e);
    let first = if how == XdpAttach::Generic {
        Mode::Skb
    } else {
        Mode::Driver
    };
    let id = match program.attach_to_if_index(ifindex, first) {
        Err(e) if is_taken(&e) => return Err(BpfError::Foreign { ifindex }),
        Err(_) if how == XdpAttach::Auto => program.attach_to_if_index(ifindex, Mode::Skb),
        result => result,
    };
    let link = program.take_link(id.map_err(failed)?).map_err(failed)?;
    // Otherwise aya fell back to netlink, and the program would outlive this process.
    let link = FdLink::try_from(link).map_err(|_| BpfError::Missing("link of its own"))?;
    let link = Kept::new(link, names.join(format!("{XDP_NAME}{ifindex}")))?;
    let mode = look_at(ifindex)?
        .xdp
        .map_or(XdpMode::Generic, |(mode, _)| mode);
    Ok(XdpAttachment { _link: link, mode })
}

pub(super) fn attach_drop(
    ebpf: &mut Ebpf,
    names: &Path,
    ifindex: u32,
) -> Result<DropLink, BpfError> {
    let name = look_at(ifindex)?.name;
    let program = classifier(ebpf)?;
    let failed = |e| BpfError::Program(DROP, e);
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(&name, TcAttachType::Ingress, first)
        .map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    let link = FdLink::try_from(link).map_err(|_| BpfError::Missing("link of its own"))?;
    let link = Kept::new(link, names.join(format!("{DROP_NAME}{ifindex}")))?;
    Ok(DropLink { _link: link })
}

/// An attachment that an earlier process made.
pub(super) fn found_xdp(names: &Path, ifindex: u32) -> Result<XdpAttachment, BpfError> {
    let link = Kept::found(names.join(format!("{XDP_NAME}{ifindex}")))?;
    let mode = interface(ifindex).ok().and_then(|i| i.xdp);
    let mode = mode.map_or(XdpMode::Generic, |(mode, _)| mode);
    Ok(XdpAttachment { _link: link, mode })
}

/// The same of `tc_drop`.
pub(super) fn found_drop(names: &Path, ifindex: u32) -> Result<DropLink, BpfError> {
    let link = Kept::found(names.join(format!("{DROP_NAME}{ifindex}")))?;
    Ok(DropLink { _link: link })
}

/// Whether attaching failed because a program is there already.
fn is_taken(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(e) = error else {
        return false;
    };
    matches!(e.io_error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}
