//! What a call costs that Flyover does not accelerate: reading one byte from a pipe that has data.

use std::io::{Read, Write};
use std::time::Instant;

use anyhow::Result;
use flyover_e2e::stats::Sample;

/// What a pipe holds by default.
const PIPE: usize = 65_536;

pub fn run() -> Result<()> {
    let (mut reader, mut writer) = std::io::pipe()?;
    let full = vec![1; PIPE];
    let mut byte = [0];
    let mut sample = Sample::default();
    for _ in 0..64 {
        writer.write_all(&full)?;
        let begun = Instant::now();
        for _ in 0..PIPE {
            reader.read_exact(&mut byte)?;
        }
        sample.push(begun.elapsed().as_nanos() as f64 / PIPE as f64);
    }
    println!("{}", serde_json::json!({ "ns_per_read": sample.median() }));
    Ok(())
}
