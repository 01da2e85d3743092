//! Whether the library can be in a program at all: a look at its file before it starts.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Why it cannot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Unfit {
    /// No dynamic loader, so nobody reads `LD_PRELOAD`.
    #[error("the program is statically linked; use a dynamically linked build of it")]
    Static,
    /// The loader ignores `LD_PRELOAD` for such programs.
    #[error("the program is set-uid or set-gid, for which the loader ignores LD_PRELOAD")]
    SetId,
    /// As for set-uid programs.
    #[error("the program has file capabilities, for which the loader ignores LD_PRELOAD")]
    Capabilities,
    /// Another C library.
    #[error("the program uses musl; use a build with the GNU C library")]
    Musl,
    /// Another machine or word size.
    #[error("the program is of another architecture than libflyover.so")]
    Architecture,
}

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

/// Refuses programs that the library cannot be in. What cannot be read passes: exec will say.
///
/// # Errors
/// The reason.
pub(crate) fn examine(path: &Path) -> Result<(), Unfit> {
    let mut path = path.to_owned();
    // A script's interpreter is what runs; Linux allows scripts as interpreters, a few deep.
    for _ in 0..4 {
        let Ok(mut file) = File::open(&path) else {
            return Ok(());
        };
        privileged(&file)?;
        let mut head = [0; 256];
        let len = file.read(&mut head).unwrap_or(0);
        match interpreter(&head[..len]) {
            Some(next) => path = next,
            None if head.starts_with(b"\x7fELF") => return elf(&file, &head[..len]),
            None => return Ok(()),
        }
    }
    Ok(())
}

/// Set-id bits and capabilities that change who the program runs as.
fn privileged(file: &File) -> Result<(), Unfit> {
    let Ok(meta) = file.metadata() else {
        return Ok(());
    };
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let setuid = meta.mode() & S_ISUID != 0 && meta.uid() != uid;
    let setgid = meta.mode() & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP && meta.gid() != gid;
    if setuid || setgid {
        return Err(Unfit::SetId);
    }
    let mut capabilities = [0u8; 32];
    let has = rustix::fs::fgetxattr(file, "security.capability", &mut capabilities[..]);
    // Root gains nothing from file capabilities, so the loader is not in secure mode for it.
    if uid != 0 && has.is_ok_and(|n| n > 0) {
        Err(Unfit::Capabilities)
    } else {
        Ok(())
    }
}

/// `#!/path arg` of a script.
fn interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    text.split_whitespace().next().map(PathBuf::from)
}

/// ELF header and program headers (elf(5)).
fn elf(file: &File, head: &[u8]) -> Result<(), Unfit> {
    const CLASS: u8 = if cfg!(target_pointer_width = "64") {
        2
    } else {
        1
    };
    const MACHINE: u16 = if cfg!(target_arch = "x86_64") {
        62
    } else {
        183
    };
    const PT_INTERP: u32 = 3;
    let word16 = |at: usize| -> Option<u16> {
        head.get(at..at + 2)
            .and_then(|b| b.try_into().ok())
            .map(u16::from_le_bytes)
    };
    if head.get(4) != Some(&CLASS) || word16(18) != Some(MACHINE) {
        return Err(Unfit::Architecture);
    }
    let (Some(offset), Some(size), Some(count)) = (
        head.get(32..40)
            .and_then(|b| b.try_into().ok())
            .map(u64::from_le_bytes),
        word16(54),
        word16(56),
    ) else {
        return Ok(());
    };
    let mut table = vec![0; usize::from(size) * usize::from(count)];
    if size < 56 || file.read_exact_at(&mut table, offset).is_err() {
        return Ok(());
    }
    for header in table.chunks_exact(usize::from(size)) {
        let word32 = |at: usize| header[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        let word64 = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        if word32(0) == PT_INTERP {
            let mut loader = vec![0; usize::try_from(word64(32)).unwrap_or(0).min(4096)];
            let read = file.read_exact_at(&mut loader, word64(8));
            let musl = loader.windows(8).any(|w| w == b"/ld-musl");
            return if read.is_ok() && musl {
                Err(Unfit::Musl)
            } else {
                Ok(())
            };
        }
    }
    Err(Unfit::Static)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_programs_pass() {
        for program in [
            "/bin/sh",
            "/bin/true",
            "/proc/self/exe",
            "/etc/passwd",
            "/nonexistent",
        ] {
            assert_eq!(examine(Path::new(program)), Ok(()), "{program}");
        }
    }

    #[test]
    fn scripts_stand_for_their_interpreter() {
        assert_eq!(interpreter(b"#! /bin/sh -e\necho"), Some("/bin/sh".into()));
        assert_eq!(
            interpreter(b"#!/usr/bin/env python3"),
            Some("/usr/bin/env".into())
        );
        assert_eq!(interpreter(b"echo"), None);
        assert_eq!(interpreter(b"#!\n"), None);
    }

    #[test]
    fn made_up_files() {
        use std::io::Write as _;
        let dir = std::env::temp_dir().join(format!("flyover-target-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let check = |name: &str, bytes: &[u8]| {
            let path = dir.join(name);
            File::create(&path).unwrap().write_all(bytes).unwrap();
            examine(&path)
        };
        let mut header = [0u8; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        header[18] = if cfg!(target_arch = "x86_64") {
            62
        } else {
            183
        };
        header[32] = 64;
        header[54] = 56;
        assert_eq!(check("static", &header), Err(Unfit::Static));
        let mut other = header;
        other[18] = 3;
        assert_eq!(check("i386", &other), Err(Unfit::Architecture));
        // one PT_INTERP whose text follows the table
        let mut dynamic = header.to_vec();
        dynamic[56] = 1;
        let mut entry = [0u8; 56];
        entry[0] = 3;
        entry[8] = 120;
        entry[32] = 25;
        dynamic.extend(entry);
        dynamic.extend(b"/lib/ld-musl-x86_64.so.1\0");
        assert_eq!(check("musl", &dynamic), Err(Unfit::Musl));
        dynamic.truncate(120);
        dynamic.extend(b"/lib64/ld-linux-x86-64.so\0");
        assert_eq!(check("gnu", &dynamic), Ok(()));
        // damaged headers are for exec to refuse
        dynamic[54] = 3;
        assert_eq!(check("damaged", &dynamic), Ok(()));
        let _ = std::fs::remove_dir_all(&dir);
    }
}
