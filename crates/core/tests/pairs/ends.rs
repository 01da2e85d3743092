//! An end that closes while the other one sends without the stack lock.

use std::sync::atomic::{AtomicU32, Ordering};

use super::host::{ME, with_host};
use flyover_core::TcpState;
use flyover_core::sock::SHUT_WR;

/// The one that closes has sent its FIN before. What comes to it that nobody reads resets the sender, at whatever moment of
/// the close it comes.
#[test]
fn what_comes_to_a_closing_end_resets_its_sender() {
    for round in 0..4000u32 {
        with_host(|h| {
            assert!(h.pair());
            let [a, b] = h.ends;
            assert_eq!(h.locked(|l| l.shutdown(a.id, SHUT_WR)), Ok(()));
            let (st, go) = (h.st, AtomicU32::new(0));
            let sent = std::thread::scope(|s| {
                let sends = s.spawn(|| {
                    while go.load(Ordering::Acquire) == 0 {
                        std::hint::spin_loop();
                    }
                    st.local_send_fast(b, &[&b"late"[..]], ME + 1)
                });
                h.locked(|l| {
                    go.store(1, Ordering::Release);
                    for _ in 0..round % 400 {
                        std::hint::spin_loop();
                    }
                    l.close(a.id);
                });
                sends.join().expect("it ends")
            });
            if sent.is_some() {
                assert_eq!(st.sock(b.id).tcp_state(), TcpState::Closed, "{round}");
            }
        });
    }
}
