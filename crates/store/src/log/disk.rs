//! The disk as the log sees it: numbered files in one folder. A seam, so that tests can cut the power.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(file))?;
        Ok(Box::new(OsFile(file)))
    }

    fn open(&self, file: u64) -> io::Result<Box<dyn LogFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(file))?;
        Ok(Box::new(OsFile(file)))
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

struct OsFile(File);

impl LogFile for OsFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let there = self.size()?.saturating_sub(offset);
        let mut bytes = vec![0; len.min(usize::try_from(there).unwrap_or(usize::MAX))];
        self.0.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
