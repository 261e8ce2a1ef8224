//! A copy of everything, made while the engine serves.
//!
//! The engine sends the copy and the file is written here, where the command runs: an engine that
//! others can reach does not write files at places that its callers choose.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill_pipeline::size;
use tidemill_proto::client;
use tidemill_proto::maintenance::BackupRequest;
use tidemill_store::sqlite::ReadOnly;
use tidemill_store::{Examination, Store};

use super::Target;
use crate::exit::Failure;
use crate::output;

/// The copy is complete on the engine's side before the first byte comes.
const TIMEOUT: Duration = Duration::from_secs(24 * 3600);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// File to write; there must be none.
    file: PathBuf,
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { file, target } = arguments;
    let address = target.address();
    let mut name = file.as_os_str().to_owned();
    name.push(".partial");
    let partial = PathBuf::from(name);
    if file.exists() {
        return Err(taken(&file));
    }
    let written = super::block_on(fetch(&address, &partial)).and_then(|()| finish(&partial, &file));
    // Whatever went wrong, half a backup must not be taken for one.
    if written.is_err() && partial.exists() {
        let _ = fs::remove_file(&partial);
    }
    let found = written?;
    output::line(format_args!(
        "{} from {address} in {}: {} open and {} closed runs, no damage",
        size::up(found.bytes.max(0) as u64),
        file.display(),
        found.runs_open,
        found.runs_closed
    ));
    Ok(())
}

fn taken(file: &Path) -> Failure {
    Failure::DataUnusable(format!(
        "{} is there already: backups are not overwritten, choose another name",
        file.display()
    ))
}

fn unwritten(file: &Path) -> impl Fn(std::io::Error) -> Failure {
    move |fault| Failure::DataUnusable(format!("cannot write {}: {fault}", file.display()))
}

async fn fetch(address: &str, partial: &Path) -> Result<(), Failure> {
    let mut out = File::create(partial).map_err(unwritten(partial))?;
    let mut client = super::connect(address).await?;
    let refused = |status| super::refused(address, status);
    let answer = client.backup(client::request(BackupRequest {}, TIMEOUT));
    let mut chunks = answer.await.map_err(refused)?.into_inner();
    let (mut written, mut total) = (0, 0);
    while let Some(chunk) = chunks.message().await.map_err(refused)? {
        out.write_all(&chunk.data).map_err(unwritten(partial))?;
        written += chunk.data.len() as i64;
        total = chunk.total_bytes;
    }
    if written != total || total == 0 {
        return Err(Failure::general(format!(
            "the engine at {address} sent {written} of {total} bytes: try again"
        )));
    }
    out.sync_all().map_err(unwritten(partial))
}

/// Looks at the copy before it gets its name.
fn finish(partial: &Path, file: &Path) -> Result<Examination, Failure> {
    let found = ReadOnly::open(partial)?.examine(true)?;
    if let Some(damage) = found.damage.first() {
        return Err(Failure::DataUnusable(format!(
            "the copy is damaged ({damage}): it was not kept. Look at the engine with `tidemill \
             engine doctor`"
        )));
    }
    // Unlike a rename, a link never replaces what came in between.
    fs::hard_link(partial, file).map_err(|fault| match fault.kind() {
        std::io::ErrorKind::AlreadyExists => taken(file),
        _ => unwritten(file)(fault),
    })?;
    fs::remove_file(partial).map_err(unwritten(partial))?;
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(unwritten(file))?;
    Ok(found)
}
