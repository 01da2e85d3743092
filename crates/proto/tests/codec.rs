//! Every message survives the round trip, and no bytes make the decoders panic.

use flyover_proto::{
    Attach, Attached, Control, FilterSpec, KeeperMsg, List, MAX_MESSAGE, NicDesc, Notice,
    RefusedCode, Reply, Request, StackName, Text, VnicPref,
};
use flyover_wire::{Endpoint, Ip, Mac};
use proptest::prelude::*;

fn ip() -> impl Strategy<Value = Ip> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(Ip::v4),
        any::<[u8; 16]>().prop_map(Ip::v6)
    ]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (ip(), any::<u16>()).prop_map(|(ip, port)| Endpoint { ip, port })
}

fn words<const MAX: usize>() -> impl Strategy<Value = List<u64, MAX>> {
    prop::collection::vec(any::<u64>(), 0..=MAX).prop_map(List::new)
}

fn nic() -> impl Strategy<Value = NicDesc> {
    (
        any::<u16>(),
        1u8..3,
        any::<u32>(),
        any::<u32>(),
        any::<u32>(),
        any::<[u8; 6]>(),
        words(),
    )
        .prop_map(|(slot, kind, ifindex, queue, mtu, mac, geometry)| NicDesc {
            slot,
            kind,
            ifindex,
            queue,
            mtu,
            mac: Mac(mac),
            geometry,
        })
}

fn nics<const MAX: usize>() -> impl Strategy<Value = List<NicDesc, MAX>> {
    prop::collection::vec(nic(), 0..=MAX).prop_map(List::new)
}

fn stack_name() -> impl Strategy<Value = StackName> {
    prop_oneof![
        Just(StackName::Default),
        ".{0,80}".prop_map(|s| StackName::Named(Text::new(&s))),
        Just(StackName::Private),
        Just(StackName::Inherited)
    ]
}

fn attach() -> impl Strategy<Value = Attach> {
    let vnic = prop_oneof![
        Just(VnicPref::Auto),
        Just(VnicPref::Packet),
        Just(VnicPref::Xdp)
    ];
    (
        stack_name(),
        words(),
        prop::collection::vec("[a-z0-9]{1,15}", 0..40),
        vnic,
    )
        .prop_map(|(stack, opts, interfaces, vnic)| Attach {
            stack,
            opts,
            interfaces: List::new(interfaces.iter().map(|s| Text::new(s))),
            vnic,
        })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any::<u32>(), any::<u64>()).prop_map(|(version, layout_hash)| Request::Hello {
            version,
            layout_hash
        }),
        attach().prop_map(|attach| Request::Attach { attach }),
        Just(Request::Nics {}),
        (
            any::<u8>(),
            endpoint(),
            prop::option::of(endpoint()),
            any::<bool>()
        )
            .prop_map(|(proto, local, remote, dual)| Request::AddFilter {
                spec: FilterSpec {
                    proto,
                    local,
                    remote,
                    dual
                }
            }),
        any::<u32>().prop_map(|id| Request::DelFilter { id }),
        (any::<u32>(), ip()).prop_map(|(ifindex, ip)| Request::Resolve { ifindex, ip }),
        Just(Request::Ps {}),
        any::<u32>().prop_map(|stack_id| Request::StackFd { stack_id }),
        Just(Request::Check {}),
        Just(Request::Stay {}),
        any::<u16>().prop_map(|owner| Request::Rejoin { owner }),
        any::<u32>().prop_map(|inode| Request::Borrow { inode }),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let attached = (
        any::<u32>(),
        any::<u16>(),
        any::<u64>(),
        words(),
        words(),
        any::<u32>(),
        nics(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(stack_id, owner, stack_len, opts, dims, nic_gen, nics, local_only, shared)| {
                Reply::Attached {
                    attached: Attached {
                        stack_id,
                        owner,
                        stack_len,
                        opts,
                        cplane_len: 7,
                        dims,
                        nic_gen,
                        nics,
                        local_only,
                        shared,
                    },
                }
            },
        );
    prop_oneof![
        Just(Reply::Borrowed {}),
        (any::<u32>(), any::<u64>())
            .prop_map(|(pid, layout_hash)| Reply::Welcome { pid, layout_hash }),
        ".{0,500}".prop_map(|s| Reply::Refused {
            code: RefusedCode::Quota,
            text: Text::new(&s)
        }),
        attached,
        (any::<u32>(), nics()).prop_map(|(nic_gen, nics)| Reply::NicList { nic_gen, nics }),
        any::<u32>().prop_map(|id| Reply::FilterAdded { id }),
        (any::<bool>(), ".{0,3000}").prop_map(|(more, s)| Reply::Text {
            more,
            text: Text::new(&s)
        }),
        (any::<u64>(), words()).prop_map(|(stack_len, opts)| Reply::StackInfo { stack_len, opts }),
        Just(Reply::Working {}),
        (any::<u64>(), words()).prop_map(|(cplane_len, dims)| Reply::Rejoined { cplane_len, dims }),
    ]
}

