//! The log beside a data file: what is read from any bytes, and from a log that was damaged.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tidemill_store::log::disk::{Disk, LogFile};
use tidemill_store::log::{self as commit_log, Log, LogId};
use tidemill_store::{Error, logged};

use crate::input::Input;

const ID: LogId = [7; 16];

/// Files in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<BTreeMap<u64, Vec<u8>>>>);

impl Memory {
    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<u64, Vec<u8>>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct MemoryFile {
    disk: Memory,
    file: u64,
}

impl Disk for Memory {
    fn list(&self) -> io::Result<Vec<u64>> {
        Ok(self.with(|files| files.keys().copied().collect()))
    }

    fn create(&self, file: u64) -> io::Result<Box<dyn LogFile>> {
        self.with(|files| files.insert(file, Vec::new()));
        self.open(file)
    }

    fn open(&self, file: u64) -> io::Result<Box<dyn LogFile>> {
        let disk = self.clone();
        Ok(Box::new(MemoryFile { disk, file }))
    }

    fn remove(&self, file: u64) -> io::Result<()> {
        self.with(|files| files.remove(&file));
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        Ok(())
    }

    fn name(&self, file: u64) -> String {
        format!("log-{file}")
    }
}

impl LogFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.with(|files| files[&self.file].len() as u64))
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        Ok(self.disk.with(|files| {
            let bytes = &files[&self.file];
            let from = (offset as usize).min(bytes.len());
            let to = from.saturating_add(len).min(bytes.len());
            bytes[from..to].to_vec()
        }))
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.with(|files| {
            let file = files.entry(self.file).or_default();
            let end = offset as usize + bytes.len();
            if file.len() < end {
                file.resize(end, 0);
            }
            file[offset as usize..end].copy_from_slice(bytes);
        });
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn replay(disk: &Memory) -> Result<Vec<Bytes>, Error> {
    let mut read = Vec::new();
    commit_log::replay(disk, &ID, 0, u64::MAX, &mut |lsn, payload| {
        read.push(payload);
        assert_eq!(lsn, read.len() as u64);
        Ok(())
    })?;
    Ok(read)
}

fn is_told(error: &Error) -> bool {
    matches!(error, Error::Corrupt(_) | Error::NewerFormat { .. })
}

/// The first byte chooses one of three.
pub fn log(data: &[u8]) {
    let mut input = Input(data);
    match input.below(3) {
        0 => payload(input.0),
        1 => any_files(&mut input),
        _ => damaged(&mut input),
    }
}

/// What a frame holds is a group of commits or is refused; a group is read back as it was.
fn payload(bytes: &[u8]) {
    let Ok(commits) = logged::decode_group(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    let again = logged::encode_group(&commits.iter().collect::<Vec<_>>());
    let read = logged::decode_group(Bytes::from(again)).expect("it was just encoded");
    let written: Vec<_> = commits.iter().filter(|c| !c.is_empty()).collect();
    assert_eq!(
        format!("{written:?}"),
        format!("{:?}", read.iter().collect::<Vec<_>>())
    );
}

/// Files of any content.
fn any_files(input: &mut Input) {
    let disk = Memory::default();
    let first = usize::from(input.u16());
    let first = input.take(first).to_vec();
    disk.with(|files| {
        files.insert(1, first);
        files.insert(2, input.0.to_vec());
    });
    for result in [
        replay(&disk).map(|_| ()),
        commit_log::last_of_any(&disk).map(|_| ()),
    ] {
        if let Err(error) = result {
            assert!(is_told(&error), "{error}");
        }
    }
}

/// A log of which some bytes were changed: what is read is how it began, or the damage is told.
fn damaged(input: &mut Input) {
    let disk = Memory::default();
    let log = Log::create(Arc::new(disk.clone()), ID, 1).expect("memory has room");
    let mut written = Vec::new();
    for n in 0..1 + input.below(6) {
        let len = usize::from(input.u16()) % 3_000;
        let mut payload = input.take(len).to_vec();
        payload.resize(len, n as u8);
        log.append_bytes(&payload).expect("memory has room");
        written.push(Bytes::from(payload));
    }
    drop(log);
    assert_eq!(replay(&disk).expect("nothing was changed"), written);
    // Zeros in advance are the rest of the file.
    let used = 512
        * (1 + written
            .iter()
            .map(|p| (p.len() + 32).div_ceil(512))
            .sum::<usize>());
    for _ in 0..1 + input.below(4) {
        let (at, to) = (usize::from(input.u16()) * 8 + input.below(8), input.byte());
        disk.with(|files| {
            let file = files.get_mut(&1).expect("the log has one file");
            let end = used.min(file.len());
            if end > 0 && to == 255 {
                file.truncate(at % end);
            } else if end > 0 {
                file[at % end] ^= to;
            }
        });
    }
    match replay(&disk) {
        Ok(read) => {
            assert!(read.len() <= written.len());
            assert_eq!(read, written[..read.len()], "it says something else");
        }
        Err(error) => assert!(is_told(&error), "{error}"),
    }
    if let Err(error) = commit_log::last_of_any(&disk) {
        assert!(is_told(&error), "{error}");
    }
}
