//! Super-frames, and small messages, that are placed in the memory of a waiting reader: the same bytes in the same order, whatever the sizes
//! and kinds of the reads.

mod hosts;

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use flyover_sockets::Errno;
use flyover_sockets::os::Os;
use flyover_sockets::process::{Answer, Fd};
use flyover_sockets::wait::Deadline;
use flyover_sockets::wait::spin::Budget;
use hosts::{Host, pair, segments_pair};

/// A connection: (client's descriptor on `a`, server's on `b`).
fn connect(a: &Host, b: &Host, port: u16) -> (i32, i32) {
    let listener = b.socket(libc::AF_INET, libc::SOCK_STREAM);
    b.os.bind(listener, &b.at(port)).expect("bind");
    assert_eq!(b.lib.listen(listener, 16), Answer::Value(0));
    let client = a.socket(libc::AF_INET, libc::SOCK_STREAM);
    let to = b.at(port);
    thread::scope(|s| {
        let server = s.spawn(|| b.lib.accept(listener, 0).expect("ours").expect("accepted"));
        assert_eq!(a.lib.connect(client, &to), Answer::Value(0));
        (client, server.join().expect("thread").fd)
    })
}

fn byte(at: usize) -> u8 {
    // A prime period: no size of a read hides a shift.
    (at % 251) as u8
}

fn send_all(h: &Host, fd: i32, total: usize, sizes: &[usize]) {
    let mut sent = 0;
    for size in sizes.iter().cycle() {
        if sent == total {
            return;
        }
        let part: Vec<u8> = (sent..total.min(sent + size)).map(byte).collect();
        match h.lib.send(fd, &[&part], 0) {
            Answer::Value(n) => sent += n,
            other => panic!("{other:?} after {sent} bytes"),
        }
    }
}

/// Reads with buffers of these sizes in turn, each call into the pieces of one entry, and compares.
fn read_all(h: &Host, fd: i32, total: usize, calls: &[&[usize]], flags: i32) {
    let mut got = 0;
    for pieces in calls.iter().cycle() {
        if got == total {
            return;
        }
        let mut memory: Vec<Vec<u8>> = pieces.iter().map(|n| vec![0xff; *n]).collect();
        let mut into: Vec<&mut [u8]> = memory.iter_mut().map(Vec::as_mut_slice).collect();
        match h.lib.recv(fd, &mut into, flags) {
            Answer::Value(0) => panic!("the end after {got} of {total} bytes"),
            Answer::Value(n) => {
                let seen: Vec<u8> = memory.concat();
                let wrong = (0..n).find(|i| seen[*i] != byte(got + i));
                assert_eq!(wrong, None, "byte after {got}");
                assert!(
                    seen[n..].iter().all(|b| *b == 0xff),
                    "nothing behind the end"
                );
                got += n;
            }
            Answer::Error(flyover_sockets::Errno::EAGAIN) if flags != 0 => thread::yield_now(),
            other => panic!("{other:?} after {got} bytes"),
        }
    }
}

fn direct(h: &Host) -> u64 {
    h.stack().stats().tcp_direct.load(Ordering::Relaxed)
}

fn transfer(port: u16, writes: &[usize], reads: &[&[usize]], flags: i32) -> u64 {
    direct(&transfer_between(pair(), port, writes, reads, flags))
}

/// The same between these hosts; the receiver.
fn transfer_between(
    (a, b): (Host, Host),
    port: u16,
    writes: &[usize],
    reads: &[&[usize]],
    flags: i32,
) -> Host {
    const TOTAL: usize = 3_000_001;
    let (c, s) = connect(&a, &b, port);
    thread::scope(|t| {
        t.spawn(|| send_all(&a, c, TOTAL, writes));
        read_all(&b, s, TOTAL, reads, flags);
    });
    b
}

#[test]
fn large_reads_get_super_frames_at_once() {
    assert!(transfer(80, &[65_536], &[&[131_072]], 0) > 0);
}

#[test]
fn a_super_frame_that_does_not_fit_is_continued_in_the_queue() {
    assert!(transfer(81, &[65_536, 1, 40_000], &[&[20_000], &[16_384]], 0) > 0);
}

#[test]
fn vectors_are_filled_in_order() {
    let calls: &[&[usize]] = &[&[1, 30_000, 7], &[16_384, 16_384, 3, 100_000]];
    assert!(transfer(82, &[65_536, 100], calls, 0) > 0);
}

#[test]
fn segments_that_nobody_merges_come_together_in_large_reads() {
    let gathered = |b: &Host| b.stack().stats().tcp_gathered.load(Ordering::Relaxed);
    // Single full segments in the middle of something, each read before the next one comes.
    const SEGMENT: usize = 1448;
    const SEGMENTS: usize = 500;
    let (a, b) = segments_pair();
    let (c, s) = connect(&a, &b, 90);
    thread::scope(|t| {
        t.spawn(|| {
            for i in 0..SEGMENTS {
                let part: Vec<u8> = (i * SEGMENT..(i + 1) * SEGMENT).map(byte).collect();
                let sent = a.lib.send(c, &[&part], libc::MSG_MORE);
                assert_eq!(sent, Answer::Value(SEGMENT));
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(50) {
                    std::hint::spin_loop();
                }
            }
        });
        read_all(
            &b,
            s,
            SEGMENTS * SEGMENT,
            &[&[65_536], &[20_000, 100_000]],
            0,
        );
    });
    assert!(gathered(&b) > 0);
    let polling = libc::MSG_DONTWAIT;
    let b = transfer_between(segments_pair(), 97, &[1_000_000], &[&[65_536]], polling);
    assert_eq!(gathered(&b), 0, "calls that do not wait");
    let (a, b) = segments_pair();
    let (c, s) = connect(&a, &b, 98);
    for _ in 0..100 {
        let answer: Vec<u8> = (0..20_000).map(byte).collect();
        assert_eq!(a.lib.send(c, &[&answer], 0), Answer::Value(20_000));
        read_all(&b, s, 20_000, &[&[65_536]], 0);
    }
    assert_eq!(gathered(&b), 0, "short answers");
}

