//! What the words of a refusal say about its cause. Statuses alone do not tell a text that is too
//! long from a device that is full; the words below are those of servers that are in use.

use super::ErrorKind;

/// Codes and words for an input that the model's window does not hold, in lower case.
const TOO_LONG: &[&str] = &[
    // OpenAI, vLLM: "This model's maximum context length is 4096 tokens."
    "context_length_exceeded",
    "context length",
    // llama.cpp: "the request exceeds the available context size".
    "context size",
    "context window",
    // Text generation inference: "`inputs` must have less than 1024 tokens",
    // "`inputs` tokens + `max_new_tokens` must be <= 2048".
    "must have less than",
    "`max_new_tokens` must be <=",
    "maximum sequence length",
    "max_model_len",
    "too many tokens",
    "prompt is too long",
    "input is too long",
    "context too long",
    "longer than the maximum",
    "string_above_max_length",
];

/// For a request of too many items at once.
const TOO_MANY: &[&str] = &[
    // Text embeddings inference: "batch size 64 > maximum allowed batch size 32".
    "maximum allowed batch size",
    // Triton: "inference request batch-size must be <= 8".
    "batch-size must be",
    "batch size must be",
    "max_batch_size",
    // gRPC: "Received message larger than max (… vs. …)".
    "message larger than max",
    "message length too large",
    "payload too large",
];

/// For a device or a host that has no memory left.
const OUT_OF_MEMORY: &[&str] = &[
    // "CUDA out of memory. Tried to allocate 2.00 GiB", "CUDA error: out of memory".
    "out of memory",
    "outofmemory",
    "cuda_error_out_of_memory",
    "cudaerrormemoryallocation",
    "cublas_status_alloc_failed",
    // "OOM when allocating tensor with shape[…]".
    "oom when allocating",
    "failed to allocate memory",
    "bad_alloc",
    "not enough memory",
    "insufficient memory",
];

/// The kind that `words` tell, if they tell more than the status did. `words` are the server's
/// message and its code.
pub(super) fn kind(words: &str) -> Option<ErrorKind> {
    let words = words.to_lowercase();
    let says = |list: &[&str]| list.iter().any(|word| words.contains(word));
    if says(OUT_OF_MEMORY) {
        Some(ErrorKind::OutOfMemory)
    } else if says(TOO_LONG) {
        Some(ErrorKind::TooLong)
    } else if says(TOO_MANY) {
        Some(ErrorKind::BatchTooLarge)
    } else {
        None
    }
}

/// Whether this is a page for people and no answer of an API.
pub(super) fn is_html(content_type: &str, body: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&body[..body.len().min(200)]).to_lowercase();
    let start = start.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    content_type.to_lowercase().starts_with("text/html")
        || start.starts_with("<!doctype html")
        || start.starts_with("<html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_servers_are_known() {
        use ErrorKind::{BatchTooLarge, OutOfMemory, TooLong};
        let rows = [
            (
                "This model's maximum context length is 4096 tokens. However, you requested 5000",
                Some(TooLong),
            ),
            ("context_length_exceeded", Some(TooLong)),
            (
                "Input validation error: `inputs` must have less than 1024 tokens. Given: 1500",
                Some(TooLong),
            ),
            (
                "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2000 and 100",
                Some(TooLong),
            ),
            (
                "the request exceeds the available context size, try increasing it",
                Some(TooLong),
            ),
            (
                "CUDA out of memory. Tried to allocate 2.00 GiB",
                Some(OutOfMemory),
            ),
            ("torch.OutOfMemoryError: …", Some(OutOfMemory)),
            (
                "OOM when allocating tensor with shape[64,1024]",
                Some(OutOfMemory),
            ),
            (
                "batch size 64 > maximum allowed batch size 32",
                Some(BatchTooLarge),
            ),
            (
                "inference request batch-size must be <= 8 for 'm'",
                Some(BatchTooLarge),
            ),
            (
                "Received message larger than max (5000000 vs. 4194304)",
                Some(BatchTooLarge),
            ),
            ("temperature must be at most 2", None),
            ("", None),
        ];
        for (words, expected) in rows {
            assert_eq!(kind(words), expected, "{words}");
        }
    }

    #[test]
    fn pages_are_told_from_answers() {
        for (content_type, body, expected) in [
            ("text/html; charset=utf-8", "", true),
            ("", "\n<!DOCTYPE html><title>", true),
            ("text/plain", "<HTML>", true),
            ("application/json", "{\"html\": 1}", false),
            ("", "", false),
        ] {
            assert_eq!(is_html(content_type, body.as_bytes()), expected, "{body}");
        }
    }
}
