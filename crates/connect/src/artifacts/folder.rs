//! Blobs in a folder of the file system, durable before a write returns.
//!
//! A blob is written to `tmp/`, flushed, renamed to its place, and the folder of that place is
//! flushed. The root is made when the store is opened and never after: a disk that is not mounted
//! must not be mistaken for an empty store.

use std::collections::hash_map::RandomState;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::Error;
use super::blobs::{Blobs, Entry};

/// Says that a folder is an artifact store, and of which format.
const FORMAT_FILE: &str = "tidemill-artifacts";
const FORMAT: &str = "format 1\n";
const FOLDERS: [&str; 5] = ["objects", "refs", "cache", "tmp", "trash"];

pub(super) struct Folder {
    disk: Arc<Disk>,
}

struct Disk {
    root: PathBuf,
}

/// A name that no other temporary file has: a store may be open twice in a process, and in processes
/// of the same number on several machines.
fn temporary_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}-{number}", *PROCESS)
}

impl Folder {
    pub(super) fn open(root: PathBuf) -> Result<Self, Error> {
        // Absolute, so that a change of the working folder changes nothing.
        let root = std::path::absolute(&root)
            .map_err(|e| Error::Invalid(format!("artifact store {}: {e}", root.display())))?;
        let format = root.join(FORMAT_FILE);
        match fs::read_to_string(&format) {
            Ok(text) if text == FORMAT => {}
            Ok(text) => {
                return Err(Error::Invalid(format!(
                    "{} is an artifact store of another format ({}): use the version of tidemill that wrote it, or a newer one",
                    root.display(),
                    text.trim().chars().take(40).collect::<String>(),
                )));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => create(&root)?,
            Err(e) => return Err(Error::io("read", &format, &e)),
        }
        Ok(Self {
            disk: Arc::new(Disk { root }),
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || work(&disk))
            .await
            .map_err(|e| Error::Unavailable(format!("the process is stopping: {e}")))?
    }
}

fn create(root: &Path) -> Result<(), Error> {
    let io = |e: io::Error| Error::io("create the artifact store", root, &e);
    fs::create_dir_all(root).map_err(io)?;
    for entry in fs::read_dir(root).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        // Another process may be at it as well.
        let ours = name
            .to_str()
            .is_some_and(|name| FOLDERS.contains(&name) || name.starts_with(FORMAT_FILE));
        if !ours {
            return Err(Error::Invalid(format!(
                "{} is not an artifact store and not empty ({} is in it): name another folder",
                root.display(),
                name.display()
            )));
        }
    }
    for folder in FOLDERS {
        make_folder(&root.join(folder)).map_err(io)?;
    }
    // The format comes last: a store that has it is complete.
    let temporary = root.join(format!("{FORMAT_FILE}.{}", temporary_name()));
    write_flushed(&temporary, FORMAT.as_bytes()).map_err(io)?;
    fs::rename(&temporary, root.join(FORMAT_FILE)).map_err(io)?;
    flush_folder(root).map_err(io)?;
    match root.parent() {
        Some(parent) => flush_folder(parent).map_err(io),
        None => Ok(()),
    }
}

impl Disk {
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Whether the store is there at all. Without its format file, nothing that is missing is known
    /// to be missing.
    fn check(&self) -> Result<(), Error> {
        let format = self.root.join(FORMAT_FILE);
        match fs::metadata(&format) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Unavailable(format!(
                "its folder {} is gone or cannot be read",
                self.root.display()
            ))),
        }
    }

    /// An error of the file system; that of a store that is gone says so.
    fn error(&self, what: &str, path: &Path, error: &io::Error) -> Error {
        match self.check() {
            Err(gone) => gone,
            Ok(()) => Error::io(what, path, error),
        }
    }

    fn read(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let at = self.path(path);
        match fs::read(&at) {
            Ok(bytes) => return Ok(Some(bytes.into())),
            Err(e) if e.kind() == ErrorKind::NotFound => self.check()?,
            Err(e) => return Err(self.error("read", &at, &e)),
        }
        // A collection may just be putting it back: see `remove_old`.
        for place in [trash(&self.root, &at), at.clone()] {
            match fs::read(&place) {
                Ok(bytes) => return Ok(Some(bytes.into())),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(self.error("read", &place, &e)),
            }
        }
        Ok(None)
    }

    fn write(&self, path: &str, bytes: &[u8], durable: bool) -> Result<(), Error> {
        let at = self.path(path);
        let temporary = self.root.join("tmp").join(temporary_name());
        let written = self.write_by(&temporary, &at, bytes, durable);
        if written.is_err() {
            // As good as it gets; `tidy` takes what stays.
            let _ = fs::remove_file(&temporary);
        }
        written.map_err(|e| self.error("write", &at, &e))
    }

    fn write_by(&self, temporary: &Path, at: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
        let folder = parent(at);
        if durable {
            write_flushed(temporary, bytes)?;
        } else {
            fs::write(temporary, bytes)?;
        }
        if let Err(e) = fs::rename(temporary, at) {
            if e.kind() != ErrorKind::NotFound {
                return Err(e);
            }
            make_folder(folder)?;
            fs::rename(temporary, at)?;
        }
        if durable {
            flush_folder(folder)?;
        }
        Ok(())
    }

    fn write_once(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let at = self.path(path);
        let size = fs::metadata(&at).map(|m| m.len()).ok();
        // Another size is what a damaged disk leaves; then it is written again.
        if size == Some(bytes.len() as u64) && self.refresh(path)? {
            // Whoever wrote it may not have come to that yet.
            return flush_folder(parent(&at)).map_err(|e| self.error("flush", &at, &e));
        }
        self.write(path, bytes, true)
    }

    fn refresh(&self, path: &str) -> Result<bool, Error> {
        let at = self.path(path);
        let file = match OpenOptions::new().append(true).open(&at) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return self.check().map(|()| false),
            Err(e) => return Err(self.error("open", &at, &e)),
        };
        file.set_modified(SystemTime::now())
            .map_err(|e| self.error("touch", &at, &e))?;
        // A collection may have taken it in between; it looks at the time after it took it.
        Ok(at.exists())
    }

    fn mark(&self, folder: &str, names: &[String]) -> Result<(), Error> {
        let folder = self.path(folder);
        for name in names {
            let at = folder.join(name);
            // A collection may remove an empty folder between the two.
            let made = touch(&at).or_else(|e| {
                if e.kind() != ErrorKind::NotFound {
                    return Err(e);
                }
                make_folder(&folder)?;
                touch(&at)
            });
            made.map_err(|e| self.error("write", &at, &e))?;
        }
        flush_folder(&folder).map_err(|e| self.error("flush", &folder, &e))
    }

    fn folders(&self, folder: &str) -> Result<Vec<String>, Error> {
        let at = self.path(folder);
        let entries = fs::read_dir(&at).map_err(|e| self.error("list", &at, &e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.error("list", &at, &e))?;
            if let Ok(name) = entry.file_name().into_string()
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn list(&self, folder: &Path, entries: &mut Vec<Entry>) -> Result<(), Error> {
        let found = match fs::read_dir(folder) {
            Ok(found) => found,
            Err(e) if e.kind() == ErrorKind::NotFound => return self.check(),
            Err(e) => return Err(self.error("list", folder, &e)),
        };
        for entry in found {
            let entry = entry.map_err(|e| self.error("list", folder, &e))?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(self.error("list", folder, &e)),
            };
            if metadata.is_dir() {
                self.list(&entry.path(), entries)?;
            } else if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry {
                    name,
                    bytes: metadata.len(),
                    age: age(&metadata),
                });
            }
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<(), Error> {
        let at = self.path(path);
        match fs::remove_file(&at) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(self.error("remove", &at, &e)),
            _ => Ok(()),
        }
    }

    /// Takes the blob aside before it looks at its age: whoever refreshes it meanwhile either finds
    /// it gone and writes it anew, or is seen here and gets it back.
    fn remove_old(&self, path: &str, age_min: Duration) -> Result<bool, Error> {
        let at = self.path(path);
        let aside = trash(&self.root, &at);
        match fs::rename(&at, &aside) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return self.check().map(|()| true),
            Err(e) => return Err(self.error("move", &at, &e)),
        }
        let metadata = fs::metadata(&aside).map_err(|e| self.error("read", &aside, &e))?;
        if age(&metadata) < age_min {
            self.put_back(&aside, &at)?;
            return Ok(false);
        }
        fs::remove_file(&aside).map_err(|e| self.error("remove", &aside, &e))?;
        Ok(true)
    }

    fn put_back(&self, aside: &Path, at: &Path) -> Result<(), Error> {
        fs::rename(aside, at)
            .and_then(|()| flush_folder(parent(at)))
            .map_err(|e| self.error("restore", at, &e))
    }

    fn tidy(&self, age_min: Duration) -> Result<(), Error> {
        for name in self.files("trash")? {
            if super::is_hex(name.as_bytes()) {
                let at = self.path(&super::object_path(&name));
                self.put_back(&self.root.join("trash").join(&name), &at)?;
            }
        }
        for name in self.files("tmp")? {
            let at = self.root.join("tmp").join(&name);
            if fs::metadata(&at).is_ok_and(|metadata| age(&metadata) >= age_min) {
                self.remove(&format!("tmp/{name}"))?;
            }
        }
        Ok(())
    }

    fn files(&self, folder: &str) -> Result<Vec<String>, Error> {
        let mut entries = Vec::new();
        self.list(&self.path(folder), &mut entries)?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    }
}

