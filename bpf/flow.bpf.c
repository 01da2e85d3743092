// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Flow steering: which received packets belong to a Flyover stack. Three programs over the same maps:
 *
 *   xdp_flow   XDP     redirects a stack's flows to its AF_XDP socket of the packet's queue
 *   sock_flow  socket  lets a stack's flows, and nothing else, into its packet socket
 *   tc_drop    tcx     drops the flows that sock_flow took, before the kernel's own stack sees them
 *
 * Everything a stack did not ask for passes: what is not TCP or UDP, fragments, IPv4 options, IPv6
 * extension headers, multicast, broadcast, frames for other hosts. sock_flow and tc_drop judge every
 * packet alike (flow_owner_skb), or a packet would be seen by both stacks or by none.
 *
 * Packet taps run before tcx (__netif_receive_skb_core), so dropping does not take the packet from the tap.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"

/* Flow -> stack id. Grown on demand: most namespaces have few flows. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct flow_key);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} flows SEC(".maps");

/* Local port -> PORT_*: most packets are nobody's, and a listener's need not be looked for as a connection's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} ports SEC(".maps");

/* (interface, stack) -> where that stack receives on that interface. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_VNICS);
	__type(key, struct vnic_key);
	__type(value, struct vnic);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} vnics SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_XSKS);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} xsks SEC(".maps");

/* The stack whose packet socket this instance of sock_flow is attached to; set before loading. */
const volatile __u32 my_stack = FLOW_PASS;

enum verdict { NOT_OURS = -1, OURS = 0 };

/* Where packet bytes come from: a constant at every call, so each program gets its own copy. */
enum source { FROM_XDP, FROM_SKB };

struct ports {
	__be16 source;
	__be16 dest;
} __attribute__((packed));

struct head4 {
	struct iphdr ip;
	struct ports l4;
} __attribute__((packed));

struct head6 {
	struct ipv6hdr ip;
	struct ports l4;
} __attribute__((packed));

struct tag {
	__be16 tci;
	__be16 proto;
};

/* Copies bytes of a packet, linear or not; non-zero when the packet is shorter. */
static __always_inline long copy(void *ctx, enum source source, __u32 at, void *to, __u32 len)
{
	if (source == FROM_XDP)
		return bpf_xdp_load_bytes(ctx, at, to, len);
	return bpf_skb_load_bytes(ctx, at, to, len);
}

static __always_inline void map_v4(__u8 to[16], __be32 addr)
{
	__builtin_memset(to, 0, 10);
	to[10] = 0xff;
	to[11] = 0xff;
	__builtin_memcpy(to + 12, &addr, 4);
}

static __always_inline int is_mapped(const __u8 addr[16])
{
	__u32 word[3];

	__builtin_memcpy(word, addr, sizeof(word));
	return word[0] == 0 && word[1] == 0 && word[2] == bpf_htonl(0xffff);
}

static __always_inline int is_l4_ours(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP;
}

static __always_inline enum verdict key_v4(void *ctx, enum source source, __u32 at,
					   struct flow_key *key)
{
	struct head4 head;

	if (copy(ctx, source, at, &head, sizeof(head)))
		return NOT_OURS;
	if (head.ip.version != 4 || head.ip.ihl != 5 || !is_l4_ours(head.ip.protocol))
		return NOT_OURS;
	/* More-fragments or an offset: the kernel reassembles. */
	if (head.ip.frag_off & bpf_htons(0x3fff))
		return NOT_OURS;
	map_v4(key->laddr, head.ip.daddr);
	map_v4(key->raddr, head.ip.saddr);
	key->proto = head.ip.protocol;
	key->lport = head.l4.dest;
	key->rport = head.l4.source;
	return OURS;
}

static __always_inline enum verdict key_v6(void *ctx, enum source source, __u32 at,
					   struct flow_key *key)
{
	struct head6 head;

	if (copy(ctx, source, at, &head, sizeof(head)))
		return NOT_OURS;
	if (head.ip.version != 6 || !is_l4_ours(head.ip.nexthdr))
		return NOT_OURS;
	__builtin_memcpy(key->laddr, &head.ip.daddr, 16);
	__builtin_memcpy(key->raddr, &head.ip.saddr, 16);
	key->proto = head.ip.nexthdr;
	key->lport = head.l4.dest;
	key->rport = head.l4.source;
	return OURS;
}

/*
 * Fills the key of a packet that a stack could own. Tags are in the packet only under XDP: for an skb
 * the kernel has moved them to metadata, which flow_owner_skb looks at, and read the Ethernet header.
 */
static __always_inline enum verdict key_xdp(struct xdp_md *ctx, struct flow_key *key)
{
	const enum source source = FROM_XDP;
	__u32 at = sizeof(struct ethhdr);
	struct ethhdr eth;
	__be16 proto;

	if (copy(ctx, source, 0, &eth, sizeof(eth)))
		return NOT_OURS;
	if (eth.h_dest[0] & 1)
		return NOT_OURS;
	proto = eth.h_proto;
	if (proto == bpf_htons(ETH_P_8021Q)) {
		struct tag tag;

		/*
		 * Tagged with a VLAN: the packet is the VLAN interface's, which has a V-NIC of its own.
		 * Tag 0 only carries a priority (802.1Q section 9.6): the packet is this interface's.
		 */
		if (copy(ctx, source, at, &tag, sizeof(tag)))
			return NOT_OURS;
		if (tag.tci & bpf_htons(0x0fff))
			return NOT_OURS;
		proto = tag.proto;
		at += sizeof(tag);
	}
	if (proto == bpf_htons(ETH_P_IP))
		return key_v4(ctx, source, at, key);
	if (proto == bpf_htons(ETH_P_IPV6))
		return key_v6(ctx, source, at, key);
	return NOT_OURS;
}

