//! `tidemill server start-dev`: takes the flags of Temporal's development server, so that SDK
//! test environments can start this binary in its place (engine contract 14.1).

use std::path::PathBuf;
use std::time::Duration;

use tidemill_server::Config;
use tidemill_server::namespaces::{DEFAULT, Registration};
use tidemill_server::search_attributes::{Custom, type_named};

use super::dynamic_config;
use super::listen::Listen;
use super::run::{self, Data};
use crate::exit::Failure;
use crate::logging;

const RETENTION: Duration = Duration::from_secs(24 * 3600);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Port to serve gRPC on.
    #[arg(long, short, default_value_t = 7233)]
    port: u16,
    /// Address to serve on.
    #[arg(long, default_value = "localhost")]
    ip: String,
    /// Port of the HTTP API. Accepted; there is none yet.
    #[arg(long)]
    http_port: Option<u16>,
    /// Port to serve Prometheus metrics on, at /metrics.
    #[arg(long)]
    metrics_port: Option<u16>,
    /// Namespace to make, beside `default`; repeat for more.
    #[arg(long, short)]
    namespace: Vec<String>,
    /// File to keep everything in; without it everything is gone when the server ends.
    #[arg(long, short = 'f', value_name = "PATH")]
    db_filename: Option<PathBuf>,
    /// Accepted and without effect: how the file is written is not up to its user.
    #[arg(long, value_name = "NAME=VALUE")]
    sqlite_pragma: Vec<String>,
    /// A setting of Temporal's dynamic configuration; unknown keys are without effect.
    #[arg(long, value_name = "KEY=JSON")]
    dynamic_config_value: Vec<String>,
    /// Search attribute of every namespace that is made; repeat for more.
    #[arg(long, value_name = "NAME=TYPE")]
    search_attribute: Vec<String>,
    /// Listen on addresses that other machines can reach, without authentication.
    #[arg(long)]
    allow_remote: bool,
    /// Accepted; there is no UI to start.
    #[arg(long)]
    headless: bool,
    /// Accepted; there is no UI yet.
    #[arg(long)]
    ui_port: Option<u16>,
    #[arg(long, hide = true)]
    ui_ip: Option<String>,
    #[arg(long, hide = true)]
    ui_asset_path: Option<String>,
    #[arg(long, hide = true)]
    ui_codec_endpoint: Option<String>,
    #[arg(long, hide = true)]
    ui_public_path: Option<String>,
    #[arg(long, hide = true)]
    ui_disable_news_fetch: bool,
    #[arg(long, hide = true)]
    log_config: bool,
    /// debug, info, warn, error or never.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: String,
    /// json; anything else is text.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: String,
}

/// Runs the server until it is told to stop.
pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let format = match arguments.log_format.as_str() {
        "json" => logging::Format::Json,
        _ => logging::Format::Text,
    };
    let level = match arguments.log_level.as_str() {
        "never" => "off",
        level => level,
    };
    logging::start(format, level)?;
    run::run(setup(arguments)?)
}

fn setup(arguments: Arguments) -> Result<run::Setup, Failure> {
    let mut config = Config::default();
    dynamic_config::apply(&arguments.dynamic_config_value, &mut config.limits)?;
    let custom_search_attributes = attributes(&arguments.search_attribute)?;
    let mut names = vec![DEFAULT.to_owned()];
    names.extend(
        arguments
            .namespace
            .into_iter()
            .filter(|name| name != DEFAULT),
    );
    config.namespaces = names
        .into_iter()
        .map(|name| Registration {
            name,
            retention: RETENTION,
            custom_search_attributes: custom_search_attributes.clone(),
            ..Default::default()
        })
        .collect();
    let metrics_port = arguments.metrics_port;
    let metrics = metrics_port
        .map(|port| Listen::of(&arguments.ip, port, "--metrics-port"))
        .transpose()?;
    Ok(run::Setup {
        listen: Listen::of(&arguments.ip, arguments.port, "--port")?,
        metrics,
        allow_remote: arguments.allow_remote,
        data: arguments.db_filename.map_or(Data::Memory, Data::File),
        config,
        banner: true,
    })
}

fn attributes(flags: &[String]) -> Result<Custom, Failure> {
    let attribute = |flag: &String| {
        let (name, ty) = flag.split_once('=').unwrap_or((flag, ""));
        let ty = type_named(ty).filter(|_| !name.is_empty()).ok_or_else(|| {
            Failure::usage(format!(
                "--search-attribute {flag}: NAME=TYPE is wanted, with one of the types Text, \
                 Keyword, Int, Double, Bool, Datetime, KeywordList"
            ))
        })?;
        Ok((name.to_owned(), ty))
    };
    flags.iter().map(attribute).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use tidemill_store::AttributeType;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<run::Setup, Failure> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(Failure::usage)?;
        setup(line.arguments)
    }

    /// What SDKs write, word by word.
    #[test]
    fn flags_of_test_environments() {
        for line in [
            "",
            "--port 7300 --namespace default --ip 127.0.0.1 --log-format pretty --log-level warn \
             --dynamic-config-value frontend.enableServerVersionCheck=false --headless",
            "-p 7300 -n a -n b --ip localhost --ui-port 8300 --ui-ip localhost --log-level never",
            "-f x.db --sqlite-pragma journal_mode=wal --http-port 1 --metrics-port 2 --log-config",
            "--ui-asset-path a --ui-codec-endpoint b --ui-public-path c --ui-disable-news-fetch",
            "--search-attribute a=Keyword --search-attribute b=datetime",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
        for line in [
            "--port x",
            "--ip nowhere",
            "--search-attribute a=String",
            "--unknown",
        ] {
            assert_eq!(parse(line).err().map(|f| f.code()), Some(2), "{line}");
        }
    }

    #[test]
    fn namespaces_and_attributes() {
        let setup = parse("-n other -n default --search-attribute a=bool")
            .ok()
            .unwrap();
        let names: Vec<_> = setup
            .config
            .namespaces
            .iter()
            .map(|ns| ns.name.as_str())
            .collect();
        assert_eq!(names, ["default", "other"]);
        for namespace in &setup.config.namespaces {
            assert_eq!(namespace.custom_search_attributes["a"], AttributeType::Bool);
        }
    }
}
