//! The list of the stages that come with Tidemill.

use std::sync::Arc;

use tidemill_pipeline::stage::Catalog;

use crate::documents::{Load, PdfReader};
use crate::{Stage, ai, data, http, shell, simulate, text, vector};

/// What the built-in stages need to know of the process that they run in.
#[derive(Clone, Debug)]
pub struct Settings {
    pub pdf: PdfReader,
}

impl Default for Settings {
    /// Needs nothing of the process; PDFs are read within it.
    fn default() -> Self {
        Self {
            pdf: PdfReader::InProcess,
        }
    }
}

/// The stages that come with Tidemill, with default settings.
pub fn builtin() -> Vec<Arc<dyn Stage>> {
    builtin_with(&Settings::default())
}

/// The stages that come with Tidemill.
pub fn builtin_with(settings: &Settings) -> Vec<Arc<dyn Stage>> {
    vec![
        Arc::new(Load::new(settings.pdf.clone())),
        Arc::new(text::Split::default()),
        Arc::new(ai::EmbedText),
        Arc::new(ai::LlmGenerate),
        Arc::new(ai::Infer::default()),
        Arc::new(vector::Changed),
        Arc::new(vector::Upsert),
        Arc::new(vector::Prune),
        Arc::new(vector::Delete),
        Arc::new(vector::Search),
        Arc::new(http::Request),
        Arc::new(shell::Run),
        Arc::new(data::Set),
        Arc::new(data::Filter),
        Arc::new(simulate::Work),
        Arc::new(simulate::Infer),
    ]
}

/// What pipelines may use, for checking them.
pub fn catalog() -> Catalog {
    builtin()
        .iter()
        .map(|stage| stage.describe())
        .map(|of| (of.name.clone(), of))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_is_described() {
        let catalog = catalog();
        assert_eq!(catalog.len(), builtin().len(), "a name is taken twice");
        for (name, of) in &catalog {
            assert!(of.summary.ends_with('.'), "{name}: {}", of.summary);
            assert_eq!(of.with["type"], "object", "{name}");
            let Some(properties) = of.with["properties"].as_object() else {
                continue;
            };
            assert_eq!(of.with["additionalProperties"], false, "{name}");
            for (property, schema) in properties {
                let described = schema["description"].is_string() || property == "url";
                assert!(described, "{name}: with.{property} has no description");
            }
        }
    }
}
