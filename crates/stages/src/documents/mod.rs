//! `documents.load`: files, folders and web pages become documents.

mod encoding;
mod files;
mod format;
mod html;
mod load;
mod parquet;
mod pdf;
mod read;
mod rows;
mod web;

pub use load::Load;
pub use pdf::{PdfReader, pdf_text};
