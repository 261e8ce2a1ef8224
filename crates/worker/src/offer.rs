//! What a worker offers: classes with their slots and devices, from the command line or a file.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use tidemill_pipeline::size;

use crate::config::{CPU, cpu_slots};

/// Tasks of one resource class, at most so many at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// The resource class: a task queue.
    pub class: String,
    /// Tasks at a time. With devices a task is mostly an item or a chunk that waits for its batch, so
    /// there are many more slots than devices.
    pub slots: usize,
    /// What its batches run on, and tasks that ask for a device.
    pub devices: Vec<OfferedDevice>,
    /// Models whose tasks come here first, loaded or not.
    pub serve: Vec<String>,
    /// Share of the host's CPU, 0 to 1, above which no further task is taken.
    pub cpu_target: Option<f64>,
}

/// A device as it is named in an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedDevice {
    /// See [`tidemill_device::open`].
    pub name: String,
    /// Bytes of its memory that this worker may use; all of it unless said.
    pub memory: Option<u64>,
}

/// Slots of a class with devices: enough for full batches of a few models in execution and as many
/// being gathered.
pub const DEVICE_SLOTS: usize = 128;

impl Offer {
    pub fn new(class: impl Into<String>, slots: usize) -> Self {
        Self {
            class: class.into(),
            slots,
            devices: Vec::new(),
            serve: Vec::new(),
            cpu_target: None,
        }
    }

    /// The class `accelerator` on a device.
    pub fn on_device(class: impl Into<String>, device: impl Into<String>) -> Self {
        let mut offer = Self::new(class, DEVICE_SLOTS);
        offer.devices.push(OfferedDevice {
            name: device.into(),
            memory: None,
        });
        offer
    }

    /// Reads `cpu`, `cpu=4`, or `accelerator:device=0,memory=60GiB,slots=64,serve=minilm`. `memory`
    /// is that of the device before it; `device` and `serve` may come again. `cpu` has a slot for each
    /// core unless told otherwise, a class with devices [`DEVICE_SLOTS`], any other one.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |what: String| Error(format!("offer `{text}`: {what}"));
        let at = text.find([':', '=']).unwrap_or(text.len());
        let (class, rest) = text.split_at(at);
        let mut draft = Draft {
            class: class.to_owned(),
            ..Draft::default()
        };
        match rest.strip_prefix('=') {
            Some(slots) => draft.slots = Some(number(slots).map_err(wrong)?),
            None if rest.is_empty() => {}
            None => {
                for pair in rest[1..].split(',') {
                    let (key, value) = pair.split_once('=').ok_or_else(|| {
                        wrong(format!("`{pair}` is not KEY=VALUE, such as device=0"))
                    })?;
                    draft.set(key.trim(), value.trim()).map_err(wrong)?;
                }
            }
        }
        draft.finish().map_err(wrong)
    }

    /// Reads a TOML file of `[[offer]]` tables with `class` and, all optional, `slots`, `serve`,
    /// `cpu_target` and `devices`, a list of `{name, memory}`.
    pub fn from_toml(text: &str) -> Result<Vec<Self>, Error> {
        let file: File = toml::from_str(text).map_err(|e| Error(e.to_string()))?;
        if file.offer.is_empty() {
            return Err(Error("it has no [[offer]]".to_owned()));
        }
        let offers = file.offer.into_iter().map(|draft| {
            let class = draft.class.clone();
            let offer = draft.finish();
            offer.map_err(|what| Error(format!("the offer of class `{class}`: {what}")))
        });
        offers.collect()
    }
}

/// What is wrong with an offer, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.trim_end())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    offer: Vec<Draft>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    class: String,
    slots: Option<usize>,
    #[serde(default)]
    devices: Vec<DraftDevice>,
    #[serde(default)]
    serve: Vec<String>,
    cpu_target: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftDevice {
    name: String,
    memory: Option<String>,
}

