//! Why a frame is not for the stack: one variant per check of `frame::parse`, each a counter.

macro_rules! drops {
    ($($(#[doc = $doc:literal])+ $variant:ident => $name:literal,)+) => {
        /// A reason to refuse a frame. `as usize` is a dense index, made for counter tables.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Drop {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Drop {
            /// Every reason, at the position of its numeric value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Counter name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// One sentence for people.
            #[must_use]
            pub const fn describe(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+
                }
            }
        }
    };
}

drops! {
    /// the frame ends inside the Ethernet header
    EthTruncated => "eth_truncated",
    /// the frame ends inside the 802.1Q tag
    VlanTruncated => "vlan_truncated",
    /// more than one VLAN tag
    VlanStacked => "vlan_stacked",
    /// neither IPv4 nor IPv6
    EtherType => "ether_type",
    /// the frame ends inside the IPv4 header
    Ip4Truncated => "ip4_truncated",
    /// the version field of an IPv4 packet is not 4
    Ip4Version => "ip4_version",
    /// IPv4 header length below 20 bytes
    Ip4HeaderLength => "ip4_header_length",
    /// IPv4 options
    Ip4Options => "ip4_options",
    /// IPv4 total length shorter than the header or longer than the frame
    Ip4TotalLength => "ip4_total_length",
    /// an IPv4 fragment
    Ip4Fragment => "ip4_fragment",
    /// the IPv4 header checksum does not add up
    Ip4Checksum => "ip4_checksum",
    /// the frame ends inside the IPv6 header
    Ip6Truncated => "ip6_truncated",
    /// the version field of an IPv6 packet is not 6
    Ip6Version => "ip6_version",
    /// IPv6 payload length longer than the frame
    Ip6Length => "ip6_length",
    /// an IPv6 extension header
    Ip6Extension => "ip6_extension",
    /// an IPv6 packet from or to a v4-mapped address
    Ip6Mapped => "ip6_mapped",
    /// a multicast or broadcast source address
    SourceAddress => "source_address",
    /// neither TCP nor UDP
    Protocol => "protocol",
    /// the packet ends inside the TCP header
    TcpTruncated => "tcp_truncated",
    /// TCP data offset below 20 bytes or beyond the packet
    TcpDataOffset => "tcp_data_offset",
    /// the packet ends inside the UDP header
    UdpTruncated => "udp_truncated",
    /// UDP length below 8 bytes or beyond the packet
    UdpLength => "udp_length",
}

impl core::fmt::Display for Drop {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_and_unique() {
        for (i, d) in Drop::ALL.iter().enumerate() {
            assert_eq!(*d as usize, i);
            assert!(!d.describe().starts_with(' '));
            assert!(Drop::ALL.iter().filter(|o| o.name() == d.name()).count() == 1);
        }
    }
}
