//! The machine's own processors and memory, as a device for models that run on them.

use std::any::Any;
use std::fs;

use parking_lot::Mutex;

use crate::{Device, Error, Memory};

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// The processors of this machine, or of the container.
pub struct Cpu {
    read: Box<Read>,
    /// Ticks when the utilisation was last asked for.
    ticks: Mutex<Option<Ticks>>,
}

/// The text of a file, if there is such a file.
type Read = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Since the machine started, summed over processors.
#[derive(Clone, Copy)]
struct Ticks {
    busy: u64,
    all: u64,
}

impl Cpu {
    /// # Errors
    /// The system has no `/proc/meminfo`.
    pub fn open() -> Result<Self, Error> {
        Self::reading(|path| fs::read_to_string(path).ok())
    }

    fn reading(
        read: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let cpu = Self {
            read: Box::new(read),
            ticks: Mutex::new(None),
        };
        cpu.memory()?;
        *cpu.ticks.lock() = cpu.ticks();
        Ok(cpu)
    }

    fn meminfo(&self) -> Option<Memory> {
        let text = (self.read)("/proc/meminfo")?;
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
            kib.checked_mul(1024)
        };
        Some(Memory {
            total: field("MemTotal:")?,
            free: field("MemAvailable:")?,
        })
    }

    /// What each control group that this process is in leaves it: a group's limit binds all below
    /// it.
    fn cgroups(&self) -> Vec<Memory> {
        let Some(text) = (self.read)("/proc/self/cgroup") else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let version = if controllers.is_empty() {
                &VERSION_2
            } else if controllers.split(',').any(|name| name == "memory") {
                &VERSION_1
            } else {
                continue;
            };
            let mut path = path.trim_end_matches('/');
            loop {
                let folder = format!("{CGROUPS}{}{path}", version.mounted);
                found.extend(self.cgroup(&folder, version));
                match path.rfind('/') {
                    Some(parent) => path = &path[..parent],
                    None => break,
                }
            }
        }
        found
    }

    fn cgroup(&self, folder: &str, version: &Version) -> Option<Memory> {
        let number = |file: &str| -> Option<u64> {
            (self.read)(&format!("{folder}/{file}"))?
                .trim()
                .parse()
                .ok()
        };
        // `max`, or nothing at the root, is no limit.
        let total = number(version.limit)?;
        let used = number(version.used)?;
        // The page cache counts as used, but gives way.
        let cache = (self.read)(&format!("{folder}/memory.stat"))
            .and_then(|text| {
                let mut fields = text.lines().filter_map(|line| line.split_once(' '));
                fields
                    .find(|(name, _)| *name == version.cache)?
                    .1
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        Some(Memory {
            total,
            free: total.saturating_sub(used.saturating_sub(cache)),
        })
    }

    fn ticks(&self) -> Option<Ticks> {
        let text = (self.read)("/proc/stat")?;
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        // user, nice, system, idle, iowait, irq, softirq, steal; the guests after them are in user.
        let fields: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map_while(|field| field.parse().ok())
            .collect();
        let all = fields.iter().sum();
        let idle: u64 = fields.get(3..5)?.iter().sum();
        Some(Ticks {
            busy: all - idle,
            all,
        })
    }
}

/// Names in the two versions of control groups.
struct Version {
    mounted: &'static str,
    limit: &'static str,
    used: &'static str,
    cache: &'static str,
}

const VERSION_1: Version = Version {
    mounted: "/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};
const VERSION_2: Version = Version {
    mounted: "",
    limit: "memory.max",
    used: "memory.current",
    cache: "inactive_file",
};

impl Device for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }

    /// The machine's, or what the container's control group leaves when that is less.
    fn memory(&self) -> Result<Memory, Error> {
        let machine = self.meminfo().ok_or_else(|| {
            Error::new(
                "cpu",
                "/proc/meminfo does not say how much memory there is; it is needed, so Linux is",
            )
        })?;
        Ok(self.cgroups().iter().fold(machine, |least, group| Memory {
            total: least.total.min(group.total),
            free: least.free.min(group.free),
        }))
    }

    /// Of all processors together, since it was last asked for.
    fn utilisation(&self) -> Option<f64> {
        let now = self.ticks()?;
        let before = self.ticks.lock().replace(now)?;
        let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
        #[expect(clippy::cast_precision_loss, reason = "ticks between two questions")]
        let share = now.busy.saturating_sub(before.busy) as f64 / all as f64;
        Some(share.min(1.0))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::Cpu;
    use crate::{Device, Memory};

    const MEMINFO: &str = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  800 kB\n";

    fn check(files: &[(&str, &str)], total: u64, free: u64) {
        let files: HashMap<String, String> = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .chain([("/proc/meminfo".to_owned(), MEMINFO.to_owned())])
            .collect();
        let cpu = Cpu::reading(move |path| files.get(path).cloned()).unwrap();
        assert_eq!(cpu.memory().unwrap(), Memory { total, free });
    }

    #[test]
    fn memory_is_the_machines_without_a_limit() {
        check(&[], 1_024_000, 819_200);
        check(
            &[
                ("/proc/self/cgroup", "0::/\n"),
                ("/sys/fs/cgroup/memory.max", "max\n"),
            ],
            1_024_000,
            819_200,
        );
    }

    #[test]
    fn memory_is_what_the_container_may_use() {
        check(
            &[
                ("/proc/self/cgroup", "0::/pod/one\n"),
                ("/sys/fs/cgroup/pod/one/memory.max", "max\n"),
                ("/sys/fs/cgroup/pod/memory.max", "500000\n"),
                ("/sys/fs/cgroup/pod/memory.current", "300000\n"),
                (
                    "/sys/fs/cgroup/pod/memory.stat",
                    "anon 1\nfile 70000\ninactive_file 60000\n",
                ),
            ],
            500_000,
            260_000,
        );
    }

    #[test]
    fn memory_is_what_a_container_of_the_first_version_may_use() {
        check(
            &[
                ("/proc/self/cgroup", "5:cpu:/x\n4:memory:/outside\n0::/\n"),
                // The path is the host's; the container sees its own group as the root.
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n"),
                ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "300000\n"),
                (
                    "/sys/fs/cgroup/memory/memory.stat",
                    "inactive_file 5\ntotal_inactive_file 100000\n",
                ),
            ],
            400_000,
            200_000,
        );
        check(
            &[
                ("/proc/self/cgroup", "4:memory:/\n"),
                (
                    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
                ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "300000\n"),
            ],
            1_024_000,
            819_200,
        );
    }

    #[test]
    fn a_system_that_does_not_tell_is_an_error() {
        let error = Cpu::reading(|_| None).err().unwrap();
        assert!(error.to_string().contains("/proc/meminfo"), "{error}");
    }

    #[test]
    fn utilisation_is_that_since_it_was_last_asked_for() {
        let stat = Arc::new(Mutex::new("cpu  100 0 100 700 100 0 0 0 0 0\n".to_owned()));
        let read = Arc::clone(&stat);
        let cpu = Cpu::reading(move |path| match path {
            "/proc/stat" => Some(read.lock().clone()),
            "/proc/meminfo" => Some(MEMINFO.to_owned()),
            _ => None,
        })
        .unwrap();
        assert_eq!(cpu.utilisation(), None, "no time has passed");
        *stat.lock() = "cpu  120 0 110 760 110 0 0 0 50 0\ncpu0 1 1 1 1\n".to_owned();
        assert_eq!(cpu.utilisation(), Some(0.3));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_has_memory() {
        let memory = Cpu::open().unwrap().memory().unwrap();
        assert!(memory.total >= memory.free && memory.free > 0, "{memory:?}");
    }
}
