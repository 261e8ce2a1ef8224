//! Checksums for pages that another program wrote.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use tidemill_checksums::{Found, TRAILER, check, seal};

use super::{examine, open, read_only};
use crate::Error;

/// How many damaged pages are named.
const NAMED: usize = 20;

/// Gives checksums to the pages of a data file that have none, because another program wrote them,
/// and tells how many there were. Nobody may have the file open. Nothing is changed in one that has
/// other damage: that is for a backup to mend.
///
/// A crash in between leaves some pages with checksums and others without; do it again.
pub fn reseal(path: &Path) -> Result<u64, Error> {
    let path = open::resolve(path)?;
    let unusable = |reason: String| Error::Unusable {
        path: path.display().to_string(),
        reason,
    };
    if !path.exists() {
        return Err(unusable("there is no such file".into()));
    }
    let _lock = open::lock(&path)?;
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    if std::fs::metadata(&wal).is_ok_and(|file| file.len() > 0) {
        return Err(unusable(
            "SQLite's log lies beside it, so no other program has closed it: start the engine on it".into(),
        ));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|fault| open::unusable(&path, &fault))?;
    open::check_header(&path, &file)?;
    let io = |fault: std::io::Error| open::unusable(&path, &fault);
    let mut header = [0; 100];
    file.read_exact_at(&mut header, 0).map_err(io)?;
    if usize::from(header[20]) != TRAILER {
        return Err(unusable(
            "it is of an earlier version and has no checksums at all; a backup of it has".into(),
        ));
    }
    structure(&path)?;

    let size = open::page_size(&header);
    let pages = file.metadata().map_err(io)?.len() / size as u64;
    let mut page = vec![0; size];
    let (mut unsealed, mut damaged) = (Vec::new(), Vec::new());
    for number in 1..=pages {
        file.read_exact_at(&mut page, (number - 1) * size as u64)
            .map_err(io)?;
        match check(&page, number) {
            Found::Sound => {}
            Found::Unsealed => unsealed.push(number),
            Found::Damaged => damaged.push(number.to_string()),
        }
    }
    if !damaged.is_empty() {
        let more = if damaged.len() > NAMED { ", ..." } else { "" };
        damaged.truncate(NAMED);
        return Err(Error::Corrupt(format!(
            "{} has other damage, and was left as it is; restore a backup. Pages whose checksum differs: {}{more}",
            path.display(),
            damaged.join(", ")
        )));
    }
    for number in &unsealed {
        let start = (number - 1) * size as u64;
        file.read_exact_at(&mut page, start).map_err(io)?;
        seal(&mut page, *number);
        let trailer = size - TRAILER;
        file.write_all_at(&page[trailer..], start + trailer as u64)
            .map_err(io)?;
    }
    file.sync_all().map_err(io)?;
    Ok(unsealed.len() as u64)
}

/// Whether SQLite finds sense in the pages, whatever their checksums.
fn structure(path: &Path) -> Result<(), Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(read_only::immutable(path), flags)
        .map_err(|fault| open::refused(path, fault))?;
    let mut found = Vec::new();
    examine::integrity(&conn, &mut found);
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::Corrupt(format!(
        "{} has other damage, and was left as it is; restore a backup: {}",
        path.display(),
        found.join("; ")
    )))
}
