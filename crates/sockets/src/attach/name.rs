//! How a sleeping thread is addressed by whoever wakes it.

use flyover_core::stack::wake::WaiterId;

use crate::addr::Addr;

/// The abstract name on which waiter `w` is woken.
pub fn wake_name(stack_id: u32, w: WaiterId) -> Addr {
    let mut buf = [0u8; 48];
    let mut n = 0;
    let mut put = |b: &[u8]| {
        if let Some(s) = buf.get_mut(n..n + b.len()) {
            s.copy_from_slice(b);
            n += b.len();
        }
    };
    put(b"flyover-w/");
    let mut digits = [0u8; 10];
    put(decimal(stack_id, &mut digits));
    put(b"/");
    put(decimal(w.raw(), &mut digits));
    Addr::unix_abstract(buf.get(..n).unwrap_or_default())
}

fn decimal(mut v: u32, buf: &mut [u8; 10]) -> &[u8] {
    let mut at = buf.len();
    for slot in buf.iter_mut().rev() {
        *slot = b'0' + (v % 10) as u8;
        at -= 1;
        v /= 10;
        if v == 0 {
            break;
        }
    }
    buf.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flyover_shm::Idx;

    #[test]
    fn names_are_decimal() {
        let a = wake_name(12, Idx::new(4_000_000_000));
        assert_eq!(&a.as_bytes()[2..], b"\0flyover-w/12/4000000000");
        assert_eq!(&wake_name(0, Idx::new(0)).as_bytes()[3..], b"flyover-w/0/0");
    }
}
