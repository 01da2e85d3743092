//! A parsed frame: verify the checksum, find the socket, hand it over. Every other way out is counted.

use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::{tcp, udp};
use core::sync::atomic::Ordering::Relaxed;
use flyover_vnic::Csum;
use flyover_wire::checksum;
use flyover_wire::frame::L4;

/// Handles one frame.
pub(crate) fn handle(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>) {
    let st = l.st;
    if !checksum_good(l, p) {
        let _: u64 = st.state.stats.rx_drop_checksum.fetch_add(1, Relaxed);
        return;
    }
    match p.hdr.l4 {
        L4::Tcp(ref t) => tcp::rx::handle(l, p, t),
        L4::Udp(_) => udp::rx::handle(l, p),
    }
}

/// The device's word, or the sum itself. A peer on veth leaves the folded pseudo-header sum in the field
/// (`CHECKSUM_PARTIAL`): that value is as good as a right sum.
fn checksum_good(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>) -> bool {
    match p.meta.csum {
        Csum::Good | Csum::Partial => return true,
        Csum::Unknown => {}
    }
    let field = p.hdr.l4_checksum();
    let pseudo = p.hdr.pseudo_sum();
    if field == pseudo {
        return true;
    }
    if field == 0 && matches!(p.hdr.l4, L4::Udp(_)) {
        // RFC 768: no checksum. RFC 8200 section 8.1 forbids it for IPv6.
        return p.hdr.dst.is_v4();
    }
    let Some(nic) = l.env.nics.nic(p.nic) else {
        return false;
    };
    let sum = nic.rx_sum(p.hdr.l4_off as usize, p.hdr.l4_len() as usize);
    checksum::is_valid(checksum::add(sum, pseudo))
}