proptest! {
    #[test]
    fn requests_round_trip(seq: u32, message in request()) {
        let mut buf = vec![0; MAX_MESSAGE];
        let len = message.encode(seq, &mut buf).unwrap();
        prop_assert_eq!(Request::decode(&buf[..len]), Ok((seq, message)));
        for cut in 0..len.min(200) {
            prop_assert!(Request::decode(&buf[..cut]).is_err());
        }
        prop_assert!(Request::decode(&buf[..len + 1]).is_err());
    }

    #[test]
    fn replies_round_trip(seq: u32, message in reply()) {
        let mut buf = vec![0; MAX_MESSAGE];
        let len = message.encode(seq, &mut buf).unwrap();
        prop_assert_eq!(Reply::decode(&buf[..len]), Ok((seq, message)));
        prop_assert!(Reply::decode(&buf[..len - 1]).is_err());
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), tag in 0u8..12) {
        let mut tagged = bytes.clone();
        if let Some(b) = tagged.get_mut(4) {
            *b = tag;
        }
        for input in [&bytes, &tagged] {
            let _ = Request::decode(input);
            let _ = Reply::decode(input);
            let _ = KeeperMsg::decode(input);
            let _ = Control::decode(input);
            let _ = Notice::decode(input);
        }
    }

    #[test]
    fn changed_bytes_never_panic(message in reply(), at: prop::sample::Index, to: u8) {
        let mut buf = vec![0; MAX_MESSAGE];
        let len = message.encode(1, &mut buf).unwrap();
        buf[at.index(len)] = to;
        let _ = Reply::decode(&buf[..len]);
    }
}

#[test]
fn the_largest_messages_fit() {
    let geometry = List::new((0..99).map(|_| u64::MAX));
    let nic = NicDesc {
        slot: 1,
        kind: NicDesc::XDP,
        ifindex: 2,
        queue: 3,
        mtu: 4,
        mac: Mac([5; 6]),
        geometry,
    };
    let attached = Attached {
        stack_id: 1,
        owner: 2,
        stack_len: 3,
        opts: List::new(std::iter::repeat_n(1, 1000)),
        cplane_len: 4,
        dims: List::new(std::iter::repeat_n(1, 1000)),
        nic_gen: 5,
        nics: List::new(std::iter::repeat_n(nic, 1000)),
        local_only: false,
        shared: true,
    };
    let mut buf = vec![0; MAX_MESSAGE];
    Reply::Attached { attached }.encode(1, &mut buf).unwrap();
    Reply::Text {
        more: true,
        text: Text::new(&"x".repeat(100_000)),
    }
    .encode(1, &mut buf)
    .unwrap();
}

#[test]
fn a_text_is_cut_at_a_character() {
    assert_eq!(Text::<5>::new("aäöü").as_str(), "aäö");
    assert_eq!(Text::<4>::new("aäöü").as_str(), "aä");
}
