/* Options of IPPROTO_IP, IPPROTO_IPV6 and IPPROTO_UDP, in every state of a socket. */
#include "opt.h"

INT_OPT(ip_tos, IPPROTO_IP, IP_TOS, 0, 0x10, 0xff, 0x100, -1, 0x1b, 0x20)
INT_OPT(ip_ttl, IPPROTO_IP, IP_TTL, 0, 1, 255, 256, -1, 77)
INT_OPT(ip_hdrincl, IPPROTO_IP, IP_HDRINCL, 0, 1)
INT_OPT(ip_recvopts, IPPROTO_IP, IP_RECVOPTS, 0, 1)
INT_OPT(ip_retopts, IPPROTO_IP, IP_RETOPTS, 0, 1)
INT_OPT(ip_pktinfo, IPPROTO_IP, IP_PKTINFO, 0, 9)
INT_OPT(ip_mtu_discover, IPPROTO_IP, IP_MTU_DISCOVER, 2, 6, -1, 1, 3, 1)
INT_OPT_KERNEL(ip_mtu_discover_dont, IPPROTO_IP, IP_MTU_DISCOVER, 0, 4, 5)
INT_OPT_KERNEL(ip_recverr, IPPROTO_IP, IP_RECVERR, 0, 1)
INT_OPT(ip_recvttl, IPPROTO_IP, IP_RECVTTL, 0, 9)
INT_OPT(ip_recvtos, IPPROTO_IP, IP_RECVTOS, 0, 9)
INT_OPT_HOW(0, ip_mtu, IPPROTO_IP, IP_MTU, 0, 1400)
INT_OPT(ip_freebind, IPPROTO_IP, IP_FREEBIND, 0, 1)
INT_OPT(ip_passsec, IPPROTO_IP, IP_PASSSEC, 0, 1)
INT_OPT_KERNEL(ip_transparent, IPPROTO_IP, IP_TRANSPARENT, 0, 1)
INT_OPT(ip_recvorigdstaddr, IPPROTO_IP, IP_RECVORIGDSTADDR, 0, 1)
INT_OPT_KERNEL(ip_minttl, IPPROTO_IP, IP_MINTTL, 0, -1, 256, 33)
INT_OPT(ip_nodefrag, IPPROTO_IP, IP_NODEFRAG, 0, 1)
INT_OPT_KERNEL(ip_checksum, IPPROTO_IP, IP_CHECKSUM, 0, 1)
INT_OPT(ip_bind_address_no_port, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 0, 1)
INT_OPT(ip_recvfragsize, IPPROTO_IP, 25, 0, 2, 1)
INT_OPT_HOW(NOT_PASSIVE, ip_multicast_ttl, IPPROTO_IP, IP_MULTICAST_TTL, 0, 255, 256, -1, 3)
INT_OPT(ip_multicast_loop, IPPROTO_IP, IP_MULTICAST_LOOP, 0, 5)
INT_OPT(ip_multicast_all, IPPROTO_IP, 49, 0, 2, 1)
INT_OPT_HOW(NOT_PASSIVE, ip_multicast_if, IPPROTO_IP, IP_MULTICAST_IF, 0)
INT_OPT_KERNEL(ip_unicast_if, IPPROTO_IP, IP_UNICAST_IF, 0, 0x7f000000)
INT_OPT(ip_local_port_range, IPPROTO_IP, 51, 0, 0x9c409c40)
/* Not the protocol, but the local port. */
CASE(ip_protocol)
{
    for (enum state state = 0; state < STATES; state++) {
        int fd = in_state(state), v = -1;
        socklen_t len = sizeof v;
        int ret = getsockopt(fd, IPPROTO_IP, 52, &v, &len);
        say("%s %s is the port: %d", state_name[state], ret ? errno_name(errno) : "ok", v == port_of(fd));
        close(fd);
    }
}
INT_OPT(ip_unknown, IPPROTO_IP, 250, 0)

