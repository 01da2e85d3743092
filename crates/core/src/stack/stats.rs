//! Counters, declared once: the object, the names and the help text come from one table.

use flyover_shm::{Shared64, shm_struct};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        shm_struct! {
            /// Counters of a stack. Any process may add to them.
            pub struct Stats {
                $($(#[doc = $doc])+ pub $name: Shared64,)+
            }
        }

        impl Stats {
            /// Name, meaning and value of every counter.
            pub fn each(&self, mut f: impl FnMut(&'static str, &'static str, u64)) {
                $(f(stringify!($name), concat!($($doc),+), self.$name.load(core::sync::atomic::Ordering::Relaxed));)+
            }
        }
    };
}

counters! {
    /// Polls.
    polls,
    /// Frames taken from V-NICs.
    rx_frames,
    /// Bytes of those frames.
    rx_bytes,
    /// Frames given to V-NICs.
    tx_frames,
    /// Bytes of those frames.
    tx_bytes,
    /// Frames dropped: the headers could not be parsed.
    rx_drop_parse,
    /// Frames dropped: IP or L4 checksum wrong.
    rx_drop_checksum,
    /// Frames dropped: no socket, and none answers.
    rx_drop_no_socket,
    /// Frames dropped: no buffer was free.
    rx_drop_no_buffer,
    /// Frames dropped: payload could not be fetched from the V-NIC.
    rx_drop_fetch,
    /// Datagrams dropped: receive queue full.
    udp_drop_full,
    /// Datagrams received.
    udp_in,
    /// Datagrams sent.
    udp_out,
    /// Datagrams of accelerated sockets that the kernel socket sent: multicast, fragments, no neighbour yet, by option.
    udp_out_kernel,
    /// Datagrams that waited for a change of the control plane.
    udp_out_busy,
    /// TCP segments received.
    tcp_in,
    /// TCP super-frames placed in the memory of a reader who waited for them.
    tcp_direct,
    /// Reads that let segments come together, because their V-NIC does not merge them.
    tcp_gathered,
    /// TCP segments sent (super-frames count once).
    tcp_out,
    /// TCP segments dropped: listener's backlog full.
    tcp_drop_backlog,
    /// SYNs answered with a cookie: as many connections of the listener were half-open as may be.
    tcp_cookies_out,
    /// Connections that came back with a cookie.
    tcp_cookies_in,
    /// ACKs without connection that had no valid cookie, at a listener that had given some.
    tcp_cookies_bad,
    /// TCP segments dropped: bare ACKs of connections that the listener wants with data only (`TCP_DEFER_ACCEPT`).
    tcp_put_off,
    /// TCP segments dropped: no socket slot.
    tcp_drop_no_slot,
    /// TCP segments dropped: outside the window.
    tcp_drop_window,
    /// TCP segments dropped: timestamp older than the last (PAWS).
    tcp_drop_paws,
    /// TCP segments dropped: an MD5 signature (RFC 2385), for which there is no key.
    tcp_drop_signed,
    /// TCP segments dropped: no ACK flag in a synchronised state.
    tcp_drop_no_ack,
    /// TCP segments dropped: ACK of what was never sent.
    tcp_drop_bad_ack,
    /// TCP segments dropped: state does not take them.
    tcp_drop_state,
    /// TCP segments dropped: the connection is on its way to the kernel, or there.
    tcp_drop_moved,
    /// TCP segments dropped: data after the program closed; answered with RST.
    tcp_drop_closed,
    /// Out-of-order segments queued.
    tcp_ooo,
    /// Out-of-order data dropped because of memory.
    tcp_ooo_drop,
    /// Duplicate data received.
    tcp_dup,
    /// Challenge ACKs sent (RFC 5961).
    tcp_challenge,
    /// RSTs sent.
    tcp_rst_out,
    /// RSTs taken.
    tcp_rst_in,
    /// Segments retransmitted.
    tcp_retrans,
    /// Retransmission timeouts.
    tcp_rto,
    /// Tail-loss probes.
    tcp_tlp,
    /// Fast recoveries.
    tcp_recovery,
    /// Zero-window probes.
    tcp_persist,
    /// Connections opened actively.
    tcp_active,
    /// Connections accepted from a SYN.
    tcp_passive,
    /// Connections that died unestablished or by timeout.
    tcp_failed,
    /// Connections handed over to the kernel.
    handovers,
    /// Datagrams dropped unread: the socket went to a program that only the kernel serves.
    udp_left_behind,
    /// Hand-overs that did not succeed; the connection went on here, or its process died.
    handover_failed,
    /// Connections of the kernel that were to be taken over.
    takeovers_begun,
    /// Those that were.
    takeovers_of_kernel,
    /// Ends of connections within this host that got a place in the stack.
    local_marks,
    /// Connections within this host that were paired: their bytes go through shared memory.
    local_pairs,
    /// Pairs that went back to the kernel.
    local_parted,
    /// Pairs reset because bytes that the kernel had held did not come into the queue.
    local_lost,
    /// Senders within a pair that did not come out of its queue in time.
    local_stuck,
    /// TIME_WAIT sockets recycled early because slots were short.
    tw_recycled,
    /// TIME_WAIT sockets re-opened by a new SYN.
    tw_reopened,
    /// Transmissions put off: neighbour unresolved.
    tx_no_neigh,
    /// Transmissions put off: V-NIC full.
    tx_full,
    /// Transmissions refused by the V-NIC.
    tx_dropped,
    /// Frames that waited for the lock to be dropped and were refused then.
    tx_outbox_lost,
    /// Transmissions given up: no route.
    tx_no_route,
    /// Route look-ups because a cached one was stale.
    route_refresh,
    /// Sockets refused because the table is full.
    no_socket_slot,
    /// Sends that found no buffer.
    no_buffer,
    /// Work left to the lock holder.
    deferred,
    /// Sleepers woken.
    wakes,
    /// Of these, by a copy of the sleeper's bell.
    bells,
    /// Sleepers promoted to watch the V-NICs.
    promotions,
    /// Things found in memory that cannot be.
    corrupt,
    /// Locks taken over from dead owners.
    takeovers,
}
