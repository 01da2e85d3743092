//! The value of `LD_PRELOAD`: our library first, then whatever was there.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use crate::run::obstacle::Obstacle;

/// ld.so(8): items are separated by spaces or colons, and there is no way to escape either.
fn is_separator(byte: &u8) -> bool {
    matches!(byte, b':' | b' ')
}

/// Puts `library` in front of what `LD_PRELOAD` holds, once.
///
/// In front, so that our calls of the next definition reach the other libraries, and they see the
/// program's calls that we pass on.
pub(crate) fn merge(library: &Path, old: Option<OsString>) -> Result<OsString, Obstacle> {
    let ours = library.as_os_str().as_bytes();
    if ours.iter().any(is_separator) {
        return Err(Obstacle::LibraryPath);
    }
    let mut value = ours.to_vec();
    for item in old
        .as_ref()
        .map_or(&[][..], |o| o.as_bytes())
        .split(is_separator)
    {
        if !item.is_empty() && item != ours {
            value.push(b':');
            value.extend_from_slice(item);
        }
    }
    Ok(OsString::from_vec(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(old: &str) -> String {
        let old = Some(OsString::from(old));
        merge(Path::new("/lib/libflyover.so"), old)
            .unwrap()
            .into_string()
            .unwrap()
    }

    #[test]
    fn ours_first_once() {
        assert_eq!(merged(""), "/lib/libflyover.so");
        assert_eq!(
            merged("a.so b.so:c.so"),
            "/lib/libflyover.so:a.so:b.so:c.so"
        );
        assert_eq!(merged("a.so:/lib/libflyover.so"), "/lib/libflyover.so:a.so");
        assert_eq!(merge(Path::new("/x.so"), None).unwrap(), "/x.so");
    }

    #[test]
    fn paths_that_cannot_be_said() {
        assert!(merge(Path::new("/my lib/x.so"), None).is_err());
        assert!(merge(Path::new("/a:b/x.so"), None).is_err());
    }
}
