//! The stage `shell.run`.

use std::collections::BTreeMap;
use std::process::Stdio;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_device::Nvidia;
use tidemill_pipeline::stage::{Kind, StageType, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::group::Group;
use crate::params::{self, Secret, Span};
use crate::{Context, Error, Stage};

const NAME: &str = "shell.run";

/// Bytes at the end of stderr that an error shows.
const SHOWN_BYTES: usize = 2_000;

/// Runs a command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// A list is a program and its arguments; a string is run by `sh -c`. Put no values from
    /// outside into a string: pass them in `env`, on stdin or as elements of a list.
    command: CommandLine,
    /// What the command reads: a string as it is, anything else as JSON. The input by default.
    stdin: Option<Value>,
    /// Added to the worker's environment; `{env: NAME}` takes a value from there.
    #[serde(default)]
    env: BTreeMap<String, Secret>,
    /// The folder to run in; the worker's own by default.
    cwd: Option<String>,
    /// How long it may take, such as `10m`; without it the stage's own time limit holds.
    timeout: Option<Span>,
    /// Exit codes besides 0 that are no failure.
    #[serde(default)]
    allow: Vec<i32>,
    /// Most bytes of stdout, and of stderr; 1 MiB by default.
    #[serde(default = "max_bytes")]
    #[schemars(range(min = 1))]
    max_bytes: usize,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a command line, or a list of a program and its arguments"
)]
enum CommandLine {
    Shell(String),
    Program(Vec<Word>),
}

/// An argument: templates give numbers too.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Word {
    Text(String),
    Number(serde_json::Number),
    Boolean(bool),
}

impl Word {
    fn text(&self) -> String {
        match self {
            Word::Text(text) => text.clone(),
            Word::Number(number) => number.to_string(),
            Word::Boolean(boolean) => boolean.to_string(),
        }
    }
}

fn max_bytes() -> usize {
    1024 * 1024
}

#[async_trait]
impl Stage for Run {
    fn describe(&self) -> StageType {
        StageType {
            name: NAME.to_owned(),
            summary: "Runs a command; gives its exit code and output, parsed if it is JSON."
                .to_owned(),
            kind: Kind::Call,
            input: Type::Any,
            output: Type::Object,
            resource: "cpu".to_owned(),
            with: params::schema::<With>(),
            pure: false,
            batched: None,
        }
    }

    async fn call(&self, input: Value, with: Value, cx: &Context) -> Result<Value, Error> {
        let with: With = params::parse(NAME, with)?;
        let mut command = command(&with, cx)?;
        let mut group = Group::spawn(&mut command).map_err(|e| cannot_start(&with, &e))?;
        let stdin = match with.stdin.as_ref().unwrap_or(&input) {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            value => value.to_string().into_bytes(),
        };
        let ended = tokio::select! {
            ended = run(&mut group, stdin, &with, cx) => ended,
            () = cx.cancelled.cancelled() => Err(Error::cancelled()),
            () = expired(with.timeout) => {
                let limit = with.timeout.map_or(0.0, |span| span.0.as_secs_f64());
                Err(Error::failed(format!("{NAME}: the command took longer than {limit} s")))
            }
        };
        match ended {
            Ok(ended) => ended.output(&with),
            Err(e) => {
                group.end().await;
                Err(e)
            }
        }
    }
}

fn command(with: &With, cx: &Context) -> Result<Command, Error> {
    let mut command = match &with.command {
        CommandLine::Shell(line) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(line);
            shell
        }
        CommandLine::Program(words) => {
            let (program, args) = words
                .split_first()
                .ok_or_else(|| params::wrong(NAME, "command", "the list is empty"))?;
            let mut command = Command::new(program.text());
            command.args(args.iter().map(Word::text));
            command
        }
    };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("TIDEMILL_RUN", &cx.run.id)
        .env("TIDEMILL_PIPELINE", &cx.run.pipeline)
        .env("TIDEMILL_STAGE", &cx.stage);
    if !cx.devices.is_empty() {
        let names = cx.devices.iter().map(|device| device.name());
        command.env("TIDEMILL_DEVICES", names.collect::<Vec<_>>().join(","));
        // CUDA numbers devices otherwise than the driver does.
        let nvidia = cx
            .devices
            .iter()
            .map(|device| device.as_any().downcast_ref::<Nvidia>());
        let uuids = nvidia.map(|device| Some(device?.uuid().to_owned()));
        if let Some(uuids) = uuids.collect::<Option<Vec<_>>>() {
            command.env("CUDA_VISIBLE_DEVICES", uuids.join(","));
        }
    }
    for (name, value) in &with.env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(params::wrong(NAME, "env", format!("`{name}` is no name")));
        }
        let field = format!("env.{name}");
        let value = value
            .get()
            .map_err(|why| params::wrong(NAME, &field, why))?;
        command.env(name, value);
    }
    if let Some(cwd) = &with.cwd {
        if !std::path::Path::new(cwd).is_dir() {
            return Err(params::wrong(
                NAME,
                "cwd",
                format!("there is no folder {cwd}"),
            ));
        }
        command.current_dir(cwd);
    }
    Ok(command)
}

