//! A worker with a stage of its own: `words.count`.

use std::process::ExitCode;

use schemars::JsonSchema;
use serde::Deserialize;
use tidemill_worker::prelude::*;

/// Counts the words of one document.
struct Count;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct With {
    /// Words with fewer letters do not count.
    #[serde(default)]
    shortest: usize,
}

#[async_trait]
impl Stage for Count {
    fn describe(&self) -> StageType {
        StageType {
            input: Type::record("document"),
            output: Type::Object,
            // A task queue: nobody else serves it.
            resource: "words".to_owned(),
            with: params::schema::<With>(),
            pure: true,
            ..StageType::new("words.count", Kind::Call, "Counts the words of a document.")
        }
    }

    async fn call(&self, input: Value, with: Value, _: &Context) -> Result<Value, Error> {
        let with: With = params::parse("words.count", with)?;
        let text = input["text"].as_str().unwrap_or_default();
        let letters = |word: &str| word.chars().filter(|c| c.is_alphabetic()).count();
        let counts = |word: &&str| letters(word) >= with.shortest.max(1);
        let words = text.split_whitespace().filter(counts).count();
        if words == 0 {
            // Trying again would not help, and the other documents go on.
            return Err(Error::invalid(format!("{} has no words", input["uri"])));
        }
        Ok(json!({ "uri": input["uri"], "words": words }))
    }
}

fn main() -> ExitCode {
    Program::new("words", env!("CARGO_PKG_VERSION"))
        .stage(Count)
        .main()
}