INT_OPT(ipv6_unicast_hops, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 0, 255, 256, -1, -2, 9)
INT_OPT_HOW(NOT_PASSIVE, ipv6_multicast_hops, IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 0, 255, 256, -1, 9)
INT_OPT(ipv6_multicast_loop, IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0, 2, 1)
INT_OPT_HOW(NOT_PASSIVE, ipv6_multicast_if, IPPROTO_IPV6, IPV6_MULTICAST_IF, 0, 9999)
INT_OPT(ipv6_v6only, IPPROTO_IPV6, IPV6_V6ONLY, 0, 1)
INT_OPT(ipv6_recvpktinfo, IPPROTO_IPV6, IPV6_RECVPKTINFO, 0, 1)
INT_OPT(ipv6_recvhoplimit, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 0, 1)
INT_OPT(ipv6_recvtclass, IPPROTO_IPV6, IPV6_RECVTCLASS, 0, 1)
INT_OPT(ipv6_tclass, IPPROTO_IPV6, IPV6_TCLASS, 0, 255, 256, -1, -2, 0x20)
INT_OPT(ipv6_mtu_discover, IPPROTO_IPV6, IPV6_MTU_DISCOVER, 2, 6, -1, 1)
INT_OPT_HOW(0, ipv6_mtu, IPPROTO_IPV6, IPV6_MTU, 0, 100)
INT_OPT_KERNEL(ipv6_mtu_set, IPPROTO_IPV6, IPV6_MTU, 1400)
INT_OPT_KERNEL(ipv6_recverr, IPPROTO_IPV6, IPV6_RECVERR, 0, 1)
INT_OPT(ipv6_dontfrag, IPPROTO_IPV6, IPV6_DONTFRAG, 0, 1)
INT_OPT(ipv6_recvpathmtu, IPPROTO_IPV6, IPV6_RECVPATHMTU, 0, 1)
INT_OPT(ipv6_recvorigdstaddr, IPPROTO_IPV6, 74, 0, 1)
INT_OPT(ipv6_autoflowlabel, IPPROTO_IPV6, 70, 0, 1)
INT_OPT_KERNEL(ipv6_transparent, IPPROTO_IPV6, 75, 0, 1)
INT_OPT_KERNEL(ipv6_minhopcount, IPPROTO_IPV6, 73, 0, 256, 20)
INT_OPT(ipv6_freebind, IPPROTO_IPV6, 78, 0, 1)
INT_OPT_KERNEL(ipv6_addrform, IPPROTO_IPV6, 1, 10, 99)
INT_OPT(ipv6_recvrthdr, IPPROTO_IPV6, IPV6_RECVRTHDR, 0, 1)
INT_OPT(ipv6_recvhopopts, IPPROTO_IPV6, IPV6_RECVHOPOPTS, 0, 1)
INT_OPT_KERNEL(ipv6_2292pktinfo, IPPROTO_IPV6, 2, 0, 1)
INT_OPT_KERNEL(ipv6_flowinfo_send, IPPROTO_IPV6, 33, 0, 1)
INT_OPT(ipv6_unknown, IPPROTO_IPV6, 250, 0)

INT_OPT(udp_cork, IPPROTO_UDP, UDP_CORK, 0, 1, 0)
INT_OPT(udp_encap_bad, IPPROTO_UDP, 100, 77)
INT_OPT(udp_no_check6_tx, IPPROTO_UDP, 101, 0, 1)
INT_OPT(udp_no_check6_rx, IPPROTO_UDP, 102, 0, 1)
INT_OPT(udp_segment, IPPROTO_UDP, UDP_SEGMENT, 0, -1, 65536, 1000)
INT_OPT(udp_gro, IPPROTO_UDP, UDP_GRO, 0, 5, 1)
INT_OPT(udp_unknown, IPPROTO_UDP, 250, 0)
