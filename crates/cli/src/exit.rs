//! How the binary ends. The codes are part of its interface: scripts and supervisors read them.

use std::net::SocketAddr;

use tidemill_store as store;

/// The codes, for `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  success
  1  failure
  2  wrong usage
  3  an address to listen on is in use
  4  the data folder or file cannot be used
  5  the data file is in use by another process
  6  the data file was written by a newer version
  7  the pipeline or its inputs are not valid
  8  the run failed or was cancelled";

/// Why the binary ends without success: what happened, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    General(String),
    #[error("{0}")]
    Usage(String),
    #[error(
        "cannot listen on {address}: the address is in use. Stop what listens there, or choose \
         another with {flag}."
    )]
    AddressInUse {
        address: SocketAddr,
        flag: &'static str,
    },
    #[error("{0}")]
    DataUnusable(String),
    #[error("{0}")]
    DataLocked(String),
    #[error("{0}")]
    DataNewer(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    RunFailed(String),
}

impl Failure {
    /// A failure without a code of its own.
    pub(crate) fn general(what: impl std::fmt::Display) -> Self {
        Self::General(what.to_string())
    }

    pub(crate) fn usage(what: impl std::fmt::Display) -> Self {
        Self::Usage(what.to_string())
    }

    /// The process's exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::General(_) => 1,
            Failure::Usage(_) => 2,
            Failure::AddressInUse { .. } => 3,
            Failure::DataUnusable(_) => 4,
            Failure::DataLocked(_) => 5,
            Failure::DataNewer(_) => 6,
            Failure::Invalid(_) => 7,
            Failure::RunFailed(_) => 8,
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        use store::Error;
        let text = error.to_string();
        match error {
            Error::Locked { .. } => Failure::DataLocked(text),
            Error::NewerFormat { .. } => Failure::DataNewer(text),
            Error::NotADataFile { .. } | Error::Unusable { .. } | Error::Corrupt(_) => {
                Failure::DataUnusable(text)
            }
            _ => Failure::General(text),
        }
    }
}

impl From<tidemill_engine::Error> for Failure {
    fn from(error: tidemill_engine::Error) -> Self {
        match error {
            tidemill_engine::Error::DataLoss(_) => Failure::DataUnusable(error.to_string()),
            _ => Failure::general(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_errors_have_codes() {
        let path = || "x".to_owned();
        for (error, code) in [
            (store::Error::Locked { path: path() }, 5),
            (
                store::Error::NewerFormat {
                    found: 9,
                    supported: 1,
                },
                6,
            ),
            (
                store::Error::NotADataFile {
                    path: path(),
                    reason: path(),
                },
                4,
            ),
            (
                store::Error::Unusable {
                    path: path(),
                    reason: path(),
                },
                4,
            ),
            (store::Error::Corrupt(path()), 4),
            (store::Error::Io(path()), 1),
        ] {
            let failure = Failure::from(error);
            assert_eq!(failure.code(), code, "{failure}");
        }
    }

    #[test]
    fn the_help_lists_every_code() {
        for code in 0..=8 {
            assert!(HELP.contains(&format!("\n  {code}  ")), "{code}");
        }
    }
}
