//! Start-up. The constructor reads the options and installs the fork hooks; it makes no socket and talks to nobody.
//! Calls that arrive earlier (constructors of other libraries) find no [`Sockets`] and go to libc.

use std::sync::OnceLock;

use flyover_config::{LogLevel, Options as _, ProcessOpts, StackOpts, StackSelect, Text};
use flyover_sockets::os::Os as _;
use flyover_sockets::process::Settings;
use flyover_sockets::wait::spin::Budget;
use flyover_sockets::{GENERATIONS, Generation, Sockets, enter};

use crate::os_linux::Linux;
use crate::{environ, errand, fast, link, next};

static OS: Linux = Linux;
static LIB: OnceLock<Sockets> = OnceLock::new();
static LINE: [Generation; GENERATIONS] = [const { Generation::new() }; GENERATIONS];

/// The socket layer, once the constructor has run.
#[inline]
pub fn lib() -> Option<&'static Sockets> {
    LIB.get()
}

/// Programs that lock the process that holds their connections into a sandbox of system calls (seccomp) which lacks
/// those that we need, and are killed at the first one. They keep their sockets in the kernel; what they start does not
/// have to.
const SANDBOXED: &[&str] = &["sshd", "sshd-session", "sshd-auth", "vsftpd"];

/// True when the file that this process runs has one of these names.
fn program_is(names: &[&str]) -> bool {
    let mut path = [0u8; 4096];
    let n = OS.own_program(&mut path);
    let path = path.get(..n).unwrap_or_default();
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    names.iter().any(|wanted| wanted.as_bytes() == name)
}

/// True in a child that shares our memory (`vfork`).
pub fn is_foreign_child() -> bool {
    lib().is_some_and(Sockets::is_foreign_child)
}

/// Writes a line to stderr if the options want lines of this importance.
pub fn say(opts: &ProcessOpts, level: LogLevel, parts: &[&str]) {
    if (level as u32) > (opts.log as u32) {
        return;
    }
    let mut line = Vec::with_capacity(128);
    line.extend_from_slice(b"flyover: ");
    parts
        .iter()
        .for_each(|p| line.extend_from_slice(p.as_bytes()));
    line.push(b'\n');
    let _ = OS.write(2, &line);
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = start;

extern "C" fn start() {
    let mut opts = ProcessOpts::DEFAULT;
    let mut stack = StackOpts::DEFAULT;
    let mut complaints: Vec<String> = Vec::new();
    environ::each(|name, value| {
        let results = [
            flyover_config::vars::apply(&mut opts, name, value),
            flyover_config::vars::apply(&mut stack, name, value),
        ];
        complaints.extend(
            results
                .into_iter()
                .flatten()
                .filter_map(Result::err)
                .map(|e| e.to_string()),
        );
    });
    complaints
        .iter()
        .for_each(|c| say(&opts, LogLevel::Error, &[c]));
    if opts.stack == StackSelect::Private {
        // A name of its own, so that children find the same stack.
        let name = format!("private-{}-{:x}", OS.getpid(), OS.entropy());
        if let Some(text) = Text::new(&name) {
            opts.stack = StackSelect::Named(text);
            environ::set(c"FLYOVER_STACK", &name);
        }
    }
    let spin = match (opts.spin_usec, opts.profile) {
        (None, flyover_config::Profile::Balanced) => Budget::Adaptive,
        _ => Budget::Fixed(u64::from(opts.spin()) * 1_000),
    };
    let inherited = environ::has(environ::CHILD.to_bytes());
    environ::save(opts.inherit);
    if !inherited {
        environ::set(environ::CHILD, "1");
    }
    let _ = next::resolve_vfork();
    let settings = Settings {
        accelerate: opts.accelerate && !program_is(SANDBOXED),
        local: opts.local,
        local_after: opts.local_after,
        spin,
        inherited,
    };
    let errand = errand::take();
    let connector = Box::leak(Box::new(link::FlyoverDaemon::new(opts, stack)));
    let _ = LIB.get_or_init(|| Sockets::new(&OS, connector, fast::table(), &LINE, settings));
    // SAFETY: the three functions have the type that pthread_atfork(3) asks for and stay loaded.
    let _ = unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    if let Some((file, lib)) = environ::take_sets().zip(lib()) {
        lib.inherit(file);
    }
    if let (Some(errand), Some(lib)) = (errand, lib()) {
        errand.run(lib);
    }
}

unsafe extern "C" {
    /// `<sys/single_threaded.h>`: not 0 as long as the process certainly has one thread.
    static __libc_single_threaded: core::ffi::c_char;
}

// What these three touch, memory and text, the program's fork pays for page by page: nothing but what must be.

unsafe extern "C" fn before_fork() {
    let Some(lib) = lib() else { return };
    // SAFETY: a byte of libc's; threads that this one did not make do not exist while it is not 0.
    let alone = unsafe { (&raw const __libc_single_threaded).read_volatile() } != 0;
    if alone && lib.is_untouched() {
        return;
    }
    let _inside = enter::enter();
    lib.before_fork();
}

unsafe extern "C" fn in_parent() {
    if let Some(lib) = lib().filter(|lib| !lib.is_untouched()) {
        let _inside = enter::enter();
        lib.after_fork_in_parent();
    }
}

unsafe extern "C" fn in_child() {
    if let Some(lib) = lib() {
        // SAFETY: getpid(2) has no arguments and touches nothing.
        let pid = unsafe { crate::sys::raw(libc::SYS_getpid, [0; 6]) };
        lib.after_fork_in_child(pid as i32);
    }
}
