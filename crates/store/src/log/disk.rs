//! The disk as the log sees it: numbered files in one folder. A seam, so that tests can cut the power.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sync::Mutex;

/// Offsets and lengths of what is written are multiples of this.
pub const BLOCK: usize = 512;

/// The files of one log.
pub trait Disk: Send + Sync + 'static {
    /// The numbers of the files that are there.
    fn list(&self) -> io::Result<Vec<u64>>;
    /// A new, empty file.
    fn create(&self, file: u64) -> io::Result<Box<dyn LogFile>>;
    fn open(&self, file: u64) -> io::Result<Box<dyn LogFile>>;
    fn remove(&self, file: u64) -> io::Result<()>;
    /// Makes creations and removals durable.
    fn sync_folder(&self) -> io::Result<()>;
    /// What to call a file towards people.
    fn name(&self, file: u64) -> String;
}

/// An open file.
pub trait LogFile: Send + Sync {
    fn size(&self) -> io::Result<u64>;
    /// Up to `len` bytes from `offset` on; fewer at the file's end.
    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// Writes whole [`BLOCK`]s.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Forces what was written to disk.
    fn sync(&self) -> io::Result<()>;
}

/// Real files: those of the data file `data.db` are `data.db-log-1`, `data.db-log-2` and so on.
pub struct OsDisk {
    folder: PathBuf,
    prefix: String,
}

impl OsDisk {
    /// The log beside a data file, whose path is absolute.
    pub fn beside(data_file: &Path) -> Self {
        let name = data_file.file_name().unwrap_or_default().to_string_lossy();
        OsDisk {
            folder: data_file.parent().unwrap_or(Path::new("/")).to_owned(),
            prefix: format!("{name}-log-"),
        }
    }

    fn path(&self, file: u64) -> PathBuf {
        self.folder.join(format!("{}{file}", self.prefix))
    }
}

impl Disk for OsDisk {
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let number: Option<u64> = name
                .to_str()
                .and_then(|name| name.strip_prefix(&self.prefix))
                .and_then(|number| number.parse().ok());
            files.extend(number);
        }
        files.sort_unstable();
        Ok(files)
    }

    fn create(&self, file: u64) -> io::Result<Box<dyn LogFile>> {
        let path = self.path(file);
        let plain = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        // A file system may know no direct writes (it refuses the flag), or only of larger blocks (it
        // refuses the write).
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(DIRECT)
            .open(&path)
            .ok()
            .map(Direct::new)
            .filter(|direct| direct.write(&[0; BLOCK], 0).is_ok());
        Ok(Box::new(OsFile { plain, direct }))
    }

    fn open(&self, file: u64) -> io::Result<Box<dyn LogFile>> {
        let plain = File::open(self.path(file))?;
        Ok(Box::new(OsFile {
            plain,
            direct: None,
        }))
    }

    fn remove(&self, file: u64) -> io::Result<()> {
        fs::remove_file(self.path(file))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn name(&self, file: u64) -> String {
        self.path(file).display().to_string()
    }
}

/// Without the system's cache, which would write 4 KiB for each flush of a few hundred bytes.
#[cfg(target_os = "linux")]
const DIRECT: i32 = libc::O_DIRECT;
#[cfg(not(target_os = "linux"))]
const DIRECT: i32 = 0;

/// What the system asks of a direct write's memory; what lies otherwise is copied.
pub const MEMORY_ALIGN: usize = 4096;

struct OsFile {
    plain: File,
    direct: Option<Direct>,
}

struct Direct {
    file: File,
    buffer: Mutex<Vec<u8>>,
}

impl Direct {
    fn new(file: File) -> Self {
        Direct {
            file,
            buffer: Mutex::default(),
        }
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        /// What a large write leaves of the buffer.
        const KEPT: usize = 256 << 10;
        if bytes.as_ptr().align_offset(MEMORY_ALIGN) == 0 {
            return self.file.write_all_at(bytes, offset);
        }
        let buffer = &mut *self.buffer.lock();
        if buffer.len() < bytes.len() + MEMORY_ALIGN {
            *buffer = vec![0; bytes.len() + MEMORY_ALIGN];
        }
        let start = buffer.as_ptr().align_offset(MEMORY_ALIGN);
        let aligned = &mut buffer[start..start + bytes.len()];
        aligned.copy_from_slice(bytes);
        self.file.write_all_at(aligned, offset)?;
        if buffer.len() > KEPT {
            *buffer = Vec::new();
        }
        Ok(())
    }
}

impl LogFile for OsFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.plain.metadata()?.len())
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let there = self.size()?.saturating_sub(offset);
        let mut bytes = vec![0; len.min(usize::try_from(there).unwrap_or(usize::MAX))];
        self.plain.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        debug_assert!(bytes.len().is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64));
        match &self.direct {
            Some(direct) => direct.write(bytes, offset),
            None => self.plain.write_all_at(bytes, offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match &self.direct {
            Some(direct) => direct.file.sync_data(),
            None => self.plain.sync_data(),
        }
    }
}
