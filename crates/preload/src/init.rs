//! Start-up. The constructor reads the options and installs the fork hooks; it makes no socket and talks to nobody.
//! Calls that arrive earlier (constructors of other libraries) find no [`Sockets`] and go to libc.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use flyover_config::{LogLevel, Options as _, ProcessOpts, StackOpts, StackSelect, Text};
use flyover_sockets::os::Os as _;
use flyover_sockets::process::Settings;
use flyover_sockets::wait::spin::Budget;
use flyover_sockets::{GENERATIONS, Generation, Sockets};

use crate::link::FlyoverDaemon;
use crate::os_linux::Linux;
use crate::signal::mask;
use crate::{environ, errand, fast};

static OS: Linux = Linux;

/// What the constructor makes. All zero until then, so it lies with the other memory of that kind: a page less that is
/// written in every program, and one less that a `fork` has to copy.
struct Place {
    lib: UnsafeCell<MaybeUninit<Sockets>>,
    daemon: UnsafeCell<MaybeUninit<FlyoverDaemon>>,
    is_made: AtomicBool,
}

// SAFETY: written by the constructor before `is_made`, only read afterwards; both types are shared by threads.
unsafe impl Sync for Place {}

static PLACE: Place = Place {
    lib: UnsafeCell::new(MaybeUninit::uninit()),
    daemon: UnsafeCell::new(MaybeUninit::uninit()),
    is_made: AtomicBool::new(false),
};

/// Apart from the other data: what is never used is never touched.
#[unsafe(link_section = ".flyover_line")]
static LINE: [Generation; GENERATIONS] = [const { Generation::new() }; GENERATIONS];

/// The socket layer, once the constructor has run.
#[inline]
pub fn lib() -> Option<&'static Sockets> {
    if !PLACE.is_made.load(Ordering::Acquire) {
        return None;
    }
    // SAFETY: initialised before `is_made` was set, and never written again.
    Some(unsafe { (*PLACE.lib.get()).assume_init_ref() })
}

/// Makes the socket layer. Only from the constructor, which runs once, before there is another thread.
fn make(daemon: FlyoverDaemon, settings: Settings) {
    // SAFETY: nobody reads either place before `is_made`, and nobody else writes.
    unsafe {
        let daemon = (*PLACE.daemon.get()).write(daemon);
        (*PLACE.lib.get()).write(Sockets::new(&OS, daemon, fast::table(), &LINE, settings));
    }
    PLACE.is_made.store(true, Ordering::Release);
}

/// Programs that lock the process that holds their connections into a sandbox of system calls (seccomp) which lacks
/// those that we need, and are killed at the first one. They keep their sockets in the kernel; what they start does not
/// have to.
const SANDBOXED: &[&str] = &["sshd", "sshd-session", "sshd-auth", "vsftpd"];

/// True when the path ends with the name of such a program.
fn is_sandboxed_name(path: &[u8]) -> bool {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    SANDBOXED.iter().any(|wanted| wanted.as_bytes() == name)
}

/// True when the program was executed under such a name.
fn is_executed_as_sandboxed() -> bool {
    // SAFETY: no arguments that could be wrong.
    let name = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const core::ffi::c_char;
    // SAFETY: null, or a C string that the kernel put on the stack.
    !name.is_null() && is_sandboxed_name(unsafe { core::ffi::CStr::from_ptr(name) }.to_bytes())
}

/// Whether this process runs such a program under another name: asked of the kernel once, at the first socket, since
/// most programs have none.
pub fn is_sandboxed() -> bool {
    const NO: u8 = 1;
    const YES: u8 = 2;
    static KNOWN: AtomicU8 = AtomicU8::new(0);
    match KNOWN.load(Ordering::Relaxed) {
        0 => {
            let mut path = [0u8; 4096];
            let n = OS.own_program(&mut path);
            let is = is_sandboxed_name(path.get(..n).unwrap_or_default());
            KNOWN.store(if is { YES } else { NO }, Ordering::Relaxed);
            is
        }
        known => known == YES,
    }
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
    let mut inherited = false;
    let mut sets = None;
    let mut errand = None;
    environ::each(|name, value| {
        match name {
            environ::CHILD_NAME => inherited = true,
            environ::SETS_NAME => sets = environ::number(value),
            errand::VAR => errand = Some(value.to_vec()),
            _ => {}
        }
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
    environ::save(opts.inherit);
    if !inherited {
        environ::set(environ::CHILD, "1");
    }
    let settings = Settings {
        accelerate: opts.accelerate && !is_executed_as_sandboxed(),
        local: opts.local,
        local_after: opts.local_after,
        adopt_after: opts.adopt_after,
        lend_after: opts.lend_after,
        spin,
        inherited,
    };
    let errand = errand.and_then(|order| errand::take(&order));
    make(FlyoverDaemon::new(opts, stack), settings);
    // SAFETY: the three functions have the type that pthread_atfork(3) asks for and stay loaded.
    let _ = unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    if let Some((file, lib)) = sets.zip(lib()) {
        environ::forget_sets();
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
    mask::begin_fork();
    lib.before_fork();
}

unsafe extern "C" fn in_parent() {
    if let Some(lib) = lib().filter(|lib| !lib.is_untouched()) {
        lib.after_fork_in_parent();
        mask::end_fork();
    }
}

unsafe extern "C" fn in_child() {
    if let Some(lib) = lib() {
        // SAFETY: getpid(2) has no arguments and touches nothing.
        let pid = unsafe { crate::sys::raw(libc::SYS_getpid, [0; 6]) };
        // Where nothing was held nothing is looked at: each page is a fault.
        let held = !lib.is_untouched();
        lib.after_fork_in_child(pid as i32);
        if held {
            mask::end_fork();
        }
    }
}
