//! Compiles the flow programs (bpf/flow.bpf.c) with clang when the feature `bpf` is on.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_BPF").is_none() {
        return;
    }
    let source =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../../bpf");
    for file in ["flow.bpf.c", "flow.h"] {
        println!("cargo::rerun-if-changed={}", source.join(file).display());
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("flow.bpf.o");
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let mut compile = Command::new(&clang);
    compile.args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-c"]);
    // With atomic compare-and-swap, of Linux 5.12; older compilers leave it out.
    compile.arg("-mcpu=v3");
    // Debian keeps asm/types.h in a directory per architecture, which the bpf target does not search.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        compile.arg("-I").arg(multiarch);
    }
    compile
        .arg(source.join("flow.bpf.c"))
        .arg("-o")
        .arg(&object);
    match compile.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "compiling the flow programs: {} ended with {status}",
            clang.display()
        ),
        Err(e) => panic!(
            "compiling the flow programs needs {} (packages clang, libbpf-dev, linux-libc-dev): {e}",
            clang.display()
        ),
    }
}
