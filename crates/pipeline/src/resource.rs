//! Resource classes and the task queues that belong to them.

use sha2::{Digest, Sha256};

/// The class that runs what needs no device, and the interpreter's own tasks.
pub const CPU: &str = "cpu";

/// Characters of a model's name that its queue shows.
const SHOWN: usize = 80;

/// The task queue of the workers of `class` that have `model` loaded: `accelerator/minilm`.
///
/// A name with characters that others might take for a part of the queue's form, and one that is
/// long, is shown as far as it can be and told apart by a hash: `/srv/minilm` has the queue
/// `accelerator/-srv-minilm-` and 16 digits.
pub fn model_queue(class: &str, model: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    let length = model.chars().count();
    if !model.is_empty() && length <= SHOWN && model.chars().all(plain) {
        return format!("{class}/{model}");
    }
    // The end of a path tells more than its beginning.
    let shown: String = model
        .chars()
        .skip(length.saturating_sub(SHOWN))
        .map(|c| if plain(c) { c } else { '-' })
        .collect();
    let hash: String = Sha256::digest(model)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{class}/{shown}-{hash}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::model_queue;

    #[test]
    fn a_plain_name_is_shown_as_it_is() {
        for (model, queue) in [
            ("all-MiniLM-L6-v2", "accelerator/all-MiniLM-L6-v2"),
            ("llama_3.1:8b@3f2a", "accelerator/llama_3.1:8b@3f2a"),
        ] {
            assert_eq!(model_queue("accelerator", model), queue);
        }
    }

    #[test]
    fn other_names_are_short_harmless_and_apart() {
        let long = "x".repeat(5_000);
        let longer = format!("y{long}");
        let models = [
            "/srv/models/minilm",
            "-srv-models-minilm",
            "srv/models/minilm",
            "models\\minilm",
            "Müller's \u{1f30a} {{ model }}\n",
            "",
            &long,
            &longer,
        ];
        let queues: Vec<String> = models.iter().map(|m| model_queue("gpu", m)).collect();
        for queue in &queues {
            let name = queue.strip_prefix("gpu/").unwrap();
            assert!(queue.len() <= 120, "{queue}");
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c)),
                "{queue}"
            );
        }
        assert_eq!(queues.iter().collect::<BTreeSet<_>>().len(), models.len());
        // Interpreters and workers of different builds have to agree.
        assert_eq!(queues[0], "gpu/-srv-models-minilm-25aa6962f87f7e19");
    }
}