fn cannot_start(with: &With, e: &std::io::Error) -> Error {
    let program = match &with.command {
        CommandLine::Shell(_) => "sh".to_owned(),
        CommandLine::Program(words) => words.first().map(Word::text).unwrap_or_default(),
    };
    let message = format!("{NAME}: with.command: cannot start `{program}`: {e}");
    match e.kind() {
        std::io::ErrorKind::NotFound
        | std::io::ErrorKind::PermissionDenied
        | std::io::ErrorKind::InvalidInput => Error::invalid(message),
        // No process or no memory left, for now.
        _ => Error::unavailable(message),
    }
}

async fn expired(timeout: Option<Span>) {
    match timeout {
        Some(span) => tokio::time::sleep(span.0).await,
        None => std::future::pending().await,
    }
}

/// What a command left.
struct Ended {
    /// `None` when a signal ended it.
    code: Option<i32>,
    status: String,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

async fn run(group: &mut Group, stdin: Vec<u8>, with: &With, cx: &Context) -> Result<Ended, Error> {
    let pipe = group.child.stdin.take();
    let stdout = group.child.stdout.take();
    let stderr = group.child.stderr.take();
    let write = async {
        if let Some(mut pipe) = pipe {
            // A command need not read what it is given.
            let _ = pipe.write_all(&stdin).await;
            let _ = pipe.shutdown().await;
        }
        Ok(())
    };
    let wait = async {
        let lost = |e| Error::failed(format!("{NAME}: the command was lost: {e}"));
        group.wait().await.map_err(lost)
    };
    let (status, (), stdout, stderr) = tokio::try_join!(
        wait,
        write,
        read(stdout, "stdout", with.max_bytes, None),
        read(stderr, "stderr", with.max_bytes, Some(cx)),
    )?;
    Ok(Ended {
        code: status.code(),
        status: status.to_string(),
        stdout,
        stderr,
    })
}

/// Reads a pipe to its end. With `progress`, its last line is shown while it comes.
async fn read(
    pipe: Option<impl AsyncRead + Unpin>,
    name: &str,
    max_bytes: usize,
    progress: Option<&Context>,
) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let Some(mut pipe) = pipe else {
        return Ok(bytes);
    };
    loop {
        let read = pipe
            .read_buf(&mut bytes)
            .await
            .map_err(|e| Error::failed(format!("{NAME}: {name} cannot be read: {e}")))?;
        if read == 0 {
            return Ok(bytes);
        }
        if bytes.len() > max_bytes {
            return Err(Error::invalid(format!(
                "{NAME}: {name} is larger than max_bytes, {max_bytes}"
            )));
        }
        if let Some(cx) = progress {
            let text = String::from_utf8_lossy(&bytes[bytes.len() - read..]);
            if let Some(line) = text.lines().rfind(|line| !line.trim().is_empty()) {
                (cx.progress)(line.trim().to_owned());
            }
        }
    }
}

impl Ended {
    fn output(self, with: &With) -> Result<Value, Error> {
        let stderr = String::from_utf8_lossy(&self.stderr);
        let code = match self.code {
            Some(code) if code == 0 || with.allow.contains(&code) => code,
            _ => {
                let from = stderr.len().saturating_sub(SHOWN_BYTES);
                let from = (from..)
                    .find(|&at| stderr.is_char_boundary(at))
                    .unwrap_or(0);
                let said = stderr[from..].trim();
                let colon = if said.is_empty() { "" } else { ": " };
                let status = &self.status;
                return Err(Error::failed(format!(
                    "{NAME}: the command ended with {status}{colon}{said}"
                )));
            }
        };
        let stdout = String::from_utf8_lossy(&self.stdout);
        let mut output = json!({"code": code, "stdout": stdout, "stderr": stderr});
        if let Ok(value) = serde_json::from_str::<Value>(stdout.trim()) {
            output["json"] = value;
        }
        Ok(output)
    }
}
