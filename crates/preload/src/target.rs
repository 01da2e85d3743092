//! Will the library be in a program that is about to be executed? A look at its file: a static, set-id or foreign one
//! runs without us, and what it inherits must be the kernel's by then.

use core::ffi::CStr;

use crate::os_linux::File;

const HEAD: usize = 256;
/// Program headers looked at, and bytes of one (elf(5), 64 bit).
const MAX_HEADERS: usize = 32;
const HEADER: usize = 56;
const PT_INTERP: u32 = 3;
/// `e_machine` of this build.
const MACHINE: u16 = if cfg!(target_arch = "aarch64") {
    183
} else {
    62
};

/// False when the dynamic linker will not load us into the program. What cannot be read counts as good: exec says.
pub fn takes_us(path: &CStr) -> bool {
    let mut name = [0u8; HEAD];
    let mut len = path.to_bytes().len().min(HEAD - 1);
    for (to, from) in name.iter_mut().zip(path.to_bytes()) {
        *to = *from;
    }
    // A script's interpreter is what runs; scripts may be interpreters, a few deep.
    for _ in 0..4 {
        let Some(path) = name
            .get(..=len)
            .and_then(|n| CStr::from_bytes_until_nul(n).ok())
        else {
            return true;
        };
        let Ok(file) = File::open(path) else {
            return true;
        };
        if file.gains_privilege() {
            return false;
        }
        let mut head = [0u8; HEAD];
        let n = file.read_at(&mut head, 0);
        let head = head.get(..n).unwrap_or_default();
        match head {
            [b'#', b'!', rest @ ..] => {
                let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
                let word = line
                    .split(|b| *b == b' ' || *b == b'\t')
                    .find(|w| !w.is_empty())
                    .unwrap_or_default();
                len = word.len().min(HEAD - 1);
                name = [0; HEAD];
                for (to, from) in name.iter_mut().zip(word) {
                    *to = *from;
                }
            }
            [0x7f, b'E', b'L', b'F', ..] => return is_dynamic(&file, head),
            _ => return true,
        }
    }
    true
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut w = [0; N];
    if let Some(from) = bytes.get(at..at + N) {
        w.copy_from_slice(from);
    }
    w
}

/// An ELF file of our class and machine that names a dynamic linker.
fn is_dynamic(file: &File, head: &[u8]) -> bool {
    let is_64 = head.get(4) == Some(&2);
    if !is_64 || u16::from_le_bytes(word(head, 18)) != MACHINE {
        return false;
    }
    let at = u64::from_le_bytes(word(head, 32));
    let size = usize::from(u16::from_le_bytes(word(head, 54)));
    let count = usize::from(u16::from_le_bytes(word(head, 56)));
    if size != HEADER {
        return true;
    }
    (0..count.min(MAX_HEADERS)).any(|i| {
        let mut header = [0u8; HEADER];
        let n = file.read_at(&mut header, at.saturating_add((i * HEADER) as u64));
        n == HEADER && u32::from_le_bytes(word(&header, 0)) == PT_INTERP
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_programs_take_us_and_others_do_not() {
        assert!(takes_us(c"/bin/sh"));
        assert!(takes_us(c"/no/such/program"));
        let dir = std::env::temp_dir().join(format!("flyover-target-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = |name: &str| {
            let p = dir.join(name);
            std::ffi::CString::new(p.to_str().unwrap()).unwrap()
        };
        let mut elf = std::fs::read("/bin/sh").unwrap();
        std::fs::write(dir.join("script"), "#! /bin/sh -e\nexit\n").unwrap();
        assert!(takes_us(&path("script")));
        // Without its PT_INTERP header it is a static program.
        let at = u64::from_le_bytes(word(&elf, 32)) as usize;
        let count = usize::from(u16::from_le_bytes(word(&elf, 56)));
        for i in 0..count {
            let h = at + i * HEADER;
            if u32::from_le_bytes(word(&elf, h)) == PT_INTERP {
                elf[h..h + 4].copy_from_slice(&4u32.to_le_bytes());
            }
        }
        std::fs::write(dir.join("static"), &elf).unwrap();
        assert!(!takes_us(&path("static")));
        std::fs::write(dir.join("script"), format!("#!{}/static\n", dir.display())).unwrap();
        assert!(!takes_us(&path("script")));
        elf[4] = 1;
        std::fs::write(dir.join("static"), &elf).unwrap();
        assert!(!takes_us(&path("static")), "32 bits");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
