//! The environment: reading our variables, and keeping them when the program starts another one with an environment
//! of its own. The part that runs before `exec` may run in a `vfork` child, and allocates nothing unless the new program
//! inherits epoll sets.

use core::ffi::{CStr, c_char};
use std::ffi::CString;
use std::io::Write as _;
use std::sync::OnceLock;

use flyover_sockets::Sockets;

use crate::{fast, room};

unsafe extern "C" {
    static mut environ: *const *const c_char;
}

const PRELOAD: &[u8] = b"LD_PRELOAD=";
/// What the names of options begin with.
const OURS: &[u8] = b"FLYOVER_";
/// In the environment of everything that runs under the library: a program that finds it may have inherited accelerated
/// descriptors.
const CHILD_VAR: &[u8] = b"_FLYOVER_CHILD=1\0";
/// The name of [`CHILD_VAR`].
pub const CHILD: &CStr = c"_FLYOVER_CHILD";
/// The same.
pub const CHILD_NAME: &[u8] = CHILD.to_bytes();

/// The number of the file with the epoll sets that a new program inherits.
const SETS: &[u8] = b"_FLYOVER_SETS=";
/// The name in [`SETS`].
const SETS_VAR: &CStr = c"_FLYOVER_SETS";
/// The same.
pub const SETS_NAME: &[u8] = SETS_VAR.to_bytes();

/// What to put into new environments.
struct Saved {
    /// `LD_PRELOAD=` as this process has it.
    preload: &'static CStr,
    /// The path of this library in it.
    library: &'static [u8],
    /// `_FLYOVER_CHILD=1`, then each `FLYOVER_*=`, all with their NUL.
    options: &'static [u8],
    inherit: bool,
}

impl Saved {
    fn options(&self) -> impl Iterator<Item = &'static CStr> {
        let each = self.options.split_inclusive(|b| *b == 0);
        each.filter_map(|var| CStr::from_bytes_with_nul(var).ok())
    }
}

static SAVED: OnceLock<Saved> = OnceLock::new();

/// Calls `f` with each element of a C environment.
///
/// # Safety
/// `env` must be null or a null-terminated array of C strings.
unsafe fn each_pointer(env: *const *const c_char, mut f: impl FnMut(*const c_char)) {
    if env.is_null() {
        return;
    }
    let mut at = env;
    // SAFETY: the array ends with a null pointer, where the loop ends.
    while let Some(p) = core::ptr::NonNull::new(unsafe { *at }.cast_mut()) {
        f(p.as_ptr());
        // SAFETY: the element was not the last one.
        at = unsafe { at.add(1) };
    }
}

/// Calls `f` with each `NAME=value` of a C environment.
///
/// # Safety
/// `env` must be null or a null-terminated array of C strings.
unsafe fn each_of(env: *const *const c_char, mut f: impl FnMut(&CStr)) {
    // SAFETY: passed on from our caller; every element is a C string.
    unsafe { each_pointer(env, |var| f(CStr::from_ptr(var))) };
}

fn current() -> *const *const c_char {
    // SAFETY: a plain read of libc's variable; programs that change it from several threads break everything.
    unsafe { environ }
}

/// True when a variable may be one of those that this library reads or keeps, by its first letter: every program that
/// starts has the others read otherwise.
fn may_concern_us(var: *const c_char) -> bool {
    // SAFETY: a C string, which has at least one byte.
    let first = unsafe { *var }.cast_unsigned();
    matches!(first, b'F' | b'L' | b'_')
}

/// Calls `f` with each `NAME=value` of this process that may concern us.
fn each_var(mut f: impl FnMut(&CStr)) {
    // SAFETY: `environ` is a C environment.
    unsafe {
        each_pointer(current(), |var| {
            if may_concern_us(var) {
                f(CStr::from_ptr(var));
            }
        })
    };
}

/// Calls `f` with name and value of every variable that may concern us.
pub fn each(mut f: impl FnMut(&[u8], &[u8])) {
    each_var(|var| {
        let b = var.to_bytes();
        if let Some(eq) = b.iter().position(|c| *c == b'=') {
            f(&b[..eq], &b[eq + 1..]);
        }
    });
}

/// Sets a variable. Only from the constructor, when there is one thread.
pub fn set(name: &CStr, value: &str) {
    if let Ok(v) = CString::new(value) {
        // SAFETY: both are C strings, and no other thread exists yet.
        unsafe { libc::setenv(name.as_ptr(), v.as_ptr(), 1) };
    }
}

