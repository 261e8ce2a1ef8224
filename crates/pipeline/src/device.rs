//! What workers say of their devices, and whether one of them could ever serve a step.
//!
//! A worker says it where the protocol has room for it: among the plugins of its heartbeat, one for
//! each device. What is loaded or free at the moment is not part of it; a step that could be served
//! once the device is free waits.

use serde::{Deserialize, Serialize};

use crate::plan::Device;
use crate::size;

/// With what the names of devices begin among a heartbeat's plugins.
const PLUGIN: &str = "tidemill.device/";

/// A device that a worker offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// As the worker's settings call it, such as `nvml:0`.
    pub name: String,
    /// Bytes that the worker may use of its memory; 0 when it does not say.
    pub memory: u64,
    /// `nvml`, `cpu` or `simulated`.
    pub kind: String,
}

/// The version of the plugin, as JSON. Workers may say more.
#[derive(Serialize, Deserialize)]
struct Version {
    #[serde(default)]
    memory: u64,
    #[serde(default)]
    kind: String,
}

impl Advertised {
    /// Name and version of the plugin that says it.
    pub fn to_plugin(&self) -> (String, String) {
        let version = Version {
            memory: self.memory,
            kind: self.kind.clone(),
        };
        let version = serde_json::to_string(&version).expect("it is JSON");
        (format!("{PLUGIN}{}", self.name), version)
    }

    /// The device that a plugin stands for; `None` for plugins that are none.
    pub fn from_plugin(name: &str, version: &str) -> Option<Self> {
        let name = name.strip_prefix(PLUGIN)?;
        let Version { memory, kind } = serde_json::from_str(version).ok()?;
        Some(Self {
            name: name.to_owned(),
            memory,
            kind,
        })
    }
}

/// A worker of a class, as it last said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its machine.
    pub host: String,
    /// Empty when it does not say what it has.
    pub devices: Vec<Advertised>,
}

/// Whether these devices, all of them free, would do.
pub fn could_satisfy(devices: &[Advertised], asked: &Device) -> bool {
    let large_enough = |device: &&Advertised| device.memory == 0 || device.memory >= asked.memory;
    let fit = devices.iter().filter(large_enough).count();
    u32::try_from(fit).unwrap_or(u32::MAX) >= asked.count
}

/// Why no worker of a class could ever serve a stage; `None` when one could, or might: because it
/// does not say what it has, or because there is none at all yet.
pub fn refusal(stage: &str, class: &str, asked: &Device, workers: &[Worker]) -> Option<String> {
    let might =
        |worker: &Worker| worker.devices.is_empty() || could_satisfy(&worker.devices, asked);
    if workers.is_empty() || workers.iter().any(might) {
        return None;
    }
    let has: Vec<String> = workers
        .iter()
        .map(|worker| {
            let devices = worker.devices.iter().map(|device| {
                let memory = size::down(device.memory);
                match device.memory {
                    0 => device.name.clone(),
                    _ => format!("{} {memory}", device.name),
                }
            });
            let devices: Vec<String> = devices.collect();
            format!("{}: {}", worker.host, devices.join(", "))
        })
        .collect();
    Some(format!(
        "stage `{stage}` asks for {}; the workers of `{class}` have: {}",
        describe(asked),
        has.join("; ")
    ))
}

/// `2 devices with 82 GiB each`, `0.5 of a device`.
fn describe(asked: &Device) -> String {
    let share = asked.share;
    let part = share < 1.0;
    let memory = size::up(asked.memory);
    let (what, each) = match asked.count {
        1 if part => (format!("{share} of a device"), ""),
        1 => ("1 device".to_owned(), ""),
        count if part => (format!("{share} of each of {count} devices"), " each"),
        count => (format!("{count} devices"), " each"),
    };
    match asked.memory {
        0 => what,
        _ => format!("{what} with {memory}{each}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn device(name: &str, gib: u64) -> Advertised {
        Advertised {
            name: name.to_owned(),
            memory: gib * GIB,
            kind: "nvml".to_owned(),
        }
    }

    fn worker(host: &str, devices: &[Advertised]) -> Worker {
        Worker {
            host: host.to_owned(),
            devices: devices.to_vec(),
        }
    }

    fn asked(count: u32, share: f64, gib: u64) -> Device {
        Device {
            count,
            share,
            memory: gib * GIB,
        }
    }

    #[test]
    fn a_device_goes_through_a_heartbeat() {
        let given = device("nvml:0", 80);
        let (name, version) = given.to_plugin();
        assert_eq!(name, "tidemill.device/nvml:0");
        assert_eq!(version, r#"{"memory":85899345920,"kind":"nvml"}"#);
        assert_eq!(Advertised::from_plugin(&name, &version), Some(given));
        // A later worker may say more, and other plugins are none of ours.
        let more = r#"{"memory":1,"kind":"x","busy":0.5}"#;
        assert!(Advertised::from_plugin(&name, more).is_some());
        for (name, version) in [
            ("temporal.otel", ""),
            ("tidemill.device/nvml:0", ""),
            ("tidemill.device/nvml:0", "{\"memory\":-1}"),
        ] {
            assert_eq!(Advertised::from_plugin(name, version), None, "{name}");
        }
    }

    #[test]
    fn devices_do_when_enough_of_them_are_large_enough() {
        let two = [device("nvml:0", 80), device("nvml:1", 24)];
        let silent = [device("cpu", 0)];
        for (devices, asked, does) in [
            (&two[..], asked(1, 1.0, 80), true),
            (&two, asked(1, 1.0, 81), false),
            (&two, asked(2, 1.0, 24), true),
            (&two, asked(2, 1.0, 25), false),
            (&two, asked(2, 0.5, 0), true),
            (&two, asked(3, 0.1, 0), false),
            (&silent, asked(1, 1.0, 500), true),
            (&silent, asked(2, 1.0, 0), false),
            (&[], asked(1, 1.0, 0), false),
        ] {
            assert_eq!(
                could_satisfy(devices, &asked),
                does,
                "{devices:?} {asked:?}"
            );
        }
    }

    #[test]
    fn a_refusal_says_what_was_asked_and_what_there_is() {
        let small = worker("gpu-host-1", &[device("nvml:0", 80)]);
        let many = worker("gpu-host-2", &[device("nvml:0", 24), device("nvml:1", 24)]);
        let workers = [small.clone(), many.clone()];
        let refuse =
            |asked: Device, workers: &[Worker]| refusal("embed", "accelerator", &asked, workers);
        assert_eq!(
            refuse(asked(2, 1.0, 82), &workers[..1]).unwrap(),
            "stage `embed` asks for 2 devices with 82 GiB each; \
             the workers of `accelerator` have: gpu-host-1: nvml:0 80 GiB"
        );
        assert_eq!(
            refuse(asked(1, 0.5, 82), &workers).unwrap(),
            "stage `embed` asks for 0.5 of a device with 82 GiB; the workers of `accelerator` \
             have: gpu-host-1: nvml:0 80 GiB; gpu-host-2: nvml:0 24 GiB, nvml:1 24 GiB"
        );
        assert_eq!(refuse(asked(2, 1.0, 24), &workers), None);
        assert_eq!(refuse(asked(9, 1.0, 82), &[]), None, "nobody yet");
        let silent = worker("unknown", &[]);
        assert_eq!(refuse(asked(9, 1.0, 82), &[small, silent]), None);
    }
}