static __always_inline enum verdict key_skb(struct __sk_buff *skb, struct flow_key *key)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return key_v4(skb, FROM_SKB, sizeof(struct ethhdr), key);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return key_v6(skb, FROM_SKB, sizeof(struct ethhdr), key);
	return NOT_OURS;
}

/* What the map has for a flow, or NULL. Destroys the key. */
static __always_inline __u32 *lookup(struct flow_key *key)
{
	__u32 port = bpf_ntohs(key->lport);
	__u32 *found = bpf_map_lookup_elem(&ports, &port);
	__u32 *stack = NULL;
	__u32 use;

	if (!found || !*found)
		return NULL;
	use = *found;
	if (use & PORT_EXACT)
		stack = bpf_map_lookup_elem(&flows, key);
	if (stack)
		return stack;
	__builtin_memset(key->raddr, 0, 16);
	key->rport = 0;
	if (use & PORT_LOCAL)
		stack = bpf_map_lookup_elem(&flows, key);
	if (stack)
		return stack;
	if (!(use & PORT_ANY))
		return NULL;
	if (is_mapped(key->laddr))
		__builtin_memset(key->laddr + 12, 0, 4);
	else
		__builtin_memset(key->laddr, 0, 16);
	return bpf_map_lookup_elem(&flows, key);
}

/* A stack's V-NIC of one kind on one interface, or NULL. */
static __always_inline struct vnic *vnic_of(__u32 ifindex, __u32 stack, __u32 kind)
{
	struct vnic_key key = { .ifindex = ifindex, .stack = stack };
	struct vnic *vnic = bpf_map_lookup_elem(&vnics, &key);

	return vnic && vnic->kind == kind ? vnic : NULL;
}

/* Whether a program stands where packets come into a V-NIC, or behind other programs that may have changed them. */
enum place { AT_VNIC, BEHIND };

/* The stack that owns a flow for which the map has this value, or FLOW_PASS. */
static __always_inline __u32 owner(__u32 *value, __u32 ifindex, __u32 kind, enum place place)
{
	__u32 stack = value ? *value : FLOW_PASS;

	if (!(stack & FLOW_WATCH) || stack == FLOW_PASS)
		return stack;
	/* The value may be another flow's by now. */
	if (place == AT_VNIC && vnic_of(ifindex, stack & ~FLOW_WATCH, kind))
		__sync_val_compare_and_swap(value, stack, FLOW_PASS);
	return FLOW_PASS;
}

/*
 * The stack that takes this packet through a packet socket, or FLOW_PASS. A tagged frame belongs to the
 * VLAN interface, which it reaches next, without the tag.
 */
static __always_inline __u32 flow_owner_skb(struct __sk_buff *skb, enum place place)
{
	struct flow_key key = {};
	__u32 stack;

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return FLOW_PASS;
	if (key_skb(skb, &key) == NOT_OURS)
		return FLOW_PASS;
	stack = owner(lookup(&key), skb->ifindex, VNIC_PACKET, place);
	if (stack == FLOW_PASS || !vnic_of(skb->ifindex, stack, VNIC_PACKET))
		return FLOW_PASS;
	return stack;
}

SEC("xdp")
int xdp_flow(struct xdp_md *ctx)
{
	struct flow_key key = {};
	struct vnic *vnic;
	__u32 stack;

	if (key_xdp(ctx, &key) == NOT_OURS)
		return XDP_PASS;
	stack = owner(lookup(&key), ctx->ingress_ifindex, VNIC_XDP, AT_VNIC);
	if (stack == FLOW_PASS)
		return XDP_PASS;
	vnic = vnic_of(ctx->ingress_ifindex, stack, VNIC_XDP);
	if (!vnic || ctx->rx_queue_index >= vnic->queues)
		return XDP_PASS;
	/* No socket there: the lower bits of the flags are the verdict. */
	return bpf_redirect_map(&xsks, vnic->xsk_base + ctx->rx_queue_index, XDP_PASS);
}

/* How many bytes of the packet the socket gets: all, or none. */
SEC("socket")
int sock_flow(struct __sk_buff *skb)
{
	__u32 stack = flow_owner_skb(skb, AT_VNIC);

	return stack != FLOW_PASS && stack == my_stack ? -1 : 0;
}

/* TC_ACT_UNSPEC is TCX_NEXT: later programs and the kernel's stack decide. */
SEC("classifier")
int tc_drop(struct __sk_buff *skb)
{
	return flow_owner_skb(skb, BEHIND) == FLOW_PASS ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* No helper here is restricted to the GPL; the kernel wants a licence string all the same. */
char _license[] SEC("license") = "Dual MIT/GPL";
