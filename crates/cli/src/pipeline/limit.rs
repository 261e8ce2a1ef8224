//! `tidemill limit`: what all workers share of a provider, and of anything else of which there is not
//! enough.

use clap::Subcommand;
use serde_json::json;
use tidemill_pipeline::duration::show_ms;
use tidemill_pipeline::limit::{Breaker, BreakerState, Config, State};
use tidemill_runtime::limit::client::{Error, Limits};
use tidemill_runtime::worker::Engine;

use super::{Target, now_ms};
use crate::exit::Failure;
use crate::{output, span, table};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a limit, or replace what one allows. What is not named here is not limited.
    Set(Set),
    /// List all limits.
    List(List),
    /// Show a limit: what it allows, what of it is used, and who holds or waits for it.
    Show(Named),
    /// Remove a limit. Stages that name it fail from then on.
    Remove(Named),
}

#[derive(clap::Args)]
struct Set {
    /// What stages call it, as in `limit: NAME`.
    name: String,
    /// Requests that a provider takes in a minute.
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Tokens that a provider takes in a minute, those of answers included.
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// Over how long the provider counts.
    #[arg(long, value_name = "SPAN", default_value = "1m", value_parser = milliseconds)]
    window: u64,
    /// Tasks that run at a time, or the sum of their weights.
    #[arg(long, value_name = "N")]
    concurrent: Option<u32>,
    /// How long a task keeps its slot when its worker is not heard of.
    #[arg(long, value_name = "SPAN", default_value = "1m", value_parser = milliseconds)]
    lease: u64,
    /// Requests in a row that fail before none is sent for a while.
    #[arg(long, value_name = "N")]
    breaker_failures: Option<u32>,
    /// How long none is sent then, before one tries whether it passed. The wait doubles while it did
    /// not [default: 30s]
    #[arg(long, value_name = "SPAN", requires = "breaker_failures", value_parser = milliseconds)]
    breaker_open: Option<u64>,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Args)]
struct Named {
    /// The limit's name.
    name: String,
    #[command(flatten)]
    target: Target,
}

/// How long a breaker is open unless told otherwise.
const OPEN_MS: u64 = 30_000;

fn milliseconds(text: &str) -> Result<u64, String> {
    let span = span::parse(text)?;
    u64::try_from(span.as_millis()).map_err(|error| error.to_string())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(_) => Failure::Invalid(error.to_string()),
            error => Failure::general(error),
        }
    }
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Set(set) => set.run().await,
        Command::List(list) => show_all(&list.target).await,
        Command::Show(Named { name, target }) => {
            let state = connect(&target).await?.state(&name).await?;
            if target.json {
                output::line(json!(state));
            } else {
                output::write(&render(&state));
            }
            Ok(())
        }
        Command::Remove(Named { name, target }) => {
            connect(&target).await?.remove(&name).await?;
            if target.json {
                output::line(json!({"removed": name}));
            } else {
                output::line(format_args!("limit {name} is removed"));
            }
            Ok(())
        }
    }
}

async fn connect(target: &Target) -> Result<Limits, Failure> {
    let engine = Engine {
        address: target.engine.clone(),
        namespace: target.namespace.clone(),
    };
    Ok(Limits::connect(&engine).await?)
}

impl Set {
    async fn run(self) -> Result<(), Failure> {
        let config = Config {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            window_ms: self.window,
            concurrent: self.concurrent,
            lease_ms: self.lease,
            breaker: self.breaker_failures.map(|failures| Breaker {
                failures,
                open_ms: self.breaker_open.unwrap_or(OPEN_MS),
            }),
        };
        let limits = connect(&self.target).await?;
        limits.set(&self.name, &config).await?;
        if self.target.json {
            output::line(json!({"name": self.name, "config": config}));
        } else {
            output::line(format_args!("limit {}: {}", self.name, allows(&config)));
        }
        Ok(())
    }
}

