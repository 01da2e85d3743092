//! Opaque copies between frames and the stack's windows.

use flyover_shm::ShmBytes;

#[cfg(feature = "linux")]
use crate::HEAD_LEN;

/// Copies the beginning of a frame to `head`; returns how many bytes that was.
#[cfg(feature = "linux")]
pub(crate) fn head_of(frame: ShmBytes<'_>, head: &mut [u8; HEAD_LEN]) -> u32 {
    frame.sub(0, HEAD_LEN).copy_out(head) as u32
}

/// Private memory in the role of a window.
pub(crate) fn private(bytes: &mut [u8]) -> ShmBytes<'_> {
    ShmBytes::private(bytes)
}

/// Copies `from` into the windows, in order, until either ends; returns how many bytes.
pub(crate) fn copy_windows(from: ShmBytes<'_>, into: &[ShmBytes<'_>]) -> usize {
    let mut done = 0;
    for window in into {
        if done >= from.len() {
            break;
        }
        done += window.copy_from(from.sub(done, window.len()));
    }
    done
}

/// Copies the windows, in order, to the beginning of `into`; returns how many bytes.
pub(crate) fn gather(windows: &[ShmBytes<'_>], into: ShmBytes<'_>) -> usize {
    let mut done = 0;
    for window in windows {
        done += into.sub(done, window.len()).copy_from(*window);
    }
    done
}

/// Bytes in all windows.
pub(crate) fn total(windows: &[ShmBytes<'_>]) -> usize {
    windows.iter().map(ShmBytes::len).sum()
}

/// The part `[at, at + len)` of the bytes in `windows`, as windows in `out`. Returns how many it took;
/// what does not fit in `out` is left out.
#[cfg(feature = "linux")]
pub(crate) fn part_of<'m>(
    windows: &[ShmBytes<'m>],
    (mut at, mut len): (usize, usize),
    out: &mut [ShmBytes<'m>],
) -> usize {
    let mut used = 0;
    for window in windows {
        if len == 0 {
            break;
        }
        if at >= window.len() {
            at -= window.len();
            continue;
        }
        let Some(slot) = out.get_mut(used) else { break };
        *slot = window.sub(at, len);
        len -= slot.len();
        used += 1;
        at = 0;
    }
    used
}