/// Where a blob lies while it is decided whether it goes.
fn trash(root: &Path, at: &Path) -> PathBuf {
    root.join("trash").join(at.file_name().unwrap_or_default())
}

fn parent(at: &Path) -> &Path {
    at.parent().unwrap_or(at)
}

fn age(metadata: &fs::Metadata) -> Duration {
    // A time in the future, after a change of the clock, is young.
    metadata
        .modified()
        .ok()
        .and_then(|time| SystemTime::now().duration_since(time).ok())
        .unwrap_or_default()
}

fn write_flushed(at: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(at)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn touch(at: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).open(at) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.map(|_| ()),
    }
}

/// Makes a folder in one that exists, durably.
fn make_folder(at: &Path) -> io::Result<()> {
    match fs::create_dir(at) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => flush_folder(parent(at)),
    }
}

/// Makes the names in a folder durable.
fn flush_folder(at: &Path) -> io::Result<()> {
    // Windows neither can nor needs to.
    if cfg!(windows) {
        return Ok(());
    }
    File::open(at)?.sync_all()
}

#[async_trait]
impl Blobs for Folder {
    fn name(&self) -> String {
        self.disk.root.display().to_string()
    }

    async fn read(&self, path: &str) -> Result<Option<Bytes>, Error> {
        let path = path.to_owned();
        self.blocking(move |disk| disk.read(&path)).await
    }

