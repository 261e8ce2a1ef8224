//! What is wrong with an engine or its data file, for people and for scripts.

use std::path::PathBuf;
use std::time::Duration;

use tidemill_pipeline::size;
use tidemill_proto::client;
use tidemill_proto::maintenance::{Examination, ExamineRequest, Queue, Size};
use tidemill_server::examine::examine;
use tidemill_store::sqlite::ReadOnly;

use super::Target;
use crate::exit::Failure;
use crate::pipeline::queues::list::kind;
use crate::pipeline::span;
use crate::workflow::json;
use crate::{output, table};

/// Reading all of a large file takes its time.
const TIMEOUT: Duration = Duration::from_secs(3600);
const TABLES_SHOWN: usize = 8;
const QUEUES_SHOWN: usize = 20;
const DAMAGE_SHOWN: usize = 50;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Data file of an engine that does not run; it is only read. Without it, a running engine is asked.
    #[arg(conflicts_with = "address")]
    file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Leave out what reads all of the data: the check of its integrity and the sizes of tables.
    #[arg(long)]
    quick: bool,
    /// How many runs that cannot go on are named.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Print JSON for programs instead of text for people.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let request = ExamineRequest {
        quick: arguments.quick,
        runs_max: arguments.runs,
    };
    let found = match &arguments.file {
        Some(file) => examine(&*ReadOnly::open(file)?, &request, None)?,
        None => {
            let address = arguments.target.address();
            super::block_on(async {
                let mut client = super::connect(&address).await?;
                let answer = client.examine(client::request(request, TIMEOUT)).await;
                let answer = answer.map_err(|status| super::refused(&address, status))?;
                Ok(answer.into_inner())
            })?
        }
    };
    if arguments.json {
        json::print(&json::plain("Examination", &found)?);
    } else {
        output::write(&text(&found));
    }
    verdict(&found)
}

/// Scripts read the exit code; what it rests on has been printed.
fn verdict(found: &Examination) -> Result<(), Failure> {
    if !found.damage.is_empty() {
        return Err(Failure::DataUnusable(format!(
            "{} is damaged: stop the engine, keep a copy of the file, and restore a backup",
            found.data
        )));
    }
    let unattended = found.queues.iter().filter(|queue| queue.unattended).count();
    let mut findings = Vec::new();
    if found.runs_stuck > 0 {
        findings.push(format!("{} runs that cannot go on", found.runs_stuck));
    }
    if unattended > 0 {
        findings.push(format!("{unattended} queues that nobody polls"));
    }
    if found.overdue > 0 {
        findings.push(format!("{} wake-ups that are late", found.overdue));
    }
    match findings.is_empty() {
        true => Ok(()),
        false => Err(Failure::General(findings.join(", "))),
    }
}

fn text(found: &Examination) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| out += &format!("{name:<13}{value}\n");
    line("Data", found.data.clone());
    line(
        "Size",
        format!(
            "{}, of which {} is free; format {}, pages of {}",
            bytes(found.bytes),
            bytes(found.free_bytes),
            found.format,
            bytes(found.page_bytes)
        ),
    );
    for file in &found.beside {
        line("Beside it", format!("{}, {}", file.name, bytes(file.bytes)));
    }
    if found.unapplied > 0 {
        let groups = found.unapplied;
        line(
            "Not closed",
            format!(
                "{groups} groups of commits are in the log only and not looked at further: start and stop the engine to have them in the file"
            ),
        );
    }
    line(
        "Integrity",
        match (found.damage.len(), found.complete) {
            (0, true) => "every page and record was looked at: no damage".to_owned(),
            (0, false) => "not checked, because of --quick".to_owned(),
            (_, _) => "DAMAGED, see below".to_owned(),
        },
    );
    if !found.checksums && found.data != "memory" {
        line(
            "No checksums",
            "a changed byte within a value is not found: an earlier version made the file. A backup of it, restored, has checksums".to_owned(),
        );
    }
    line(
        "Runs",
        format!(
            "{} open, of which {} wait for a signal, an update or a cancel request only; {} closed",
            found.runs_open, found.runs_waiting_outside, found.runs_closed
        ),
    );
    if found.effects > 0 {
        let effects = found.effects;
        line(
            "Effects",
            format!("{effects} on other runs are not acknowledged"),
        );
    }
    if found.overdue > 0 {
        line(
            "Overdue",
            format!(
                "{} wake-ups are late, the oldest by {}",
                found.overdue,
                span(found.overdue_ms)
            ),
        );
    }
    if let Some(oldest) = found.queues.first() {
        let age = match oldest.backlog_age_ms {
            0 => String::new(),
            ms => format!(", {} old", span(ms)),
        };
        line("Oldest task", format!("in {}{age}", oldest.name));
    }
    out += &tables(&found.tables);
    out += &queues(&found.queues);
    for damage in found.damage.iter().take(DAMAGE_SHOWN) {
        out += &format!("\n! {damage}");
    }
    out += &more(found.damage.len(), DAMAGE_SHOWN, "findings");
    for run in &found.stuck {
        out += &format!(
            "\n! {} {} ({}) in {} cannot go on:\n",
            run.workflow_id, run.run_id, run.workflow_type, run.namespace
        );
        for reason in &run.reasons {
            out += &format!("    {reason}\n");
        }
    }
    out += &more(found.runs_stuck as usize, found.stuck.len(), "runs");
    out
}

