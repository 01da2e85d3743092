//! Why a program runs on the kernel path: what is missing, and how to get it. One line each.

use crate::daemon::DaemonError;
use crate::run::target::Unfit;

/// What keeps a program from being accelerated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Obstacle {
    /// The library is not where it should be.
    #[error(
        "running on the kernel path: libflyover.so is neither beside this program nor in \
         ../lib/flyover; install it there"
    )]
    NoLibrary,
    /// `LD_PRELOAD` cannot name the library.
    #[error(
        "running on the kernel path: the path of libflyover.so has a blank or a colon in it, \
         which LD_PRELOAD cannot express; install it elsewhere"
    )]
    LibraryPath,
    /// The program is of a kind that the library cannot be in.
    #[error("running on the kernel path: {0}")]
    Unfit(#[from] Unfit),
    /// There is no daemon to be had.
    #[error("running on the kernel path: {0}")]
    Daemon(#[from] DaemonError),
}
