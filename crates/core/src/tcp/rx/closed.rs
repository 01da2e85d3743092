//! No connection takes the segment (RFC 9293 section 3.10.7.1): everything but a RST is answered with one.

use super::{Seg, count};
use crate::stack::locked::Locked;
use crate::stack::poll::RxPkt;
use crate::tcp::tx;
use flyover_wire::TcpFlags;

pub(super) fn handle(l: &mut Locked<'_, '_, '_>, p: &RxPkt<'_>, seg: Seg<'_>) {
    count!(l, rx_drop_no_socket);
    if seg.flags.has(TcpFlags::RST) || p.hdr.dst.is_multicast() || p.hdr.dst.is_broadcast() {
        return;
    }
    tx::send_rst_for(l, p, &seg);
}
