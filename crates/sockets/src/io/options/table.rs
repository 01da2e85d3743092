//! The rows. Numbers: asm-generic/socket.h, linux/tcp.h, linux/in.h, linux/in6.h, linux/udp.h as of Linux 6.18. Columns:
//! number, name, path for TCP, path for UDP, whether accepted connections start with the listener's value, what the
//! endpoint does, and a note.

use flyover_core::sock::opts::SockOpt as O;

use super::Form::{Buffer, Int, Linger, Offset, Raw, Switch};
use super::stamps::{self, Stamp};
use super::{Act, Path, Row, Unless, Way};

const SOL_SOCKET: i32 = libc::SOL_SOCKET;
const TCP: i32 = libc::IPPROTO_TCP;
const UDP: i32 = libc::IPPROTO_UDP;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;

// Paths, short enough for columns.
const S: Path = Path::Stack;
const K: Path = Path::Kept;
const R: Path = Path::Read;
const N: Path = Path::None;
const M: Path = Path::Moves(Unless::Never);
const Z: Path = Path::Moves(Unless::Zero);

const TX_STAMPS: Path = Path::Moves(Unless::Without(stamps::OF_SENDING));
const PACED: Path = Path::Moves(Unless::Ones);
const NEGATIVE: Path = Path::Moves(Unless::Negative);
/// `IP_PMTUDISC_WANT`, `_DO`, `_PROBE`: with "don't fragment", as the stack sends.
const NO_DF: Path = Path::Moves(Unless::Within(1, 3));

const NO: Act = Act::No;
const fn opt(o: O, form: super::Form) -> Act {
    Act::Opt(o, form)
}
const fn bit(b: u32) -> Act {
    Act::Bit(b)
}

macro_rules! rows {
    ($($level:ident: $($n:literal $name:ident $tcp:ident $udp:ident $i:literal $act:expr, $note:literal;)*)*) => {
        /// The table. Without pointers: the library would be relocated for them in every program that starts.
        pub const TABLE: &[Row] = &[$($(Row {
            level: $level,
            name: $n,
            tcp: $tcp,
            udp: $udp,
            inherited: $i != 0,
            act: $act,
        },)*)*];

        /// The name of each row of [`TABLE`], a line each: one pointer for all of them.
        pub const NAMES: &str = concat!($($(stringify!($name), "\n",)*)*);

        /// The note of each row, for the page.
        pub const NOTES: &[&str] = &[$($($note,)*)*];
    };
}

