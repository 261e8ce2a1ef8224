//! Reads what the server's process has used so far, from the kernel and from the server's own metrics.
//!
//! Each value is absent where it cannot be read: another platform, another user's process, a server without
//! this metric.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The unit of times in /proc/PID/stat. Linux presents 100 to user space on every architecture that Rust
/// has a tier-one target for.
const TICKS_PER_S: f64 = 100.0;
const FSYNCS: &str = "tidemill_store_fsyncs_total";

pub(crate) struct Probe {
    pid: Option<u32>,
    metrics_address: Option<String>,
    /// Nanoseconds that each thread ran, as last seen: what one used that has ended still counts.
    threads: Mutex<HashMap<String, u64>>,
}

/// Totals since the process started; `rss_mb` is the value now.
#[derive(Default)]
pub(crate) struct Reading {
    pub(crate) cpu_ms: Option<f64>,
    pub(crate) written_kb: Option<f64>,
    pub(crate) fsyncs: Option<f64>,
    pub(crate) rss_mb: Option<f64>,
}

impl Probe {
    pub(crate) fn new(pid: Option<u32>, metrics_address: Option<String>) -> Self {
        Self {
            pid,
            metrics_address,
            threads: Mutex::default(),
        }
    }

    /// Whether CPU time can be read.
    pub(crate) fn has_cpu(&self) -> bool {
        self.cpu_us().is_some()
    }

    /// CPU time in microseconds, exact where [`Reading::cpu_ms`] is in steps of ten milliseconds. What a
    /// thread uses between the last look and its end is missed.
    pub(crate) fn cpu_us(&self) -> Option<f64> {
        let mut threads = self.threads.lock().ok()?;
        for (thread, text) in self.of_threads("schedstat")? {
            if let Some(ran) = text
                .split_whitespace()
                .next()
                .and_then(|ns| ns.parse().ok())
            {
                threads.insert(thread, ran);
            }
        }
        Some(threads.values().sum::<u64>() as f64 / 1e3)
    }

    /// How often the threads gave up a core or lost it.
    pub(crate) fn switches(&self) -> Option<f64> {
        let all = self.of_threads("status")?.into_iter().map(|(_, text)| {
            let voluntary = field(&text, "voluntary_ctxt_switches:").unwrap_or_default();
            voluntary + field(&text, "nonvoluntary_ctxt_switches:").unwrap_or_default()
        });
        Some(all.sum())
    }

    /// A file of each thread.
    fn of_threads(&self, name: &str) -> Option<Vec<(String, String)>> {
        let folder = std::fs::read_dir(format!("/proc/{}/task", self.pid?)).ok()?;
        let threads = folder.flatten().filter_map(|thread| {
            let text = std::fs::read_to_string(thread.path().join(name)).ok()?;
            Some((thread.file_name().to_string_lossy().into_owned(), text))
        });
        Some(threads.collect())
    }

    pub(crate) async fn read(&self) -> Reading {
        let file = |name: &str| {
            self.pid
                .and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok())
        };
        Reading {
            cpu_ms: file("stat").and_then(|text| cpu_ms(&text)),
            // write_bytes is what the process caused to be sent to storage. The other candidate, wchar,
            // counts every write call, answers on sockets included.
            written_kb: file("io")
                .and_then(|text| field(&text, "write_bytes:"))
                .map(|bytes| bytes / 1024.0),
            fsyncs: match &self.metrics_address {
                Some(address) => metrics(address)
                    .await
                    .and_then(|text| metric_sum(&text, FSYNCS)),
                None => None,
            },
            rss_mb: file("status")
                .and_then(|text| field(&text, "VmRSS:"))
                .map(|kb| kb / 1024.0),
        }
    }
}

/// User and system time from the text of /proc/PID/stat: fields 14 and 15. The second field, the name in
/// parentheses, may hold spaces, so counting starts after it.
fn cpu_ms(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) * 1e3 / TICKS_PER_S)
}

/// The number after `name` in a file of `name: number` lines.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The sum of a counter over its labels, from Prometheus's text format.
fn metric_sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        let value = rest.rsplit_once('}').map_or(rest, |(_, value)| value);
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value)
}

async fn metrics(address: &str) -> Option<String> {
    let get = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(Duration::from_secs(5), get)
        .await
        .ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_survives_odd_process_names() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        assert_eq!(cpu_ms(stat), Some(2000.0));
        assert_eq!(cpu_ms("nonsense"), None);
    }

    #[test]
    fn fields_are_found_by_name() {
        let io = "rchar: 1\nwchar: 2\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n";
        for (name, expected) in [
            ("write_bytes:", Some(4096.0)),
            ("wchar:", Some(2.0)),
            ("missing:", None),
        ] {
            assert_eq!(field(io, name), expected, "{name}");
        }
    }

    #[test]
    fn metrics_are_summed_over_labels() {
        let text = "# TYPE a_total counter\na_total 5\na_total_more 9\nb_total{k=\"x\"} 1\nb_total{k=\"y z\"} 2 1700\n";
        for (name, expected) in [
            ("a_total", Some(5.0)),
            ("b_total", Some(3.0)),
            ("c_total", None),
        ] {
            assert_eq!(metric_sum(text, name), expected, "{name}");
        }
    }
}