fn more(all: usize, shown: usize, what: &str) -> String {
    match all.saturating_sub(shown) {
        0 if all > 0 => "\n".to_owned(),
        0 => String::new(),
        more => format!("\n  and {more} more {what}\n"),
    }
}

fn tables(tables: &[Size]) -> String {
    if tables.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = tables
        .iter()
        .take(TABLES_SHOWN)
        .map(|table| vec![table.name.clone(), bytes(table.bytes)])
        .collect();
    format!("\n{}", table::render(&["TABLE OR INDEX", "SIZE"], &rows))
}

fn queues(queues: &[Queue]) -> String {
    if queues.is_empty() {
        return String::new();
    }
    // Those that need somebody come first.
    let (unattended, others): (Vec<_>, Vec<_>) = queues.iter().partition(|queue| queue.unattended);
    let rows: Vec<_> = unattended
        .iter()
        .chain(&others)
        .take(QUEUES_SHOWN)
        .map(|queue| {
            vec![
                queue.name.clone(),
                queue.namespace.clone(),
                kind(queue.kind()).to_owned(),
                queue.backlog.to_string(),
                match queue.backlog_age_ms {
                    0 => "-".to_owned(),
                    ms => span(ms),
                },
                match queue.unattended {
                    true => "nobody polls it".to_owned(),
                    false => String::new(),
                },
            ]
        })
        .collect();
    let header = ["QUEUE", "NAMESPACE", "KIND", "WAITING", "OLDEST", ""];
    format!("\n{}", table::render(&header, &rows)) + &more(queues.len(), rows.len(), "queues")
}

fn bytes(bytes: i64) -> String {
    size::up(bytes.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use tidemill_proto::maintenance::{StuckRun, TaskKind};

    use super::*;

    fn found() -> Examination {
        Examination {
            data: "a.db".into(),
            format: 4,
            checksums: true,
            page_bytes: 4096,
            bytes: 1 << 20,
            complete: true,
            runs_open: 2,
            runs_closed: 7,
            ..Default::default()
        }
    }

    #[test]
    fn a_file_without_checksums_says_how_to_have_them() {
        let older = Examination {
            checksums: false,
            ..found()
        };
        assert!(text(&older).contains("\nNo checksums a changed byte"));
    }

    #[test]
    fn a_healthy_file_is_a_few_lines() {
        assert_eq!(
            text(&found()),
            "\
Data         a.db
Size         1 MiB, of which 0 B is free; format 4, pages of 4 KiB
Integrity    every page and record was looked at: no damage
Runs         2 open, of which 0 wait for a signal, an update or a cancel request only; 7 closed
"
        );
        assert!(verdict(&found()).is_ok());
    }

    #[test]
    fn what_is_wrong_comes_last_and_sets_the_exit_code() {
        let queue = |name: &str, unattended| Queue {
            name: name.into(),
            namespace: "default".into(),
            kind: TaskKind::Activity.into(),
            backlog: 3,
            backlog_age_ms: 90_000,
            unattended,
            ..Default::default()
        };
        let mut found = found();
        found.queues = vec![queue("served", false), queue("forgotten", true)];
        assert_eq!(verdict(&found).unwrap_err().code(), 1);
        found.runs_stuck = 2;
        found.stuck.push(StuckRun {
            namespace: "default".into(),
            workflow_id: "w".into(),
            run_id: "r".into(),
            workflow_type: "T".into(),
            reasons: vec!["because".into()],
        });
        let seen = text(&found);
        assert!(
            seen.contains("Oldest task  in served, 1m30s old\n"),
            "{seen}"
        );
        assert!(
            seen.find("forgotten").unwrap() < seen.rfind("served").unwrap(),
            "{seen}"
        );
        assert!(
            seen.ends_with(
                "\n! w r (T) in default cannot go on:\n    because\n\n  and 1 more runs\n"
            ),
            "{seen}"
        );
        found.damage.push("history: page 7: x".into());
        assert!(text(&found).contains("\n! history: page 7: x\n"));
        assert_eq!(verdict(&found).unwrap_err().code(), 4);
    }
}
