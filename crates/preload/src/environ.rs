//! The environment: reading our variables, and keeping them when the program starts another one with an environment
//! of its own. The part that runs before `exec` may run in a `vfork` child, and allocates nothing unless the new program
//! inherits epoll sets.

use core::ffi::{CStr, c_char};
use std::ffi::CString;
use std::io::Write as _;
use std::sync::OnceLock;

use flyover_sockets::Sockets;

use crate::fast;

unsafe extern "C" {
    static mut environ: *const *const c_char;
}

const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// In the environment of everything that runs under the library: a program that finds it may have inherited accelerated
/// descriptors.
const CHILD_VAR: &CStr = c"_FLYOVER_CHILD=1";
/// The name of [`CHILD_VAR`].
pub const CHILD: &CStr = c"_FLYOVER_CHILD";

/// The number of the file with the epoll sets that a new program inherits.
const SETS: &[u8] = b"_FLYOVER_SETS=";
/// The name in [`SETS`].
pub const SETS_NAME: &CStr = c"_FLYOVER_SETS";

/// What to put into new environments.
struct Saved {
    /// `LD_PRELOAD=` as this process has it.
    preload: CString,
    /// The path of this library in it.
    library: Vec<u8>,
    /// `FLYOVER_*=`.
    options: Vec<CString>,
    inherit: bool,
}

static SAVED: OnceLock<Saved> = OnceLock::new();

/// Calls `f` with each `NAME=value` of a C environment.
///
/// # Safety
/// `env` must be null or a null-terminated array of C strings.
unsafe fn each_of(env: *const *const c_char, mut f: impl FnMut(&CStr)) {
    if env.is_null() {
        return;
    }
    let mut at = env;
    // SAFETY: the array ends with a null pointer, where the loop ends.
    while let Some(p) = core::ptr::NonNull::new(unsafe { *at }.cast_mut()) {
        // SAFETY: every element is a C string.
        f(unsafe { CStr::from_ptr(p.as_ptr()) });
        // SAFETY: the element was not the last one.
        at = unsafe { at.add(1) };
    }
}

fn current() -> *const *const c_char {
    // SAFETY: a plain read of libc's variable; programs that change it from several threads break everything.
    unsafe { environ }
}

/// Calls `f` with name and value of every variable.
pub fn each(mut f: impl FnMut(&[u8], &[u8])) {
    // SAFETY: `environ` is a C environment.
    unsafe {
        each_of(current(), |var| {
            let b = var.to_bytes();
            if let Some(eq) = b.iter().position(|c| *c == b'=') {
                f(&b[..eq], &b[eq + 1..]);
            }
        })
    };
}

/// True when the variable exists.
pub fn has(name: &[u8]) -> bool {
    let mut found = false;
    each(|n, _| found |= n == name);
    found
}

/// Sets a variable. Only from the constructor, when there is one thread.
pub fn set(name: &CStr, value: &str) {
    if let Ok(v) = CString::new(value) {
        // SAFETY: both are C strings, and no other thread exists yet.
        unsafe { libc::setenv(name.as_ptr(), v.as_ptr(), 1) };
    }
}

/// Remembers what new environments must keep.
pub fn save(inherit: bool) {
    let mut preload = None;
    let mut options = vec![CHILD_VAR.to_owned()];
    // SAFETY: `environ` is a C environment.
    unsafe {
        each_of(current(), |var| {
            let b = var.to_bytes();
            if let Some(list) = b.strip_prefix(PRELOAD) {
                preload = Some((var.to_owned(), list.to_vec()));
            } else if b.starts_with(b"FLYOVER_") {
                options.push(var.to_owned());
            }
        })
    };
    let Some(library) = own_path() else { return };
    // Loaded in another way than by LD_PRELOAD: children get it that way.
    let preload = match preload {
        Some((var, list)) if contains(&list, &library) => var,
        _ => match CString::new([PRELOAD, &library].concat()) {
            Ok(v) => v,
            Err(_) => return,
        },
    };
    let saved = SAVED.get_or_init(|| Saved {
        preload,
        library,
        options,
        inherit,
    });
    if !inherit {
        leave_own(saved);
    }
}

/// Takes the library out of this process's own environment, which `system`, `popen` and others hand to what they start
/// without a call of ours. Only from the constructor, when there is one thread.
fn leave_own(saved: &Saved) {
    let mut rest = [0u8; MAX_PRELOAD];
    let list = saved.preload.to_bytes().get(PRELOAD.len()..);
    if merge(list.unwrap_or_default(), saved, &mut rest).is_none() {
        return;
    }
    let value = CStr::from_bytes_until_nul(rest.get(PRELOAD.len()..).unwrap_or_default());
    match value {
        Ok(value) if !value.is_empty() => set(c"LD_PRELOAD", &value.to_string_lossy()),
        _ => {
            // SAFETY: a C string, and no other thread exists yet.
            let _ = unsafe { libc::unsetenv(c"LD_PRELOAD".as_ptr()) };
        }
    }
}

/// True when the programs that this one starts have the library: `FLYOVER_INHERIT` is not 0.
pub fn is_kept() -> bool {
    SAVED.get().is_none_or(|saved| saved.inherit)
}

