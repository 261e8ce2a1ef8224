//! What the disk itself takes for the least that durability costs: 1 KiB appended and flushed.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const APPENDS: usize = 200;

pub(crate) fn flushes(folder: &Path) -> Result<Vec<Duration>> {
    let path = folder.join(format!("tidemill-bench-{}.flush", std::process::id()));
    let mut file =
        File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let result = (0..APPENDS)
        .map(|_| {
            let begin = Instant::now();
            file.write_all(&[7; 1024])?;
            file.sync_data()?;
            Ok(begin.elapsed())
        })
        .collect();
    std::fs::remove_file(&path)?;
    result
}
