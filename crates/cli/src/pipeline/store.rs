//! The artifact store, for the commands that look into it themselves.

use std::path::{Path, PathBuf};

use tidemill_connect::artifacts::Artifacts;

use crate::exit::Failure;

#[derive(clap::Args)]
pub(super) struct Store {
    /// The data folder of the workers, in which artifacts are unless --artifacts says otherwise.
    #[arg(
        long,
        value_name = "PATH",
        default_value = ".tidemill",
        env = "TIDEMILL_DATA"
    )]
    data: PathBuf,
    /// The artifact store of the workers: a folder or a URL.
    #[arg(long, value_name = "URL", env = "TIDEMILL_ARTIFACTS")]
    artifacts: Option<String>,
}

impl Store {
    pub(super) fn name(&self) -> String {
        match &self.artifacts {
            Some(url) => url.clone(),
            None => self.data.join("artifacts").display().to_string(),
        }
    }

    pub(super) fn open(&self) -> Result<Artifacts, Failure> {
        let name = self.name();
        // Opening a folder makes it, which here would hide a mistyped path.
        if !name.contains(':') && !Path::new(&name).is_dir() {
            return Err(Failure::DataUnusable(format!(
                "there is no artifact store at {name}: name it with --data or --artifacts"
            )));
        }
        Artifacts::open(&name).map_err(Failure::general)
    }
}
