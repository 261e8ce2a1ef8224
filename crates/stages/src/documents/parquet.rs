//! Parquet: a document for each row. Files are read row group by row group, and never as a whole.

use std::fs::File;

use bytes::Bytes;

use super::rows::{Row, Rows};

/// Where the file is.
#[cfg_attr(
    not(feature = "parquet"),
    expect(dead_code, reason = "nothing reads it without the feature")
)]
pub(crate) enum Source {
    File(File),
    Bytes(Bytes),
}

/// Gives each row to `each`, which says whether to go on.
///
/// # Errors
/// Says why the file cannot be read any further. Single bad rows are given to `each`.
#[cfg(feature = "parquet")]
pub(crate) fn read(
    uri: &str,
    source: Source,
    rows: &Rows,
    row_bytes_max: u64,
    each: &mut dyn FnMut(Row) -> bool,
) -> Result<(), String> {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use parquet::file::reader::FileReader;
    use parquet::file::serialized_reader::SerializedFileReader;
    use parquet::record::reader::RowIter;
    use serde_json::Value;

    use super::format::Format;
    use super::rows::document;
    use crate::records::sha256;

    let unreadable = |e: parquet::errors::ParquetError| format!("not a readable Parquet file: {e}");
    let work = || -> Result<(), String> {
        let file: Box<dyn FileReader> = match source {
            Source::File(file) => Box::new(SerializedFileReader::new(file).map_err(unreadable)?),
            Source::Bytes(bytes) => Box::new(SerializedFileReader::new(bytes).map_err(unreadable)?),
        };
        let all = RowIter::from_file_into(file);
        for (number, row) in (1u64..).zip(all) {
            let row = row.map_err(|e| format!("cannot be read beyond row {number}: {e}"))?;
            let value = row.to_json_value();
            let text = value.to_string();
            let row = match value {
                _ if text.len() as u64 > row_bytes_max => {
                    Err(format!("the row is longer than max_bytes, {row_bytes_max}"))
                }
                Value::Object(fields) => {
                    let hash = sha256(text.as_bytes());
                    document(uri, number, fields, hash, Format::Parquet, rows)
                }
                _ => Err("the row has no columns".to_owned()),
            };
            if !each(row.map_err(|why| (format!("{uri}#{number}"), why))) {
                break;
            }
        }
        Ok(())
    };
    // The reader trusts what a file says of itself in many places.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("not a readable Parquet file: its reader panicked".to_owned()))
}

/// The same in a build without the reader.
///
/// # Errors
/// Always.
#[cfg(not(feature = "parquet"))]
pub(crate) fn read(
    _: &str,
    source: Source,
    _: &Rows,
    _: u64,
    _: &mut dyn FnMut(Row) -> bool,
) -> Result<(), String> {
    match source {
        Source::File(_) | Source::Bytes(_) => Err(
            "this binary was built without Parquet: build it with the cargo feature `parquet`"
                .to_owned(),
        ),
    }
}
