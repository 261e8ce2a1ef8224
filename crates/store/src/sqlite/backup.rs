//! Copies of a data file: made while it is in use, and put in place of a lost one.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{examine, open, schema};
use crate::Error;

/// Writes all that `conn` sees to a file, in one read transaction: commits go on and are not seen. The
/// copy is written anew, table by table, so it holds no free pages, and a page that cannot be read ends
/// it. SQLite's page-wise backup would begin again with every commit.
///
/// The file has no name when this returns, so that whatever happens to its reader, it does not stay.
pub(super) fn copy(conn: &Connection, target: &Path) -> Result<File, Error> {
    let Some(name) = target.to_str() else {
        return Err(Error::Io(format!(
            "a backup needs a data file whose path is UTF-8 text, {} is not",
            target.display()
        )));
    };
    // A file of a version that knew no checksums has them in its copy.
    tidemill_checksums::make_checked(conn)?;
    // What a process left that was killed meanwhile.
    remove(target)?;
    let copied = conn
        .execute("VACUUM INTO ?1", [name])
        .map_err(Error::from)
        .and_then(|_| forget_log(target))
        .and_then(|()| File::open(target).map_err(|fault| failed("read", target, &fault)));
    remove(target)?;
    copied
}

/// The log that lies beside the original is not the copy's, which holds all that was in it.
fn forget_log(copy: &Path) -> Result<(), Error> {
    let conn = tidemill_checksums::open(copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Nobody else has it, and after a crash it is removed.
    conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")?;
    conn.execute("DELETE FROM meta WHERE key = ?1", [schema::META_LOG])?;
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(fault) if fault.kind() != ErrorKind::NotFound => Err(failed("remove", path, &fault)),
        _ => Ok(()),
    }
}

fn failed(what: &str, path: &Path, fault: &std::io::Error) -> Error {
    Error::Io(format!("cannot {what} {}: {fault}", path.display()))
}

/// Makes a data file from a backup. The place has to be free: nothing is overwritten.
pub fn restore(backup: &Path, path: &Path) -> Result<(), Error> {
    let unusable = |path: &Path, reason: String| Error::Unusable {
        path: path.display().to_string(),
        reason,
    };
    let backup = backup
        .canonicalize()
        .map_err(|fault| unusable(backup, fault.to_string()))?;
    if let Some(log) = examine::beside(&backup).first() {
        return Err(unusable(
            &backup,
            format!(
                "{} lies beside it: this is no backup but a data file that was not closed. Start and stop the engine on it, then copy it",
                log.name
            ),
        ));
    }
    let path = open::resolve(path)?;
    let _lock = open::lock(&path)?;
    let there: Vec<String> = path
        .exists()
        .then(|| path.display().to_string())
        .into_iter()
        .chain(examine::beside(&path).into_iter().map(|file| file.name))
        .collect();
    if !there.is_empty() {
        return Err(unusable(
            &path,
            format!(
                "there is something already ({}): move it away, or choose another --data-file",
                there.join(", ")
            ),
        ));
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".restoring");
    let partial = PathBuf::from(partial);
    let put = || -> std::io::Result<()> {
        fs::copy(&backup, &partial)?;
        File::open(&partial)?.sync_all()?;
        fs::rename(&partial, &path)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    put().map_err(|fault| {
        // It says nothing that the error does not.
        let _ = fs::remove_file(&partial);
        unusable(&path, fault.to_string())
    })
}
