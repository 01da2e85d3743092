//! Every packet script under `tests/pkt`. `PKT=name` runs those whose path contains the name.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};

fn scripts(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("scripts") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            scripts(&path, out);
        } else if path.extension().is_some_and(|e| e == "pkt") {
            out.push(path);
        }
    }
}

#[test]
fn scripts_hold() {
    let mut all = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pkt");
    scripts(&root, &mut all);
    all.sort();
    let only = std::env::var("PKT").unwrap_or_default();
    let mut failures = Vec::new();
    let mut ran = 0;
    for path in all.iter().filter(|p| p.to_string_lossy().contains(&only)) {
        ran += 1;
        let text = std::fs::read_to_string(path).expect("readable");
        let name = path.strip_prefix(&root).expect("below").display();
        if let Err(e) = flyover_sim::script::run(&text) {
            failures.push(format!("{name}: {e}"));
        }
    }
    assert!(ran > 0, "no script ran");
    assert!(
        failures.is_empty(),
        "{} of {ran} scripts failed\n\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}