async fn show_all(target: &Target) -> Result<(), Failure> {
    let limits = connect(target).await?;
    let mut states = Vec::new();
    for name in limits.list().await? {
        match limits.state(&name).await {
            Ok(state) => states.push(state),
            // Removed since it was listed.
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if target.json {
        output::line(json!(states));
        return Ok(());
    }
    let row = |state: &State| {
        vec![
            state.name.clone(),
            allows(&state.config),
            breaker(state),
            state.running.len().to_string(),
            state.waiting.len().to_string(),
        ]
    };
    let rows: Vec<_> = states.iter().map(row).collect();
    let header = ["NAME", "ALLOWS", "BREAKER", "RUNNING", "WAITING"];
    output::write(&table::render(&header, &rows));
    Ok(())
}

/// What it allows, in words.
fn allows(config: &Config) -> String {
    let mut parts = Vec::new();
    let per = match config.window_ms {
        60_000 => String::new(),
        window => format!(" (counted over {})", show_ms(window)),
    };
    if let Some(requests) = config.requests_per_minute {
        parts.push(format!("{requests} requests/min{per}"));
    }
    if let Some(tokens) = config.tokens_per_minute {
        parts.push(format!("{tokens} tokens/min{per}"));
    }
    if let Some(concurrent) = config.concurrent {
        let lease = show_ms(config.lease_ms);
        parts.push(format!("{concurrent} at a time, leased for {lease}"));
    }
    if let Some(Breaker { failures, open_ms }) = config.breaker {
        let open = show_ms(open_ms);
        parts.push(format!("{open} of rest after {failures} failures"));
    }
    parts.join(", ")
}

fn breaker(state: &State) -> String {
    let left = |until: i64| show_ms(u64::try_from(until - now_ms()).unwrap_or(0) / 1_000 * 1_000);
    match state.breaker {
        _ if state.config.breaker.is_none() => "-".to_owned(),
        BreakerState::Closed => "closed".to_owned(),
        BreakerState::Open { until_ms } => format!("open for {}", left(until_ms)),
        BreakerState::HalfOpen => "half-open".to_owned(),
    }
}

fn render(state: &State) -> String {
    let config = &state.config;
    let (requests, tokens) = config.cap();
    let window = show_ms(config.window_ms);
    let mut rows = vec![
        vec!["allows".to_owned(), allows(config)],
        vec!["breaker".to_owned(), breaker(state)],
    ];
    let used = |used: u64, held: u64, cap: u64| {
        format!("{used} of {cap} in the last {window}, {held} granted and not sent yet")
    };
    if let Some(cap) = requests {
        let used = used(state.used.requests, state.held.requests, cap);
        rows.push(vec!["requests".to_owned(), used]);
    }
    if let Some(cap) = tokens {
        let used = used(state.used.tokens, state.held.tokens, cap);
        rows.push(vec!["tokens".to_owned(), used]);
    }
    if state.paused_until_ms > now_ms() {
        let left = u64::try_from(state.paused_until_ms - now_ms()).unwrap_or(0);
        let left = format!("the provider wants nothing for {}", show_ms(left));
        rows.push(vec!["paused".to_owned(), left]);
    }
    let totals = &state.totals;
    rows.push(vec![
        "in all".to_owned(),
        format!(
            "{} requests, {} tokens; {} answered, {} refused, {} failed; breaker opened {} times",
            totals.sent.requests,
            totals.sent.tokens,
            totals.answered,
            totals.refused,
            totals.failed,
            totals.opened
        ),
    ]);
    let mut text = table::render(&[&state.name, ""], &rows);
    if !state.running.is_empty() || !state.waiting.is_empty() {
        let all = state.running.iter().map(|slot| ("runs", slot));
        let all = all.chain(state.waiting.iter().map(|slot| ("waits", slot)));
        let rows: Vec<_> = all
            .map(|(what, slot)| {
                vec![
                    what.to_owned(),
                    slot.slot.task.clone(),
                    slot.slot.weight.to_string(),
                    slot.worker.clone(),
                ]
            })
            .collect();
        text.push('\n');
        text += &table::render(&["", "TASK", "WEIGHT", "WORKER"], &rows);
    }
    text
}