rows! {
    SOL_SOCKET:
    1  SO_DEBUG              K K 1 NO, "";
    2  SO_REUSEADDR          K K 1 NO, "bind(2) is the kernel's";
    3  SO_TYPE               R R 0 NO, "";
    4  SO_ERROR              R R 0 NO, "the error of the endpoint, and of the kernel socket behind it";
    5  SO_DONTROUTE          Z Z 1 NO, "routing past the tables";
    6  SO_BROADCAST          K K 1 NO, "broadcasts are sent by the kernel socket";
    7  SO_SNDBUF             S S 1 opt(O::SndBuf, Buffer), "reads back as the kernel gives it, doubled and clamped; a buffer that was never set reads as what the stack's own tuning made of it";
    8  SO_RCVBUF             S S 1 opt(O::RcvBuf, Buffer), "as SO_SNDBUF";
    9  SO_KEEPALIVE          S K 1 opt(O::KeepAlive, Switch), "";
    10 SO_OOBINLINE          S K 1 opt(O::OobInline, Switch), "";
    11 SO_NO_CHECK           K K 1 NO, "datagrams carry checksums all the same";
    12 SO_PRIORITY           Z Z 1 NO, "queueing disciplines and VLAN priorities are the kernel's; what IP_TOS implies is not used";
    13 SO_LINGER             S K 1 opt(O::Linger, Linger), "";
    14 SO_BSDCOMPAT          K K 1 NO, "";
    15 SO_REUSEPORT          K K 1 NO, "a UDP socket that has it when it is bound stays with the kernel, which spreads datagrams over the group";
    16 SO_PASSCRED           K K 0 NO, "";
    17 SO_PEERCRED           R R 0 NO, "";
    18 SO_RCVLOWAT           S K 1 opt(O::RcvLowat, Int), "";
    19 SO_SNDLOWAT           K K 0 NO, "cannot be set on Linux";
    20 SO_RCVTIMEO           S S 1 Act::Limit(Way::In), "";
    21 SO_SNDTIMEO           S S 1 Act::Limit(Way::Out), "";
    25 SO_BINDTODEVICE       Z Z 1 NO, "";
    26 SO_ATTACH_FILTER      M M 0 NO, "";
    27 SO_DETACH_FILTER      K K 0 NO, "";
    28 SO_PEERNAME           R R 0 NO, "";
    29 SO_TIMESTAMP          S S 1 Act::Stamp(Stamp::Micros(false)), "the stamp is made when the stack takes the packet from the V-NIC; for TCP it is that of the last packet";
    30 SO_ACCEPTCONN         R R 0 NO, "";
    31 SO_PEERSEC            R R 0 NO, "";
    32 SO_SNDBUFFORCE        S S 0 opt(O::SndBuf, Buffer), "";
    33 SO_RCVBUFFORCE        S S 0 opt(O::RcvBuf, Buffer), "";
    34 SO_PASSSEC            K K 0 NO, "";
    35 SO_TIMESTAMPNS        S S 1 Act::Stamp(Stamp::Nanos(false)), "as SO_TIMESTAMP";
    36 SO_MARK               Z Z 1 NO, "rules, filters and queueing disciplines see marks only in the kernel";
    37 SO_TIMESTAMPING       TX_STAMPS S 1 Act::Stamp(Stamp::Flags(false)), "software stamps of what arrives are honoured; datagrams whose sending is to be stamped are sent by the kernel socket";
    38 SO_PROTOCOL           R R 0 NO, "";
    39 SO_DOMAIN             R R 0 NO, "";
    40 SO_RXQ_OVFL           K S 1 bit(super::OVERFLOW), "";
    41 SO_WIFI_STATUS        K K 1 NO, "";
    42 SO_PEEK_OFF           S NEGATIVE 1 opt(O::PeekOff, Offset), "";
    43 SO_NOFCS              K K 1 NO, "";
    44 SO_LOCK_FILTER        K K 1 NO, "";
    45 SO_SELECT_ERR_QUEUE   K K 1 NO, "";
    46 SO_BUSY_POLL          K K 1 NO, "how long a call spins is an option of Flyover";
    47 SO_MAX_PACING_RATE    PACED PACED 1 NO, "the stack does not pace";
    48 SO_BPF_EXTENSIONS     R R 0 NO, "";
    49 SO_INCOMING_CPU       K K 0 NO, "";
    50 SO_ATTACH_BPF         M M 0 NO, "";
    51 SO_ATTACH_REUSEPORT_CBPF M M 0 NO, "";
    52 SO_ATTACH_REUSEPORT_EBPF M M 0 NO, "";
    53 SO_CNX_ADVICE         K K 0 NO, "";
    55 SO_MEMINFO            R R 0 NO, "of the kernel socket";
    56 SO_INCOMING_NAPI_ID   R R 0 NO, "";
    57 SO_COOKIE             R R 0 NO, "";
    59 SO_PEERGROUPS         R R 0 NO, "";
    60 SO_ZEROCOPY           Z Z 1 NO, "";
    61 SO_TXTIME             M M 1 NO, "";
    62 SO_BINDTOIFINDEX      Z Z 1 NO, "";
    63 SO_TIMESTAMP_NEW      S S 1 Act::Stamp(Stamp::Micros(true)), "as SO_TIMESTAMP";
    64 SO_TIMESTAMPNS_NEW    S S 1 Act::Stamp(Stamp::Nanos(true)), "as SO_TIMESTAMP";
    65 SO_TIMESTAMPING_NEW   TX_STAMPS S 1 Act::Stamp(Stamp::Flags(true)), "as SO_TIMESTAMPING";
    66 SO_RCVTIMEO_NEW       S S 0 Act::Limit(Way::In), "";
    67 SO_SNDTIMEO_NEW       S S 0 Act::Limit(Way::Out), "";
    68 SO_DETACH_REUSEPORT_BPF K K 0 NO, "";
    69 SO_PREFER_BUSY_POLL   K K 1 NO, "";
    70 SO_BUSY_POLL_BUDGET   K K 1 NO, "";
    71 SO_NETNS_COOKIE       R R 0 NO, "";
    72 SO_BUF_LOCK           K K 1 NO, "";
    73 SO_RESERVE_MEM        K K 1 NO, "";
    74 SO_TXREHASH           K K 1 NO, "";
    75 SO_RCVMARK            Z Z 1 NO, "marks are made in the kernel";
    76 SO_PASSPIDFD          K K 0 NO, "";
    77 SO_PEERPIDFD          R R 0 NO, "";
    78 SO_DEVMEM_LINEAR      R R 0 NO, "";
    79 SO_DEVMEM_DMABUF      R R 0 NO, "";
    80 SO_DEVMEM_DONTNEED    M M 0 NO, "";
    82 SO_RCVPRIORITY        Z Z 1 NO, "";
    83 SO_PASSRIGHTS         K K 0 NO, "";
    84 SO_INQ                K K 0 NO, "Unix sockets only";

    TCP:
    1  TCP_NODELAY           S N 1 opt(O::NoDelay, Switch), "";
    2  TCP_MAXSEG            S N 1 opt(O::MaxSeg, Raw), "";
    3  TCP_CORK              S N 1 opt(O::Cork, Switch), "";
    4  TCP_KEEPIDLE          S N 1 opt(O::KeepIdle, Int), "";
    5  TCP_KEEPINTVL         S N 1 opt(O::KeepIntvl, Int), "";
    6  TCP_KEEPCNT           S N 1 opt(O::KeepCnt, Int), "";
    7  TCP_SYNCNT            S N 1 opt(O::SynCnt, Int), "";
    8  TCP_LINGER2           S N 1 opt(O::Linger2, Int), "";
    9  TCP_DEFER_ACCEPT      S N 0 opt(O::DeferAccept, Int), "";
    10 TCP_WINDOW_CLAMP      S N 1 opt(O::WindowClamp, Int), "the untouched value is the stack's receive buffer";
    11 TCP_INFO              R N 0 NO, "values of the endpoint; pacing, delivery rate and busy times are not measured and read as 0 (pacing rates: unlimited)";
    12 TCP_QUICKACK          S N 0 opt(O::QuickAck, Switch), "";
    13 TCP_CONGESTION        K N 1 NO, "the stack's algorithm is CUBIC; the name is kept for a move to the kernel path";
    14 TCP_MD5SIG            M N 0 NO, "";
    16 TCP_THIN_LINEAR_TIMEOUTS K N 1 NO, "";
    17 TCP_THIN_DUPACK       K N 1 NO, "";
    18 TCP_USER_TIMEOUT      S N 1 opt(O::UserTimeout, Int), "";
    19 TCP_REPAIR            Z N 0 NO, "";
    20 TCP_REPAIR_QUEUE      K N 0 NO, "only under TCP_REPAIR";
    21 TCP_QUEUE_SEQ         K N 0 NO, "only under TCP_REPAIR";
    22 TCP_REPAIR_OPTIONS    K N 0 NO, "only under TCP_REPAIR";
    23 TCP_FASTOPEN          K N 0 NO, "data in a SYN is not taken; the client sends it again after the handshake";
    24 TCP_TIMESTAMP         K N 0 NO, "only under TCP_REPAIR";
    25 TCP_NOTSENT_LOWAT     S N 1 opt(O::NotSentLowat, Int), "";
    26 TCP_CC_INFO           R N 0 NO, "of the kernel socket";
    27 TCP_SAVE_SYN          Z N 1 NO, "";
    28 TCP_SAVED_SYN         R N 0 NO, "";
    29 TCP_REPAIR_WINDOW     K N 0 NO, "only under TCP_REPAIR";
    30 TCP_FASTOPEN_CONNECT  Z N 0 NO, "";
    31 TCP_ULP               M N 0 NO, "";
    32 TCP_MD5SIG_EXT        M N 0 NO, "";
    33 TCP_FASTOPEN_KEY      K N 0 NO, "";
    34 TCP_FASTOPEN_NO_COOKIE K N 1 NO, "";
    35 TCP_ZEROCOPY_RECEIVE  R N 0 NO, "maps nothing on an accelerated connection";
    36 TCP_INQ               S N 1 bit(super::INQ), "";
    37 TCP_TX_DELAY          Z N 1 NO, "";
    38 TCP_AO_ADD_KEY        M N 0 NO, "";
    39 TCP_AO_DEL_KEY        K N 0 NO, "";
    40 TCP_AO_INFO           M N 0 NO, "";
    41 TCP_AO_GET_KEYS       R N 0 NO, "";
    42 TCP_AO_REPAIR         K N 0 NO, "";
    43 TCP_IS_MPTCP          R N 0 NO, "";
    44 TCP_RTO_MAX_MS        K N 1 NO, "limits of the stack's timers are options of Flyover";
    45 TCP_RTO_MIN_US        K N 1 NO, "as TCP_RTO_MAX_MS";
    46 TCP_DELACK_MAX_US     K N 1 NO, "as TCP_RTO_MAX_MS";

    IP:
    1  IP_TOS                S S 1 opt(O::Tos, Int), "";
    2  IP_TTL                S S 1 opt(O::Ttl, Int), "";
    3  IP_HDRINCL            K K 0 NO, "raw sockets only";
    4  IP_OPTIONS            Z Z 0 NO, "";
    5  IP_ROUTER_ALERT       K K 0 NO, "raw sockets only";
    6  IP_RECVOPTS           K K 1 NO, "packets with options come through the kernel socket";
    7  IP_RETOPTS            K K 1 NO, "as IP_RECVOPTS";
    8  IP_PKTINFO            K S 1 bit(super::PKTINFO), "";
    9  IP_PKTOPTIONS         R R 0 NO, "";
    10 IP_MTU_DISCOVER       NO_DF NO_DF 1 NO, "the stack sets the bit \"don't fragment\"; longer datagrams are sent, cut or refused by the kernel socket";
    11 IP_RECVERR            Z K 1 NO, "the kernel socket receives ICMP errors of UDP and queues them";
    12 IP_RECVTTL            K S 1 bit(super::RECV_TTL), "";
    13 IP_RECVTOS            K S 1 bit(super::RECV_TOS), "";
    14 IP_MTU                R R 0 NO, "";
    15 IP_FREEBIND           K K 1 NO, "bind(2) is the kernel's";
    16 IP_IPSEC_POLICY       M M 0 NO, "";
    17 IP_XFRM_POLICY        M M 0 NO, "";
    18 IP_PASSSEC            K K 1 NO, "";
    19 IP_TRANSPARENT        Z Z 1 NO, "";
    20 IP_RECVORIGDSTADDR    K S 1 bit(super::ORIGDST), "";
    21 IP_MINTTL             Z K 1 NO, "";
    22 IP_NODEFRAG           K K 0 NO, "raw sockets only";
    23 IP_CHECKSUM           K Z 1 NO, "";
    24 IP_BIND_ADDRESS_NO_PORT K K 1 NO, "";
    25 IP_RECVFRAGSIZE       K K 1 NO, "fragments come through the kernel socket";
    26 IP_RECVERR_RFC4884    K K 1 NO, "";
    32 IP_MULTICAST_IF       K K 1 NO, "multicast is sent and received by the kernel socket";
    33 IP_MULTICAST_TTL      K K 1 NO, "as IP_MULTICAST_IF";
    34 IP_MULTICAST_LOOP     K K 1 NO, "as IP_MULTICAST_IF";
    35 IP_ADD_MEMBERSHIP     K K 0 NO, "as IP_MULTICAST_IF";
    36 IP_DROP_MEMBERSHIP    K K 0 NO, "as IP_MULTICAST_IF";
    37 IP_UNBLOCK_SOURCE     K K 0 NO, "as IP_MULTICAST_IF";
    38 IP_BLOCK_SOURCE       K K 0 NO, "as IP_MULTICAST_IF";
    39 IP_ADD_SOURCE_MEMBERSHIP  K K 0 NO, "as IP_MULTICAST_IF";
    40 IP_DROP_SOURCE_MEMBERSHIP K K 0 NO, "as IP_MULTICAST_IF";
    41 IP_MSFILTER           K K 0 NO, "as IP_MULTICAST_IF";
    42 MCAST_JOIN_GROUP      K K 0 NO, "as IP_MULTICAST_IF";
    43 MCAST_BLOCK_SOURCE    K K 0 NO, "as IP_MULTICAST_IF";
    44 MCAST_UNBLOCK_SOURCE  K K 0 NO, "as IP_MULTICAST_IF";
    45 MCAST_LEAVE_GROUP     K K 0 NO, "as IP_MULTICAST_IF";
    46 MCAST_JOIN_SOURCE_GROUP   K K 0 NO, "as IP_MULTICAST_IF";
    47 MCAST_LEAVE_SOURCE_GROUP  K K 0 NO, "as IP_MULTICAST_IF";
    48 MCAST_MSFILTER        K K 0 NO, "as IP_MULTICAST_IF";
    49 IP_MULTICAST_ALL      K K 1 NO, "as IP_MULTICAST_IF";
    50 IP_UNICAST_IF         Z Z 1 NO, "";
    51 IP_LOCAL_PORT_RANGE   K K 1 NO, "bind(2) is the kernel's";
    52 IP_PROTOCOL           R R 0 NO, "";

    IPV6:
    1  IPV6_ADDRFORM         M M 0 NO, "";
    2  IPV6_2292PKTINFO      K Z 1 NO, "";
    3  IPV6_2292HOPOPTS      K Z 1 NO, "";
    4  IPV6_2292DSTOPTS      K Z 1 NO, "";
    5  IPV6_2292RTHDR        K Z 1 NO, "";
    6  IPV6_2292PKTOPTIONS   M M 0 NO, "";
    7  IPV6_CHECKSUM         K K 0 NO, "raw sockets only";
    8  IPV6_2292HOPLIMIT     K Z 1 NO, "";
    9  IPV6_NEXTHOP          M M 0 NO, "";
    10 IPV6_AUTHHDR          K K 0 NO, "";
    11 IPV6_FLOWINFO         K Z 1 NO, "";
    16 IPV6_UNICAST_HOPS     S S 1 opt(O::Hops, Int), "";
    17 IPV6_MULTICAST_IF     K K 1 NO, "as IP_MULTICAST_IF";
    18 IPV6_MULTICAST_HOPS   K K 1 NO, "as IP_MULTICAST_IF";
    19 IPV6_MULTICAST_LOOP   K K 1 NO, "as IP_MULTICAST_IF";
    20 IPV6_ADD_MEMBERSHIP   K K 0 NO, "as IP_MULTICAST_IF";
    21 IPV6_DROP_MEMBERSHIP  K K 0 NO, "as IP_MULTICAST_IF";
    22 IPV6_ROUTER_ALERT     K K 0 NO, "raw sockets only";
    23 IPV6_MTU_DISCOVER     NO_DF NO_DF 1 NO, "as IP_MTU_DISCOVER";
    24 IPV6_MTU              K Z 1 NO, "the size of fragments";
    25 IPV6_RECVERR          Z K 1 NO, "as IP_RECVERR";
    26 IPV6_V6ONLY           S S 0 NO, "";
    27 IPV6_JOIN_ANYCAST     K K 0 NO, "";
    28 IPV6_LEAVE_ANYCAST    K K 0 NO, "";
    29 IPV6_MULTICAST_ALL    K K 1 NO, "as IP_MULTICAST_IF";
    30 IPV6_ROUTER_ALERT_ISOLATE K K 0 NO, "raw sockets only";
    31 IPV6_RECVERR_RFC4884  K K 1 NO, "";
    32 IPV6_FLOWLABEL_MGR    M M 0 NO, "";
    33 IPV6_FLOWINFO_SEND    Z Z 1 NO, "";
    34 IPV6_IPSEC_POLICY     M M 0 NO, "";
    35 IPV6_XFRM_POLICY      M M 0 NO, "";
    36 IPV6_HDRINCL          K K 0 NO, "raw sockets only";
    42 MCAST_JOIN_GROUP      K K 0 NO, "as IP_MULTICAST_IF";
    43 MCAST_BLOCK_SOURCE    K K 0 NO, "as IP_MULTICAST_IF";
    44 MCAST_UNBLOCK_SOURCE  K K 0 NO, "as IP_MULTICAST_IF";
    45 MCAST_LEAVE_GROUP     K K 0 NO, "as IP_MULTICAST_IF";
    46 MCAST_JOIN_SOURCE_GROUP   K K 0 NO, "as IP_MULTICAST_IF";
    47 MCAST_LEAVE_SOURCE_GROUP  K K 0 NO, "as IP_MULTICAST_IF";
    48 MCAST_MSFILTER        K K 0 NO, "as IP_MULTICAST_IF";
    49 IPV6_RECVPKTINFO      K S 1 bit(super::PKTINFO6), "";
    50 IPV6_PKTINFO          M M 0 NO, "a source for every packet";
    51 IPV6_RECVHOPLIMIT     K S 1 bit(super::RECV_HOPS), "";
    52 IPV6_HOPLIMIT         K K 0 NO, "a control message";
    53 IPV6_RECVHOPOPTS      K K 1 NO, "packets with extension headers come through the kernel socket";
    54 IPV6_HOPOPTS          M M 0 NO, "";
    55 IPV6_RTHDRDSTOPTS     M M 0 NO, "";
    56 IPV6_RECVRTHDR        K K 1 NO, "as IPV6_RECVHOPOPTS";
    57 IPV6_RTHDR            M M 0 NO, "";
    58 IPV6_RECVDSTOPTS      K K 1 NO, "as IPV6_RECVHOPOPTS";
    59 IPV6_DSTOPTS          M M 0 NO, "";
    60 IPV6_RECVPATHMTU      K K 1 NO, "";
    61 IPV6_PATHMTU          R R 0 NO, "";
    62 IPV6_DONTFRAG         K K 1 NO, "datagrams longer than the MTU are the kernel socket's";
    66 IPV6_RECVTCLASS       K S 1 bit(super::RECV_CLASS), "";
    67 IPV6_TCLASS           S S 1 opt(O::Class, Int), "";
    70 IPV6_AUTOFLOWLABEL    K K 1 NO, "the stack's flow labels are 0";
    72 IPV6_ADDR_PREFERENCES M M 1 NO, "";
    73 IPV6_MINHOPCOUNT      Z K 1 NO, "";
    74 IPV6_RECVORIGDSTADDR  K S 1 bit(super::ORIGDST6), "";
    75 IPV6_TRANSPARENT      Z Z 1 NO, "";
    76 IPV6_UNICAST_IF       Z Z 1 NO, "";
    77 IPV6_RECVFRAGSIZE     K K 1 NO, "fragments come through the kernel socket";
    78 IPV6_FREEBIND         K K 1 NO, "bind(2) is the kernel's";

    UDP:
    1   UDP_CORK             N K 0 bit(super::CORKED), "what is put together is sent by the kernel socket";
    100 UDP_ENCAP            N M 0 NO, "";
    101 UDP_NO_CHECK6_TX     N K 0 NO, "datagrams carry checksums all the same";
    102 UDP_NO_CHECK6_RX     N K 0 NO, "";
    103 UDP_SEGMENT          N K 0 bit(super::SEGMENT), "what is to be cut is sent by the kernel socket";
    104 UDP_GRO              N K 0 NO, "datagrams are told one by one";
}
