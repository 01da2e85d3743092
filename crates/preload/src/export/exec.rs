//! New programs: the environment keeps Flyover, and whatever descriptors a child may hold from now on are no longer
//! certainly ours alone.

use core::ffi::{c_char, c_int, c_void};

use libc::pid_t;

use flyover_sockets::Sockets;

use crate::{environ, fast, init, leave, next};

type Strings = *const *const c_char;

/// libc's environment.
fn current() -> Strings {
    unsafe extern "C" {
        static environ: Strings;
    }
    // SAFETY: a plain read of libc's variable.
    unsafe { environ }
}

fn others_may_hold() {
    if let Some(lib) = init::lib() {
        let _: Option<()> = fast::inside(Sockets::before_others);
        lib.note_fork();
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int {
    leave::before_exec(path);
    // SAFETY: passed on; the environment is the application's.
    unsafe { environ::with_kept(envp, |env| next::execve(path, argv, env)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn execv(path: *const c_char, argv: Strings) -> c_int {
    // SAFETY: as execve.
    unsafe { execve(path, argv, current()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvpe(file: *const c_char, argv: Strings, envp: Strings) -> c_int {
    leave::before_exec_file(file);
    // SAFETY: passed on; the environment is the application's.
    unsafe { environ::with_kept(envp, |env| next::execvpe(file, argv, env)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn execvp(file: *const c_char, argv: Strings) -> c_int {
    // SAFETY: as execvpe.
    unsafe { execvpe(file, argv, current()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fexecve(fd: c_int, argv: Strings, envp: Strings) -> c_int {
    leave::before_exec_at(fd, core::ptr::null());
    // SAFETY: passed on; the environment is the application's.
    unsafe { environ::with_kept(envp, |env| next::fexecve(fd, argv, env)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn execveat(
    fd: c_int,
    path: *const c_char,
    argv: Strings,
    envp: Strings,
    flags: c_int,
) -> c_int {
    leave::before_exec_at(fd, path);
    // SAFETY: passed on; the environment is the application's.
    unsafe { environ::with_kept(envp, |env| next::execveat(fd, path, argv, env, flags)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawn(
    pid: *mut pid_t,
    path: *const c_char,
    actions: *const c_void,
    attr: *const c_void,
    argv: Strings,
    envp: Strings,
) -> c_int {
    others_may_hold();
    leave::before_exec(path);
    // SAFETY: passed on; the environment is the application's.
    unsafe {
        environ::with_kept(envp, |env| {
            next::posix_spawn(pid, path, actions, attr, argv, env)
        })
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawnp(
    pid: *mut pid_t,
    file: *const c_char,
    actions: *const c_void,
    attr: *const c_void,
    argv: Strings,
    envp: Strings,
) -> c_int {
    others_may_hold();
    leave::before_exec_file(file);
    // SAFETY: passed on; the environment is the application's.
    unsafe {
        environ::with_kept(envp, |env| {
            next::posix_spawnp(pid, file, actions, attr, argv, env)
        })
    }
}

/// The child makes `old` its `new` inside libc: what has to happen before happens when the action is recorded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_spawn_file_actions_adddup2(
    actions: *mut c_void,
    old: c_int,
    new: c_int,
) -> c_int {
    leave::before_dup_onto(old, new);
    // SAFETY: passed on unchanged.
    unsafe { next::posix_spawn_file_actions_adddup2(actions, old, new) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn system(command: *const c_char) -> c_int {
    others_may_hold();
    leave::before_shell();
    // SAFETY: passed on unchanged.
    unsafe { super::children::system(command) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn popen(command: *const c_char, mode: *const c_char) -> *mut c_void {
    others_may_hold();
    leave::before_shell();
    // SAFETY: passed on unchanged.
    unsafe { next::popen(command, mode) }
}

/// Called by our `vfork` before the real one, whose address this is.
extern "C" fn before_vfork() -> usize {
    others_may_hold();
    next::vfork_address()
}

/// `vfork(2)` returns twice to its caller, so no frame of ours may be in between: note the fork, then jump.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfork() -> pid_t {
    core::arch::naked_asm!(
        // The stack is 8 off a 16-byte boundary here; the call needs it on one.
        "sub rsp, 8",
        "call {note}",
        "add rsp, 8",
        "jmp rax",
        note = sym before_vfork,
    )
}

/// `vfork(2)` returns twice to its caller, so no frame of ours may be in between: note the fork, then jump.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfork() -> pid_t {
    core::arch::naked_asm!(
        "stp x29, x30, [sp, #-16]!",
        "bl {note}",
        "ldp x29, x30, [sp], #16",
        "mov x16, x0",
        "br x16",
        note = sym before_vfork,
    )
}
