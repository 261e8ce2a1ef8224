//! What a simulated device is told to be, and how it is written.

use std::path::PathBuf;
use std::time::Duration;

use tidemill_pipeline::size;

/// Times and sizes of a simulated device. A call of n items takes `latency` + n × `per_item`, and
/// n × `item_memory` bytes while it computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Such as `sim:0`.
    pub name: String,
    /// In bytes.
    pub memory: u64,
    pub latency: Duration,
    pub per_item: Duration,
    /// In bytes.
    pub item_memory: u64,
    /// How long it takes to load a model.
    pub load: Duration,
    /// While there is this file, no call ends. For tests of what stands before a device.
    pub stall: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "sim:0".to_owned(),
            memory: 80 << 30,
            latency: Duration::from_millis(20),
            per_item: Duration::from_millis(1),
            item_memory: 0,
            load: Duration::ZERO,
            stall: None,
        }
    }
}

impl Settings {
    /// Reads `sim`, `sim:NUMBER` or `sim:NUMBER:SIZE`, and settings after it such as
    /// `,latency=20ms,per_item=500us,item_memory=64MiB,load=2s,stall=FILE`.
    ///
    /// # Errors
    /// What was expected, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut settings = Self::default();
        let mut parts = text.split(',');
        let mut fields = parts.next().unwrap_or_default().splitn(3, ':');
        if fields.next() != Some("sim") {
            return Err(format!("{text:?} is not a simulated device such as sim:0"));
        }
        if let Some(number) = fields.next() {
            let number: u32 = number
                .parse()
                .map_err(|_| format!("{number:?} is not the number of a device, as in sim:0"))?;
            settings.name = format!("sim:{number}");
        }
        if let Some(memory) = fields.next() {
            settings.memory = size::parse(memory)?;
        }
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is not of the form NAME=VALUE"))?;
            let wrong = |reason| format!("{name}: {reason}");
            match name {
                "latency" => settings.latency = time(value).map_err(wrong)?,
                "per_item" => settings.per_item = time(value).map_err(wrong)?,
                "item_memory" => settings.item_memory = size::parse(value).map_err(wrong)?,
                "load" => settings.load = time(value).map_err(wrong)?,
                "stall" if value.is_empty() => {
                    return Err(wrong("the path of a file is missing".to_owned()));
                }
                "stall" => settings.stall = Some(PathBuf::from(value)),
                _ => {
                    return Err(format!(
                        "there is no setting {name:?}; there are latency, per_item, item_memory, load, stall"
                    ));
                }
            }
            if seen.contains(&name) {
                return Err(format!("{name} is given twice"));
            }
            seen.push(name);
        }
        Ok(settings)
    }

    /// How long a call of so many items takes.
    pub fn time(&self, items: usize) -> Duration {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        self.latency + self.per_item.saturating_mul(items)
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 20ms, 500us or 2s");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let value: u64 = text[..digits].parse().map_err(|_| wrong())?;
    match &text[digits..] {
        "us" => Ok(Duration::from_micros(value)),
        "ms" => Ok(Duration::from_millis(value)),
        // More than a year is a mistake.
        "s" if value < 365 * 86_400 => Ok(Duration::from_secs(value)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Settings;

    #[test]
    fn settings_are_read() {
        let text =
            "sim:2:8GiB,latency=20ms,per_item=500us,item_memory=64MiB,load=2s,stall=/tmp/stalled";
        assert_eq!(
            Settings::parse(text),
            Ok(Settings {
                name: "sim:2".to_owned(),
                memory: 8 << 30,
                latency: Duration::from_millis(20),
                per_item: Duration::from_micros(500),
                item_memory: 64 << 20,
                load: Duration::from_secs(2),
                stall: Some("/tmp/stalled".into()),
            })
        );
        assert_eq!(Settings::parse("sim"), Ok(Settings::default()));
    }

    #[test]
    fn a_call_takes_its_latency_and_the_time_of_its_items() {
        let settings = Settings::parse("sim,latency=20ms,per_item=2ms").unwrap();
        assert_eq!(settings.time(0), Duration::from_millis(20));
        assert_eq!(settings.time(10), Duration::from_millis(40));
    }
}
