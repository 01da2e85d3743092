//! The unwinder goes into the library: the shared one (`libgcc_s.so.1`) costs every program that starts under
//! `LD_PRELOAD` more than all relocations of ours do, and only std's backtraces want it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Before std on the linker's command line: what it defines is then not asked of libgcc_s, which `--as-needed`
    // leaves out.
    println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
}
