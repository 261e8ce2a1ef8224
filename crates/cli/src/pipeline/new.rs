//! `tidemill new`: a pipeline to begin with.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::exit::Failure;
use crate::output;

#[derive(clap::Args)]
pub(crate) struct New {
    /// What kind of pipeline.
    template: Template,
    /// The folder to make; by default it has the template's name.
    folder: Option<PathBuf>,
}

/// The examples, which CI runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Template {
    /// Documents into a vector index that can be searched; incremental.
    SemanticSearch,
    /// A question answered from an index, with its sources.
    RagAnswer,
    /// One call for each item of a list, failures apart.
    BatchInference,
    /// Work that waits for a person.
    HumanReview,
}

impl Template {
    fn files(self) -> &'static [(&'static str, &'static str)] {
        macro_rules! files {
            ($($name:literal from $path:literal),+ $(,)?) => {
                &[$(($name, include_str!(concat!("../../../../examples/", $path)))),+]
            };
        }
        match self {
            Template::SemanticSearch => files![
                "pipeline.yaml" from "semantic-search/pipeline.yaml",
                "README.md" from "semantic-search/README.md",
                "docs/tide-mills.md" from "semantic-search/docs/tide-mills.md",
            ],
            Template::RagAnswer => files![
                "pipeline.yaml" from "rag-answer/pipeline.yaml",
                "README.md" from "rag-answer/README.md",
            ],
            Template::BatchInference => files![
                "pipeline.yaml" from "fan-out/pipeline.yaml",
                "README.md" from "fan-out/README.md",
            ],
            Template::HumanReview => files![
                "pipeline.yaml" from "human-review/pipeline.yaml",
                "README.md" from "human-review/README.md",
            ],
        }
    }
}

pub(crate) fn run(arguments: New) -> Result<(), Failure> {
    let name = arguments.template.to_possible_value();
    let name = name.as_ref().map_or("pipeline", |value| value.get_name());
    let folder = arguments.folder.unwrap_or_else(|| PathBuf::from(name));
    let failed = |what: &std::path::Path, error| {
        Failure::general(format!("cannot write {}: {error}", what.display()))
    };
    for (file, text) in arguments.template.files() {
        let path = folder.join(file);
        if path.exists() {
            return Err(Failure::general(format!(
                "{} is there already and was left as it is: name another folder",
                path.display()
            )));
        }
        let parent = path.parent().unwrap_or(&folder);
        std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        std::fs::write(&path, text).map_err(|error| failed(&path, error))?;
        output::line(path.display());
    }
    output::line(format_args!(
        "\nNext: {} says how to run it.",
        folder.join("README.md").display()
    ));
    Ok(())
}