impl Draft {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "device" => self.devices.push(DraftDevice {
                name: value.to_owned(),
                memory: None,
            }),
            "memory" => match self.devices.last_mut() {
                Some(device) => device.memory = Some(value.to_owned()),
                None => return Err("`memory` comes after the `device` whose it is".to_owned()),
            },
            "slots" => self.slots = Some(number(value)?),
            "serve" => self.serve.push(value.to_owned()),
            "cpu_target" => self.cpu_target = Some(value.to_owned()),
            other => {
                return Err(format!(
                    "there is no `{other}`: write device, memory, slots, serve or cpu_target"
                ));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Offer, String> {
        if self.class.is_empty() {
            return Err("the class has no name; write CLASS=SLOTS, such as cpu=4".to_owned());
        }
        if self.slots == Some(0) {
            return Err("it has no slots: give it at least 1, or leave it out".to_owned());
        }
        let mut seen = BTreeMap::new();
        let mut devices = Vec::with_capacity(self.devices.len());
        for device in self.devices {
            if seen.insert(device.name.clone(), ()).is_some() {
                return Err(format!("device {} is named twice", device.name));
            }
            let memory = device.memory.as_deref().map(size::parse).transpose()?;
            devices.push(OfferedDevice {
                name: device.name,
                memory,
            });
        }
        let slots = self.slots.unwrap_or_else(|| {
            if !devices.is_empty() {
                DEVICE_SLOTS
            } else if self.class == CPU {
                cpu_slots(None)
            } else {
                1
            }
        });
        Ok(Offer {
            class: self.class,
            slots,
            devices,
            serve: self.serve,
            cpu_target: self.cpu_target.as_deref().map(share).transpose()?,
        })
    }
}

fn number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("`{text}` is no number of slots: write 1 or more")),
    }
}

/// `80%` or `0.8`.
fn share(text: &str) -> Result<f64, String> {
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    match value {
        Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
        _ => Err(format!("`{text}` is no share: write 80% or 0.8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_on_the_command_line() {
        assert_eq!(Offer::parse("cpu=4"), Ok(Offer::new("cpu", 4)));
        assert_eq!(Offer::parse("video"), Ok(Offer::new("video", 1)));
        assert_eq!(Offer::parse("cpu").unwrap().slots, cpu_slots(None));
        let offer = Offer::parse(
            "accelerator:device=0,memory=60GiB,device=sim:1:8GiB,serve=minilm,serve=llama",
        );
        let device = |name: &str, memory| OfferedDevice {
            name: name.to_owned(),
            memory,
        };
        assert_eq!(
            offer.unwrap(),
            Offer {
                devices: vec![device("0", Some(60 << 30)), device("sim:1:8GiB", None)],
                serve: vec!["minilm".to_owned(), "llama".to_owned()],
                ..Offer::new("accelerator", DEVICE_SLOTS)
            }
        );
        let offer = Offer::parse("cpu:slots=8,cpu_target=80%").unwrap();
        assert_eq!((offer.slots, offer.cpu_target), (8, Some(0.8)));
    }

    #[test]
    fn offers_in_a_file() {
        let offers = Offer::from_toml(
            r#"
            [[offer]]
            class = "cpu"
            slots = 4
            cpu_target = "80%"

            [[offer]]
            class = "accelerator"
            serve = ["minilm"]
            devices = [{ name = "0", memory = "60GiB" }, { name = "1" }]
            "#,
        )
        .unwrap();
        assert_eq!(offers.len(), 2);
        assert_eq!(
            Offer::parse("accelerator:device=0,memory=60GiB,device=1,serve=minilm"),
            Ok(offers[1].clone())
        );
    }

    #[test]
    fn what_is_no_offer_is_refused_with_its_place() {
        for (text, part) in [
            ("", "class has no name"),
            ("=4", "class has no name"),
            ("cpu=0", "1 or more"),
            ("cpu=-1", "1 or more"),
            ("cpu=many", "1 or more"),
            ("accelerator:0", "`0` is not KEY=VALUE"),
            ("accelerator:memory=2GiB", "after the `device`"),
            ("accelerator:device=0,memory=much", "is not a size"),
            ("accelerator:device=0,device=0", "named twice"),
            ("accelerator:gpu=0", "there is no `gpu`"),
            ("cpu:cpu_target=120%", "is no share"),
        ] {
            let error = Offer::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
        for (text, part) in [
            ("", "no [[offer]]"),
            ("[[offer]]\nslots = 1", "missing field `class`"),
            ("[[offer]]\nclass = 'a'\nslot = 1", "unknown field `slot`"),
            (
                "[[offer]]\nclass = 'a'\nslots = 0",
                "class `a`: it has no slots",
            ),
        ] {
            let error = Offer::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