/// Remembers what new environments must keep: a copy, since programs write over the memory that their environment is in
/// (`setproctitle`).
pub fn save(inherit: bool) {
    let mut preload = None;
    let mut len = CHILD_VAR.len();
    each_var(|var| {
        let b = var.to_bytes_with_nul();
        if b.starts_with(PRELOAD) {
            preload = Some(room::copy(b));
        } else if b.starts_with(OURS) {
            len += b.len();
        }
    });
    let options = room::take(len);
    let mut rest = &mut *options;
    let mut put = |b: &[u8]| {
        let _ = rest.write_all(b);
    };
    put(CHILD_VAR);
    each_var(|var| {
        if var.to_bytes().starts_with(OURS) {
            put(var.to_bytes_with_nul());
        }
    });
    let Some(library) = own_path() else { return };
    let list = |var: &'static CStr| var.to_bytes().get(PRELOAD.len()..).unwrap_or_default();
    let preload = preload.and_then(|b| CStr::from_bytes_with_nul(b).ok());
    // Loaded in another way than by LD_PRELOAD: children get it that way.
    let preload = match preload.filter(|var| contains(list(var), library)) {
        Some(var) => var,
        None => match CString::new([PRELOAD, library].concat()) {
            Ok(v) => Box::leak(v.into_boxed_c_str()),
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
fn own_path() -> Option<&'static [u8]> {
    let mut info = core::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: an address in this library and a live local; dladdr fills the latter in.
    let found = unsafe { libc::dladdr(own_path as *const core::ffi::c_void, info.as_mut_ptr()) };
    // SAFETY: all-zero is a valid Dl_info (null pointers), so it is initialised either way.
    let name = unsafe { info.assume_init() }.dli_fname;
    if found == 0 || name.is_null() {
        return None;
    }
    // SAFETY: not null, a C string of the dynamic linker that lives as long as the library.
    Some(unsafe { CStr::from_ptr(name) }.to_bytes())
}

/// Room for variables on the stack; larger environments are passed on as they are.
const MAX_VARS: usize = 4096;
/// The room that nearly all environments need: each page of the stack that a child of `fork` writes is a fault.
const FEW_VARS: usize = 128;
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
    let sets = saved
        .inherit
        .then(|| fast::inside(Sockets::bequeath).flatten())
        .flatten();
    let mut count = 0;
    // SAFETY: passed on from our caller.
    unsafe { each_pointer(env, |_| count += 1) };
    let most = count + saved.options().count() + 3;
    // SAFETY: passed on from our caller.
    let done = unsafe {
        if sets.is_none() && is_complete(saved, env) {
            exec(env)
        } else if most <= FEW_VARS {
            with_changes::<FEW_VARS, R>(saved, sets, env, exec)
        } else {
            with_changes::<MAX_VARS, R>(saved, sets, env, exec)
        }
    };
    if let Some(file) = sets {
        // It failed, or a child has the file by now.
        // SAFETY: a descriptor of the library's own.
        let _ = unsafe { libc::syscall(libc::SYS_close, file) };
    }
    done
}

/// True when the environment keeps Flyover as it is, as that of a program that did not touch it does.
///
/// # Safety
/// `env` must be null or a C environment.
unsafe fn is_complete(saved: &Saved, env: *const *const c_char) -> bool {
    let (mut preload, mut stray) = (false, false);
    // SAFETY: passed on from our caller; every element is a C string.
    unsafe {
        each_pointer(env, |var| {
            if !may_concern_us(var) {
                return;
            }
            let b = CStr::from_ptr(var).to_bytes();
            stray |= b.starts_with(SETS);
            let list = b.strip_prefix(PRELOAD);
            preload |= list.is_some_and(|list| contains(list, saved.library));
        });
    }
    // SAFETY: passed on from our caller.
    saved.inherit
        && preload
        && !stray
        && saved
            .options()
            .all(|option| unsafe { has_same_name(env, option) })
}

/// Calls `exec` with the environment that [`with_kept`] promises.
///
/// # Safety
/// `env` must be null or a C environment.
#[inline(never)]
unsafe fn with_changes<const ROOM: usize, R>(
    saved: &Saved,
    sets: Option<i32>,
    env: *const *const c_char,
    exec: impl FnOnce(*const *const c_char) -> R,
) -> R {
    let mut vars: [*const c_char; ROOM] = [core::ptr::null(); ROOM];
    let mut merged = [0u8; MAX_PRELOAD];
    let mut number = [0u8; SETS.len() + 12];
    let mut n = 0;
    let mut fits = true;
    let mut has_preload = false;
    let mut push = |p: *const c_char| {
        if n + 1 < ROOM {
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
            let present = contains(list, saved.library);
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
        for option in saved.options() {
            // SAFETY: passed on from our caller.
            if !unsafe { has_same_name(env, option) } {
                push(option.as_ptr());
            }
        }
    }
    if let Some(file) = sets {
        push(name_file(file, &mut number));
    }
    if fits { exec(vars.as_ptr()) } else { exec(env) }
}

/// `_FLYOVER_SETS=N`, a C string.
fn name_file(file: i32, into: &mut [u8; SETS.len() + 12]) -> *const c_char {
    let mut rest = &mut into[..SETS.len() + 11];
    let _ = rest.write_all(SETS);
    let _ = write!(rest, "{file}");
    into.as_ptr().cast()
}

/// The number of a descriptor, from a variable.
pub fn number(value: &[u8]) -> Option<i32> {
    std::str::from_utf8(value).ok().and_then(|v| v.parse().ok())
}

/// The variable with the epoll sets goes. Only from the constructor, when there is one thread.
pub fn forget_sets() {
    // SAFETY: a C string, and no other thread exists yet.
    let _ = unsafe { libc::unsetenv(SETS_VAR.as_ptr()) };
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
        put(saved.library)?;
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
    // SAFETY: passed on from our caller; every element is a C string.
    unsafe {
        each_pointer(env, |var| {
            if !found && may_concern_us(var) {
                let v = CStr::from_ptr(var).to_bytes();
                found = v[..name(v)] == o[..name(o)];
            }
        })
    };
    found
}