    async fn write(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        let path = path.to_owned();
        self.blocking(move |disk| disk.write(&path, &bytes, false))
            .await
    }

    async fn write_once(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        let path = path.to_owned();
        self.blocking(move |disk| disk.write_once(&path, &bytes))
            .await
    }

    async fn refresh(&self, path: &str) -> Result<bool, Error> {
        let path = path.to_owned();
        self.blocking(move |disk| disk.refresh(&path)).await
    }

    async fn mark(&self, folder: &str, names: &[String]) -> Result<(), Error> {
        let (folder, names) = (folder.to_owned(), names.to_vec());
        self.blocking(move |disk| disk.mark(&folder, &names)).await
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>, Error> {
        let folder = folder.to_owned();
        self.blocking(move |disk| disk.folders(&folder)).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<Entry>, Error> {
        let folder = folder.to_owned();
        self.blocking(move |disk| {
            let mut entries = Vec::new();
            disk.list(&disk.path(&folder), &mut entries)?;
            Ok(entries)
        })
        .await
    }

    async fn remove(&self, path: &str) -> Result<(), Error> {
        let path = path.to_owned();
        self.blocking(move |disk| disk.remove(&path)).await
    }

    async fn remove_old(&self, path: &str, age_min: Duration) -> Result<bool, Error> {
        let path = path.to_owned();
        self.blocking(move |disk| disk.remove_old(&path, age_min))
            .await
    }

    async fn remove_folder(&self, folder: &str) -> Result<(), Error> {
        let folder = folder.to_owned();
        self.blocking(move |disk| {
            // It may have been filled again.
            let _ = fs::remove_dir(disk.path(&folder));
            Ok(())
        })
        .await
    }

    async fn tidy(&self, age_min: Duration) -> Result<(), Error> {
        self.blocking(move |disk| disk.tidy(age_min)).await
    }
}
