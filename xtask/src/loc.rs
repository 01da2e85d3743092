//! The limit on the length of source files, without their tests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::steps;

/// Lines that are not tests; the aim is 300.
const LIMIT: usize = 500;

/// Fails when a source file is longer than the limit, and names it.
pub fn check() -> Result<()> {
    let mut files = Vec::new();
    for directory in ["bpf", "crates", "tests", "xtask"] {
        collect(&steps::root().join(directory), &mut files)?;
    }
    let mut counted = Vec::new();
    for path in files {
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        counted.push((lines_without_tests(&text), path));
    }
    counted.sort();
    let name = |path: &Path| {
        path.strip_prefix(steps::root())
            .unwrap_or(path)
            .display()
            .to_string()
    };
    let too_long: Vec<String> = counted
        .iter()
        .filter(|(lines, _)| *lines > LIMIT)
        .map(|(lines, path)| format!("{lines} {}", name(path)))
        .collect();
    let total: usize = counted.iter().map(|(lines, _)| lines).sum();
    eprintln!(
        "loc: {total} lines without tests in {} files",
        counted.len()
    );
    if !too_long.is_empty() {
        bail!(
            "longer than {LIMIT} lines without tests:\n  {}",
            too_long.join("\n  ")
        );
    }
    Ok(())
}

/// Sources below a directory, without files that hold only tests.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if path.is_dir() {
            if !matches!(name, "tests" | "target" | "testing") {
                collect(&path, files)?;
            }
            continue;
        }
        let is_source = name.ends_with(".rs") || name.ends_with(".c") || name.ends_with(".h");
        if is_source && name != "tests.rs" && !name.ends_with("_tests.rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Counts lines outside `#[cfg(test)] mod … { … }`. The code is formatted, so such a module ends
/// with the first `}` at the margin.
fn lines_without_tests(text: &str) -> usize {
    let mut count = 0;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let module = lines
            .peek()
            .is_some_and(|next| next.starts_with("mod ") && next.ends_with('{'));
        if line == "#[cfg(test)]" && module {
            for skipped in lines.by_ref() {
                if skipped == "}" {
                    break;
                }
            }
            continue;
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_module_does_not_count() {
        let text = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n";
        assert_eq!(lines_without_tests(text), 3);
    }
}
