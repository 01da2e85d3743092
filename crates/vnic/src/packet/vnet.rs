//! The 10-byte header that a packet socket with `PACKET_VNET_HDR` puts before every frame:
//! `struct virtio_net_hdr` (Virtio 1.2 section 5.1.6), fields in the machine's byte order.

use crate::{Csum, TxOffload};

/// Length of the header, bytes.
pub(crate) const VNET_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
/// TCP only: the segments carry ECN's CWR.
const GSO_ECN: u8 = 0x80;

/// What the header says about a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RxVnet {
    pub(crate) csum: Csum,
    /// 0: not merged.
    pub(crate) gso_size: u16,
}

pub(crate) fn decode(bytes: &[u8; VNET_LEN]) -> RxVnet {
    let [flags, gso_type, _, _, gso_lo, gso_hi, ..] = *bytes;
    let csum = if flags & NEEDS_CSUM != 0 {
        Csum::Partial
    } else if flags & DATA_VALID != 0 {
        Csum::Good
    } else {
        Csum::Unknown
    };
    let merged = gso_type & !GSO_ECN != GSO_NONE;
    RxVnet {
        csum,
        gso_size: if merged {
            u16::from_ne_bytes([gso_lo, gso_hi])
        } else {
            0
        },
    }
}

/// The header for a frame to send. `cut` says whether the device is to cut it into segments.
pub(crate) fn encode(off: &TxOffload, cut: Cut) -> [u8; VNET_LEN] {
    let mut bytes = [0; VNET_LEN];
    let [gso_size, start, offset] =
        [off.gso_size, off.csum_start, off.csum_offset].map(u16::to_ne_bytes);
    if off.csum_start != 0 {
        bytes[0] = NEEDS_CSUM;
        bytes[6..8].copy_from_slice(&start);
        bytes[8..10].copy_from_slice(&offset);
    }
    if let Cut::Segments { in_one } = cut {
        bytes[1] = if off.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
        bytes[2..4].copy_from_slice(&in_one.max(off.hdr_len).to_ne_bytes());
        bytes[4..6].copy_from_slice(&gso_size);
    }
    bytes
}

/// Whether a frame goes out as it is or is cut by the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// One packet.
    Whole,
    /// TCP segments of `gso_size` payload bytes.
    Segments {
        /// How much of the frame the kernel is to keep in one piece, at least the headers; not more than there is.
        in_one: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: TxOffload = TxOffload {
        csum_start: 34,
        csum_offset: 16,
        gso_size: 1448,
        l4_tcp: true,
        v6: false,
        hdr_len: 66,
    };

    #[test]
    fn a_super_frame_round_trips() {
        let bytes = encode(&OFF, Cut::Segments { in_one: 0 });
        assert_eq!(
            decode(&bytes),
            RxVnet {
                csum: Csum::Partial,
                gso_size: 1448
            }
        );
        assert_eq!(bytes[1], GSO_TCPV4);
        assert_eq!(u16::from_ne_bytes([bytes[2], bytes[3]]), 66);
        assert_eq!(u16::from_ne_bytes([bytes[6], bytes[7]]), 34);
        assert_eq!(u16::from_ne_bytes([bytes[8], bytes[9]]), 16);
        let v6 = encode(&TxOffload { v6: true, ..OFF }, Cut::Segments { in_one: 0 });
        assert_eq!(v6[1], GSO_TCPV6);
    }

    #[test]
    fn a_single_packet_has_no_gso_fields() {
        let bytes = encode(&OFF, Cut::Whole);
        assert_eq!(decode(&bytes).gso_size, 0);
        assert_eq!(bytes[1..6], [0; 5]);
        assert_eq!(
            encode(
                &TxOffload {
                    csum_start: 0,
                    ..OFF
                },
                Cut::Whole
            ),
            [0; VNET_LEN]
        );
    }

    #[test]
    fn ecn_and_validity_are_understood() {
        let mut bytes = [0; VNET_LEN];
        bytes[0] = DATA_VALID;
        bytes[1] = GSO_ECN;
        assert_eq!(
            decode(&bytes),
            RxVnet {
                csum: Csum::Good,
                gso_size: 0
            }
        );
        bytes[0] = 0;
        assert_eq!(decode(&bytes).csum, Csum::Unknown);
    }
}
