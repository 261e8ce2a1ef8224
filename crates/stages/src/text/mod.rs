//! `text.split`: documents become chunks, whose ids depend on nothing but their content.

mod code;
mod markdown;
mod measure;
mod pack;
mod split;
mod splitter;
mod structure;

pub(crate) use markdown::{front_matter, title as markdown_title};
pub use split::Split;
