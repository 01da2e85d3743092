//! Where the other parts of Flyover are: beside this program, or where packages put them.

use std::path::{Path, PathBuf};

/// Directory of this program, symbolic links resolved.
fn home() -> Option<PathBuf> {
    let exe = std::fs::read_link("/proc/self/exe").ok()?;
    exe.parent().map(Path::to_owned)
}

fn first(candidates: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .map(|path| {
            // "bin/../lib/..." becomes a path that is good in every program.
            path.canonicalize().unwrap_or(path)
        })
}

/// The library that programs preload.
pub(crate) fn library() -> Option<PathBuf> {
    let home = home()?;
    first([
        home.join("libflyover.so"),
        home.join("../lib/flyover/libflyover.so"),
    ])
}

/// The daemon.
pub(crate) fn daemon() -> Option<PathBuf> {
    let home = home()?;
    first([
        home.join("flyoverd"),
        home.join("../sbin/flyoverd"),
        home.join("../lib/flyover/flyoverd"),
    ])
}
