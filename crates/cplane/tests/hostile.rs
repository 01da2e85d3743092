//! A reader over memory that holds anything at all: it answers, it does not panic, it ends soon.

mod support;

use std::time::{Duration, Instant};

use flyover_cplane::writer::Writer;
use flyover_cplane::{Dims, DimsError, Reader, Resolve};
use flyover_shm::HeapMap;
use flyover_wire::Ip;
use proptest::prelude::*;
use support::{DIMS, ip, memory, network};

fn ask_everything(reader: &Reader<'_>, dst: Ip) {
    for oif in [0, 2, u32::MAX] {
        let _: Resolve = reader.resolve(dst, None, oif);
        let _: Resolve = reader.resolve(dst, Some(dst), oif);
        let _: Resolve = reader.resolve_multicast(dst, None, oif);
        let _: Option<Ip> = reader.source_for(dst, oif);
        let _: bool = reader.link(oif).is_some() || reader.neigh(oif, dst).is_some();
    }
    let _: bool = reader.is_local(dst);
    let rows = [
        (reader.links().count(), DIMS.links),
        (reader.addrs().count(), DIMS.addrs),
        (reader.routes().count(), DIMS.routes),
        (reader.neighs().count(), DIMS.neighs),
    ];
    assert!(rows.iter().all(|(found, most)| *found <= *most as usize));
    let _: String = format!(
        "{reader:?} {:?}",
        reader.links().map(|link| link.name).next()
    );
    let _: u32 = reader.version(u32::MAX).wrapping_add(reader.generation());
}

/// Addresses that are in the network, around it, and special.
fn destinations() -> Vec<Ip> {
    let text = "10.0.1.7 10.0.2.7 192.0.2.1 127.0.0.1 255.255.255.255 239.1.1.1 2001:db8::1 fe80::1 ff02::1 ::";
    text.split(' ').map(ip).collect()
}

proptest! {
    // Few cases: half of them wait out the patience of a reader with a writer that never ends.
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn random_memory(bytes in proptest::collection::vec(any::<u8>(), 1..4096), small in any::<bool>()) {
        let memory = memory(&DIMS);
        let len = memory.region().len();
        for at in (0..len).step_by(bytes.len()) {
            // Small numbers make more sense to the reader, and lead it further.
            let piece: Vec<u8> = bytes.iter().map(|byte| if small { byte & 3 } else { *byte }).collect();
            memory.region().bytes(at, piece.len()).copy_in(&piece);
        }
        let reader = Reader::new(memory.region(), &DIMS).unwrap();
        for dst in destinations() {
            ask_everything(&reader, dst);
        }
    }
}

proptest! {
    #[test]
    fn damaged_memory(damage in proptest::collection::vec((any::<u32>(), any::<u8>()), 1..200)) {
        let memory = memory(&DIMS);
        let mut writer = Writer::new(memory.region(), &DIMS, 7).unwrap();
        network(&mut writer);
        let len = memory.region().len();
        for (at, byte) in damage {
            memory.region().bytes(at as usize % len, 1).copy_in(&[byte]);
        }
        for dst in destinations() {
            ask_everything(&writer.reader(), dst);
        }
    }
}

#[test]
fn loops_and_locked_counts_end_soon() {
    // All ones: every sequence count is odd. All twos and the like: every chain is a loop.
    let dims = Dims::default();
    let memory = HeapMap::new(dims.len().unwrap());
    let reader = Reader::new(memory.region(), &dims).unwrap();
    for byte in [0xff, 1, 2, 0x10, 0x80] {
        let page = [byte; 4096];
        for at in (0..memory.region().len()).step_by(page.len()) {
            memory.region().bytes(at, page.len()).copy_in(&page);
        }
        let start = Instant::now();
        for dst in destinations() {
            let answer = reader.resolve(dst, None, 0);
            assert!(
                matches!(answer, Resolve::Unreachable(_) | Resolve::Local),
                "{byte:#x}: {answer:?}"
            );
        }
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{byte:#x} took {:?}",
            start.elapsed()
        );
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let memory = memory(&DIMS);
    let too_big = Dims::default();
    assert_eq!(
        Reader::new(memory.region(), &too_big).unwrap_err(),
        DimsError::TooSmall
    );
    let odd = Dims { links: 17, ..DIMS };
    assert_eq!(
        Reader::new(memory.region(), &odd).unwrap_err(),
        DimsError::Invalid
    );
    let none = Dims { neighs: 0, ..DIMS };
    assert_eq!(none.len(), Err(DimsError::Invalid));
    assert_eq!(none.rounded().neighs, 16);
    let huge = Dims {
        routes: u32::MAX,
        ..DIMS
    };
    assert_eq!(huge.len(), Err(DimsError::Invalid));
    assert_eq!(huge.rounded().routes, 1 << 20);
    assert_eq!(Dims::from_words(&DIMS.to_words()), Some(DIMS));
    assert_eq!(Dims::from_words(&[1, 2, 3]), None);
    assert_eq!(Dims::from_words(&[16, 16, 16, 1 << 40]), None);
    assert!(huge.rounded().len().unwrap() < 1 << 28);
}
