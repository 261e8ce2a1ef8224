//! A disk whose power can be cut, for tests and the simulation.
//!
//! What was synced is there after the cut. Of what was not, each sector has any of the contents that
//! were written to it since, or a mixture of two (torn). After a failed sync nobody knows what was
//! written, and a later sync that succeeds does not change that, as on Linux.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::disk::{Disk, LogFile};
use crate::sync::Mutex;

const SECTOR: usize = 512;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() % n.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A disk; clones are the same one.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<World>>);

#[derive(Default)]
struct World {
    files: BTreeMap<u64, SimFile>,
    faults: Faults,
    /// Operations that changed something.
    operations: u64,
}

/// What goes wrong.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// How many syncs from now on fail.
    pub failing_syncs: u32,
    /// Files cannot grow.
    pub full: bool,
    pub read_only: bool,
    /// The power goes when so many more operations are done; everything fails from then on.
    pub power: Option<u64>,
}

#[derive(Clone, Default)]
struct SimFile {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Per sector, what it has held since it was last durable.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Sectors of which a sync failed.
    limbo: BTreeSet<usize>,
    /// Its creation is durable.
    linked: bool,
    /// It was removed, which is not durable.
    removed: bool,
}

fn sector(bytes: &[u8], number: usize) -> Vec<u8> {
    let start = number * SECTOR;
    let mut content = bytes[start.min(bytes.len())..(start + SECTOR).min(bytes.len())].to_vec();
    content.resize(SECTOR, 0);
    content
}

fn put_sector(bytes: &mut Vec<u8>, number: usize, content: &[u8]) {
    let end = (number + 1) * SECTOR;
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[end - SECTOR..end].copy_from_slice(content);
}

impl World {
    /// Counts an operation that changes something.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        if let Some(left) = &mut self.faults.power {
            if *left == 0 {
                return Err(io::Error::other("the power is off"));
            }
            *left -= 1;
        }
        Ok(())
    }

    fn file(&mut self, file: u64) -> io::Result<&mut SimFile> {
        self.files
            .get_mut(&file)
            .ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl SimDisk {
    pub fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// The power is gone.
    pub fn is_off(&self) -> bool {
        self.0.lock().faults.power == Some(0)
    }

    /// What is there after the power went and came back.
    pub fn after_power_cut(&self, random: &mut Random) -> SimDisk {
        let world = self.0.lock();
        let mut files = BTreeMap::new();
        for (number, file) in &world.files {
            if (!file.linked || file.removed) && random.one_in(2) {
                continue;
            }
            let mut content = file.durable.clone();
            for (number, written) in &file.unsynced {
                let mut versions = vec![sector(&file.durable, *number)];
                versions.extend(written.iter().cloned());
                let mut chosen = versions[random.below(versions.len())].clone();
                if random.one_in(3) {
                    let other = &versions[random.below(versions.len())];
                    let cut = random.below(SECTOR);
                    chosen[cut..].copy_from_slice(&other[cut..]);
                }
                put_sector(&mut content, *number, &chosen);
            }
            files.insert(*number, SimFile::of(content));
        }
        SimDisk::with(files)
    }

    /// What is there when the process alone ends.
    pub fn after_kill(&self) -> SimDisk {
        let world = self.0.lock();
        let files = world.files.iter().filter(|(_, file)| !file.removed);
        SimDisk::with(
            files
                .map(|(number, file)| (*number, SimFile::of(file.current.clone())))
                .collect(),
        )
    }

    fn with(files: BTreeMap<u64, SimFile>) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(World {
            files,
            ..World::default()
        })))
    }

    /// The bytes of a file, to be read and damaged.
    pub fn with_bytes<T>(&self, file: u64, f: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        f(&mut self.0.lock().files.get_mut(&file).unwrap().current)
    }
}

impl SimFile {
    fn of(content: Vec<u8>) -> Self {
        SimFile {
            durable: content.clone(),
            current: content,
            linked: true,
            ..SimFile::default()
        }
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<u64>> {
        let world = self.0.lock();
        let files = world.files.iter().filter(|(_, file)| !file.removed);
        Ok(files.map(|(number, _)| *number).collect())
    }

    fn create(&self, file: u64) -> io::Result<Box<dyn LogFile>> {
        let world = &mut *self.0.lock();
        world.operate()?;
        if world.faults.read_only {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        if world.files.get(&file).is_some_and(|file| !file.removed) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        world.files.insert(file, SimFile::default());
        handle(self, file)
    }

    fn open(&self, file: u64) -> io::Result<Box<dyn LogFile>> {
        self.0.lock().file(file)?;
        handle(self, file)
    }

    fn remove(&self, file: u64) -> io::Result<()> {
        let world = &mut *self.0.lock();
        world.operate()?;
        if world.faults.read_only {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        world.file(file)?.removed = true;
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let world = &mut *self.0.lock();
        world.operate()?;
        world.files.retain(|_, file| !file.removed);
        world.files.values_mut().for_each(|file| file.linked = true);
        Ok(())
    }

    fn name(&self, file: u64) -> String {
        format!("log-{file}")
    }
}

fn handle(disk: &SimDisk, file: u64) -> io::Result<Box<dyn LogFile>> {
    Ok(Box::new(Handle {
        disk: disk.clone(),
        file,
    }))
}

struct Handle {
    disk: SimDisk,
    file: u64,
}

impl LogFile for Handle {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().file(self.file)?.current.len() as u64)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let world = &mut *self.disk.0.lock();
        let bytes = &world.file(self.file)?.current;
        let start = (offset as usize).min(bytes.len());
        Ok(bytes[start..start.saturating_add(len).min(bytes.len())].to_vec())
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let world = &mut *self.disk.0.lock();
        world.operate()?;
        let Faults {
            full, read_only, ..
        } = world.faults;
        if read_only {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        let file = world.file(self.file)?;
        let start = offset as usize;
        let mut end = start + bytes.len();
        let refused = full && end > file.current.len();
        if refused {
            end = file.current.len().max(start);
        }
        if file.current.len() < end {
            file.current.resize(end, 0);
        }
        file.current[start..end].copy_from_slice(&bytes[..end - start]);
        for number in start / SECTOR..end.div_ceil(SECTOR) {
            let content = sector(&file.current, number);
            file.unsynced.entry(number).or_default().push(content);
            file.limbo.remove(&number);
        }
        if refused {
            return Err(ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let world = &mut *self.disk.0.lock();
        world.operate()?;
        if world.faults.failing_syncs > 0 {
            world.faults.failing_syncs -= 1;
            let file = world.file(self.file)?;
            file.limbo.extend(file.unsynced.keys().copied());
            return Err(io::Error::other("input/output error"));
        }
        let file = world.file(self.file)?;
        for (number, written) in std::mem::take(&mut file.unsynced) {
            if file.limbo.contains(&number) {
                file.unsynced.insert(number, written);
            } else {
                let content = sector(&file.current, number);
                put_sector(&mut file.durable, number, &content);
            }
        }
        Ok(())
    }
}