/// What a thread has looked up may be closed by another one before it gets the stack's lock.
#[test]
fn what_was_looked_up_is_gone_when_it_is_closed() {
    let (a, b) = pair();
    let (c, _) = connect(&a, &b, 99);
    let Fd::Tcp(ep) = a.lib.look(c) else {
        panic!("not ours")
    };
    assert_eq!(ep.locked(|_, id| id), Ok(ep.sock.id));
    ep.att.locked(|l| l.abort(ep.sock.id));
    let _: Answer = a.lib.close(c);
    assert_eq!(ep.locked(|_, id| id), Err(Errno::EBADF));
    assert_eq!(
        ep.att
            .block_on(ep.sock, 1, -1, Deadline::NEVER, Budget::Fixed(0)),
        Ok(())
    );
}

/// The urgent byte is not a part of the stream, whoever waits for the next byte of it.
#[test]
fn an_urgent_byte_does_not_go_to_a_waiting_reader() {
    let (a, b) = pair();
    let (c, s) = connect(&a, &b, 100);
    let oob = |into: &mut [u8]| b.lib.recv(s, &mut [into], libc::MSG_OOB);
    for round in 0..50 {
        assert_eq!(a.lib.send(c, &[b"X"], libc::MSG_OOB), Answer::Value(1));
        thread::yield_now();
        assert_eq!(a.lib.send(c, &[b"y"], 0), Answer::Value(1));
        read_text(&b, s, b"y", round);
    }
    for round in 0..50 {
        for (text, flags) in [(&b"abc"[..], 0), (b"d", libc::MSG_OOB), (b"ef", 0)] {
            assert_eq!(a.lib.send(c, &[text], flags), Answer::Value(text.len()));
        }
        // A read ends at the mark.
        read_text(&b, s, b"abc", round);
        let mut byte = [0];
        let came = (0..10_000).any(|_| {
            thread::yield_now();
            oob(&mut byte) == Answer::Value(1)
        });
        assert!(came, "round {round}");
        assert_eq!(&byte, b"d", "round {round}");
        read_text(&b, s, b"ef", round);
    }
}

fn read_text(h: &Host, fd: i32, want: &[u8], round: usize) {
    let mut got = Vec::new();
    while got.len() < want.len() {
        let mut into = [0; 64];
        match h.lib.recv(fd, &mut [&mut into], libc::MSG_DONTWAIT) {
            Answer::Value(n) => got.extend_from_slice(&into[..n]),
            Answer::Error(Errno::EAGAIN) => thread::yield_now(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, want, "round {round}");
}

/// Messages that are alone in their segments, for a reader that polls.
fn messages(port: u16, reads: &[&[usize]]) -> u64 {
    let (a, b) = pair();
    let (c, s) = connect(&a, &b, port);
    for len in [1, 64, 100, 192] {
        let text: Vec<u8> = (0..len).map(byte).collect();
        assert_eq!(a.lib.send(c, &[&text], 0), Answer::Value(len));
        read_all(&b, s, len, reads, libc::MSG_DONTWAIT);
    }
    direct(&b)
}

#[test]
fn small_messages_need_no_buffer() {
    assert!(messages(88, &[&[200]]) > 0);
    assert!(messages(89, &[&[1, 7, 192]]) > 0, "several pieces");
    // What is longer than the reader wants goes through the queue, in order.
    let _: u64 = messages(90, &[&[3, 50]]);
}

#[test]
fn small_reads_and_long_vectors_go_through_the_queue() {
    assert_eq!(transfer(83, &[65_536], &[&[1_000], &[16_383]], 0), 0);
    assert_eq!(transfer(84, &[65_536], &[&[9_000, 1, 1, 1, 9_000]], 0), 0);
}

#[test]
fn small_reads_that_do_not_wait_go_through_the_queue_too() {
    assert_eq!(
        transfer(87, &[65_536], &[&[1_000], &[16_383]], libc::MSG_DONTWAIT),
        0
    );
}

#[test]
fn polls_of_a_non_blocking_reader_are_direct_too() {
    let reads: &[&[usize]] = &[&[131_072], &[17_000]];
    // A reader that polls is seldom at the end of the queue when a frame comes, if it is slow.
    let is_direct = |_| transfer(85, &[65_536, 3, 1_448], reads, libc::MSG_DONTWAIT) > 0;
    assert!((0..20).any(is_direct));
}

#[test]
fn a_peek_leaves_everything_where_it_is() {
    let (a, b) = pair();
    let (c, s) = connect(&a, &b, 86);
    thread::scope(|t| {
        t.spawn(|| send_all(&a, c, 60_000, &[60_000]));
        let mut seen = vec![0; 65_536];
        match b.lib.recv(s, &mut [&mut seen], libc::MSG_PEEK) {
            Answer::Value(n) => assert!(n > 0 && (0..n).all(|i| seen[i] == byte(i))),
            other => panic!("{other:?}"),
        }
        assert_eq!(direct(&b), 0);
        read_all(&b, s, 60_000, &[&[65_536]], 0);
    });
}