/// The path that this library was loaded from.
fn own_path() -> Option<Vec<u8>> {
    let mut info = core::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: an address in this library and a live local; dladdr fills the latter in.
    let found = unsafe { libc::dladdr(own_path as *const core::ffi::c_void, info.as_mut_ptr()) };
    // SAFETY: all-zero is a valid Dl_info (null pointers), so it is initialised either way.
    let name = unsafe { info.assume_init() }.dli_fname;
    if found == 0 || name.is_null() {
        return None;
    }
    // SAFETY: not null, a C string of the dynamic linker that lives as long as the library.
    Some(unsafe { CStr::from_ptr(name) }.to_bytes().to_vec())
}

/// Room for variables on the stack; larger environments are passed on as they are.
const MAX_VARS: usize = 4096;
/// Room for a merged `LD_PRELOAD`.
const MAX_PRELOAD: usize = 4096;

/// Calls `exec` with an environment that keeps Flyover, or, when children are not to inherit it, without it.
///
/// # Safety
/// `env` must be null or a C environment.
pub unsafe fn with_kept<R>(
    env: *const *const c_char,
    exec: impl FnOnce(*const *const c_char) -> R,
) -> R {
    let Some(saved) = SAVED.get() else {
        return exec(env);
    };
    let mut vars: [*const c_char; MAX_VARS] = [core::ptr::null(); MAX_VARS];
    let mut merged = [0u8; MAX_PRELOAD];
    let mut number = [0u8; SETS.len() + 12];
    let sets = saved
        .inherit
        .then(|| fast::inside(Sockets::bequeath).flatten())
        .flatten();
    let mut n = 0;
    let mut fits = true;
    let mut has_preload = false;
    let mut push = |p: *const c_char| {
        if n + 1 < MAX_VARS {
            vars[n] = p;
            n += 1;
        } else {
            fits = false;
        }
    };
    // SAFETY: passed on from our caller.
    unsafe {
        each_of(env, |var| {
            if var.to_bytes().starts_with(SETS) {
                return;
            }
            let Some(list) = var.to_bytes().strip_prefix(PRELOAD) else {
                return push(var.as_ptr());
            };
            has_preload = true;
            let present = contains(list, &saved.library);
            if saved.inherit == present {
                push(var.as_ptr());
            } else if let Some(p) = merge(list, saved, &mut merged) {
                push(p);
            }
        })
    };
    if saved.inherit {
        if !has_preload {
            push(saved.preload.as_ptr());
        }
        for option in &saved.options {
            // SAFETY: passed on from our caller.
            if !unsafe { has_same_name(env, option) } {
                push(option.as_ptr());
            }
        }
    }
    if let Some(file) = sets {
        push(name_file(file, &mut number));
    }
    let done = if fits { exec(vars.as_ptr()) } else { exec(env) };
    if let Some(file) = sets {
        // It failed, or a child has the file by now.
        // SAFETY: a descriptor of the library's own.
        let _ = unsafe { libc::syscall(libc::SYS_close, file) };
    }
    done
}

/// `_FLYOVER_SETS=N`, a C string.
fn name_file(file: i32, into: &mut [u8; SETS.len() + 12]) -> *const c_char {
    let mut rest = &mut into[..SETS.len() + 11];
    let _ = rest.write_all(SETS);
    let _ = write!(rest, "{file}");
    into.as_ptr().cast()
}

/// The file with the epoll sets that this program inherited; the variable goes.
pub fn take_sets() -> Option<i32> {
    let mut file = None;
    each(|name, value| {
        if name == SETS_NAME.to_bytes() {
            file = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
        }
    });
    if file.is_some() {
        // SAFETY: a C string, and no other thread exists yet.
        let _ = unsafe { libc::unsetenv(SETS_NAME.as_ptr()) };
    }
    file
}

fn contains(list: &[u8], library: &[u8]) -> bool {
    list.split(|c| *c == b':' || *c == b' ')
        .any(|p| p == library)
}

/// `LD_PRELOAD` of the program with our library in front, or without it when children are not to inherit it.
fn merge(list: &[u8], saved: &Saved, into: &mut [u8; MAX_PRELOAD]) -> Option<*const c_char> {
    let mut n = 0;
    let mut put = |b: &[u8]| -> Option<()> {
        into.get_mut(n..n + b.len())?.copy_from_slice(b);
        n += b.len();
        Some(())
    };
    put(PRELOAD)?;
    if saved.inherit {
        put(&saved.library)?;
    }
    let mut first = !saved.inherit;
    for p in list
        .split(|c| *c == b':' || *c == b' ')
        .filter(|p| !p.is_empty() && *p != saved.library)
    {
        if !first {
            put(b":")?;
        }
        first = false;
        put(p)?;
    }
    put(b"\0")?;
    Some(into.as_ptr().cast())
}

/// # Safety
/// `env` must be null or a C environment.
unsafe fn has_same_name(env: *const *const c_char, option: &CStr) -> bool {
    let name = |v: &[u8]| v.iter().position(|c| *c == b'=').unwrap_or(v.len());
    let o = option.to_bytes();
    let mut found = false;
    // SAFETY: passed on from our caller.
    unsafe {
        each_of(env, |var| {
            let v = var.to_bytes();
            found |= v[..name(v)] == o[..name(o)];
        })
    };
    found
}
