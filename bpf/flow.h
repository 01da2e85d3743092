/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the BPF programs and the Rust side (crates/vnic/src/host/bpf.rs) agree on: keys, values and
 * limits of the flow maps. The Rust side repeats these structs and tests their sizes.
 */
#ifndef FLYOVER_FLOW_H
#define FLYOVER_FLOW_H

#include <linux/types.h>

/* Stack id of a flow that the kernel keeps although a wildcard would match it. */
#define FLOW_PASS 0xffffffffu
/*
 * With a stack id: the kernel has this connection, and that stack may want it. The first packet that would have reached
 * the stack's V-NIC makes FLOW_PASS of it: so the connection's packets do come that way, as they are.
 */
#define FLOW_WATCH 0x80000000u

/* Kinds of V-NIC, as VnicKind. */
#define VNIC_PACKET 1u
#define VNIC_XDP 2u

#define MAX_FLOWS 262144
#define MAX_VNICS 4096
#define MAX_XSKS 4096

/*
 * A flow as a received packet shows it: local is the packet's destination. IPv4 addresses are v4-mapped
 * (::ffff:a.b.c.d). Looked up in this order:
 *   1. exact
 *   2. raddr all zero, rport 0                        (listener or UDP socket on one address)
 *   3. and laddr :: or ::ffff:0.0.0.0 as the packet's (the same on any address)
 */
struct flow_key {
	__u8 laddr[16];
	__u8 raddr[16];
	__be16 lport;
	__be16 rport;
	__u8 proto;
	__u8 pad[3];
};

/*
 * For each local port, in host order: which of the three look-ups can find anything. Bits are set before the first flow
 * of their kind and stay: one that is set in vain costs a look-up.
 */
#define PORT_EXACT 1u
#define PORT_LOCAL 2u
#define PORT_ANY 4u

struct vnic_key {
	__u32 ifindex;
	__u32 stack;
};

struct vnic {
	__u32 kind;
	__u32 xsk_base; /* index of queue 0's socket in xsks */
	__u32 queues;
};

#endif
