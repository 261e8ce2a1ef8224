//! CSV and JSONL: a document for each row, read as a stream.

use std::io::{BufRead, BufReader, Read};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::encoding::decode;
use super::format::Format;
use crate::records::{Document, sha256};

/// Which fields of a row become what.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rows {
    /// Fields that make up the text, one paragraph each. Without `text` and `template`, a field
    /// named `text`, `content` or `body`, else all fields as `name: value` lines.
    #[serde(default)]
    pub(crate) text: Vec<String>,
    /// The text with fields in braces, such as `{title}: {abstract}`. Two braces stand for one.
    pub(crate) template: Option<String>,
    /// A field whose value tells rows apart; their number otherwise.
    pub(crate) id: Option<String>,
    /// The field with the title; `title` if there is one.
    pub(crate) title: Option<String>,
}

impl Rows {
    /// Says what is wrong with the template.
    pub(crate) fn check(&self) -> Result<(), String> {
        match &self.template {
            Some(template) => fill(template, &|_| Some(String::new())).map(drop),
            None => Ok(()),
        }
    }
}

/// A row as a document, or its id and why it is none.
pub(crate) type Row = Result<Document, (String, String)>;

/// Gives each row to `each`, which says whether to go on.
///
/// # Errors
/// Says why the file cannot be read any further. Single bad rows are given to `each`.
pub(crate) fn read(
    uri: &str,
    format: Format,
    reader: impl Read,
    rows: &Rows,
    row_bytes_max: u64,
    each: &mut dyn FnMut(Row) -> bool,
) -> Result<(), String> {
    let reader = BufReader::with_capacity(64 * 1024, reader);
    match format {
        Format::Jsonl => read_jsonl(uri, reader, rows, row_bytes_max, each),
        Format::Tsv => read_csv(uri, b'\t', reader, rows, row_bytes_max, each),
        _ => read_csv(uri, b',', reader, rows, row_bytes_max, each),
    }
}

fn read_jsonl(
    uri: &str,
    mut reader: impl BufRead,
    rows: &Rows,
    row_bytes_max: u64,
    each: &mut dyn FnMut(Row) -> bool,
) -> Result<(), String> {
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = (&mut reader)
            .take(row_bytes_max + 1)
            .read_until(b'\n', &mut line)
            .map_err(|e| format!("cannot be read beyond line {number}: {e}"))?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 > row_bytes_max && line.last() != Some(&b'\n') {
            return Err(format!(
                "line {number} is longer than max_bytes, {row_bytes_max}"
            ));
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let row = match serde_json::from_str(&decode(line, None).text) {
            Ok(Value::Object(fields)) => {
                document(uri, number, fields, sha256(line), Format::Jsonl, rows)
            }
            Ok(_) => Err("the line is no JSON object".to_owned()),
            Err(e) => Err(format!("the line is no JSON: {e}")),
        };
        if !each(row.map_err(|why| (format!("{uri}#{number}"), why))) {
            return Ok(());
        }
    }
    Ok(())
}

fn read_csv(
    uri: &str,
    delimiter: u8,
    reader: impl Read,
    rows: &Rows,
    row_bytes_max: u64,
    each: &mut dyn FnMut(Row) -> bool,
) -> Result<(), String> {
    let format = if delimiter == b'\t' {
        Format::Tsv
    } else {
        Format::Csv
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .from_reader(reader);
    let header: Vec<String> = reader
        .byte_headers()
        .map_err(|e| format!("the first row cannot be read: {e}"))?
        .iter()
        .map(|name| decode(name, None).text.trim().to_owned())
        .collect();
    let mut record = csv::ByteRecord::new();
    for number in 1u64.. {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(e) => return Err(format!("cannot be read beyond row {number}: {e}")),
        }
        let row = if record.as_slice().len() as u64 > row_bytes_max {
            Err(format!("the row is longer than max_bytes, {row_bytes_max}"))
        } else if record.len() != header.len() {
            Err(format!(
                "the row has {} fields, the first row names {}",
                record.len(),
                header.len()
            ))
        } else {
            let values = record.iter().map(|v| Value::String(decode(v, None).text));
            let fields = header.iter().cloned().zip(values).collect();
            // Fields are hashed with what lies between them, so that moving text from one to the
            // next is a change.
            let raw: Vec<&[u8]> = record.iter().collect();
            document(uri, number, fields, sha256(&raw.join(&0x1f)), format, rows)
        };
        if !each(row.map_err(|why| (format!("{uri}#{number}"), why))) {
            return Ok(());
        }
    }
    Ok(())
}

/// A row as a document, or why it is none.
pub(super) fn document(
    uri: &str,
    number: u64,
    mut fields: Map<String, Value>,
    hash: String,
    format: Format,
    rows: &Rows,
) -> Result<Document, String> {
    let field = |name: &String| match fields.get(name) {
        Some(value) => Ok(plain(value)),
        None => Err(format!("the row has no field `{name}`")),
    };
    let id = match &rows.id {
        Some(name) => field(name)?,
        None => number.to_string(),
    };
    let title = match &rows.title {
        Some(name) => Some(field(name)?),
        None => fields.get("title").map(plain),
    };
    let mut used: Vec<String> = rows.text.clone();
    let text = if let Some(template) = &rows.template {
        fill(template, &|name| fields.get(name).map(plain))?
    } else if !rows.text.is_empty() {
        let texts: Result<Vec<String>, String> = rows.text.iter().map(field).collect();
        texts?.join("\n\n")
    } else if let Some(name) = ["text", "content", "body"]
        .into_iter()
        .find(|name| fields.contains_key(*name))
    {
        used.push(name.to_owned());
        fields.get(name).map(plain).unwrap_or_default()
    } else {
        let lines: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}: {}", plain(value)))
            .collect();
        lines.join("\n")
    };
    if text.trim().is_empty() {
        return Err("the row has no text".to_owned());
    }
    // The text need not be kept twice.
    fields.retain(|name, _| !used.contains(name));
    fields.insert("row".to_owned(), number.into());
    Ok(Document {
        uri: format!("{uri}#{id}"),
        text,
        title: title.filter(|title| !title.trim().is_empty()),
        hash,
        media_type: format.media_type().to_owned(),
        metadata: fields,
    })
}

/// A value as a person would write it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Puts fields into the places in braces.
fn fill(template: &str, field: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let brace = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            text.push_str(brace);
            rest = after;
            continue;
        }
        let end = rest
            .find('}')
            .filter(|_| brace == "{")
            .ok_or_else(|| format!("a brace without its other half in template `{template}`"))?;
        let name = rest[..end].trim();
        text.push_str(&field(name).ok_or_else(|| format!("the row has no field `{name}`"))?);
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn all(format: Format, bytes: &[u8], rows: &Rows) -> (Vec<Row>, Result<(), String>) {
        let mut got = Vec::new();
        let end = read("f", format, bytes, rows, 100, &mut |row| {
            got.push(row);
            true
        });
        (got, end)
    }

    fn texts(format: Format, bytes: &[u8], rows: &Rows) -> Vec<Result<String, String>> {
        all(format, bytes, rows)
            .0
            .into_iter()
            .map(|row| row.map(|d| d.text).map_err(|(_, why)| why))
            .collect()
    }

    #[test]
    fn fields_become_text() {
        let csv = b"id,title,body\n7,One,First.\n9,Two,\"Second,\nwith lines.\"\n";
        let rows = |text: &[&str], template: Option<&str>| Rows {
            text: text.iter().map(|&s| s.to_owned()).collect(),
            template: template.map(str::to_owned),
            ..Rows::default()
        };
        let cases = [
            (rows(&[], None), "First."),
            (rows(&["title", "body"], None), "One\n\nFirst."),
            (rows(&[], Some("{{{ title }}} {body}")), "{One} First."),
        ];
        for (rows, expected) in cases {
            assert_eq!(texts(Format::Csv, csv, &rows)[0].as_deref(), Ok(expected));
        }
        let by_id = Rows {
            id: Some("id".into()),
            ..Rows::default()
        };
        let (got, end) = all(Format::Csv, csv, &by_id);
        assert_eq!(end, Ok(()));
        let second = got[1].as_ref().unwrap();
        assert_eq!(second.uri, "f#9");
        assert_eq!(second.title.as_deref(), Some("Two"));
        assert_eq!(second.text, "Second,\nwith lines.");
        assert_eq!(
            Value::Object(second.metadata.clone()),
            json!({"id": "9", "title": "Two", "row": 2})
        );
    }

    #[test]
    fn a_bad_row_fails_alone() {
        let jsonl = b"{\"text\": \"a\"}\n\nnope\n[1]\n{\"text\": \" \"}\n{\"text\": \"b\"}";
        let got = texts(Format::Jsonl, jsonl, &Rows::default());
        assert_eq!(got.len(), 5);
        assert_eq!(got[0].as_deref(), Ok("a"));
        assert!(
            got[1]
                .as_ref()
                .unwrap_err()
                .starts_with("the line is no JSON:")
        );
        assert_eq!(got[2].as_ref().unwrap_err(), "the line is no JSON object");
        assert_eq!(got[3].as_ref().unwrap_err(), "the row has no text");
        assert_eq!(got[4].as_deref(), Ok("b"));

        let got = texts(Format::Csv, b"a,b\n1,2\n3\n5,6\n", &Rows::default());
        assert_eq!(got[0].as_deref(), Ok("a: 1\nb: 2"));
        assert_eq!(
            got[1].as_ref().unwrap_err(),
            "the row has 1 fields, the first row names 2"
        );
        assert_eq!(got[2].as_deref(), Ok("a: 5\nb: 6"));
    }

    #[test]
    fn a_line_without_end_is_not_read_into_memory() {
        let mut long = vec![b'x'; 5_000];
        long.extend_from_slice(b"\n{\"text\": \"b\"}\n");
        let (got, end) = all(Format::Jsonl, &long, &Rows::default());
        assert!(got.is_empty());
        assert_eq!(end.unwrap_err(), "line 1 is longer than max_bytes, 100");
    }

    #[test]
    fn a_template_is_checked_before_it_is_used() {
        for template in ["{a", "a}", "{a}}"] {
            let rows = Rows {
                template: Some(template.into()),
                ..Rows::default()
            };
            assert!(rows.check().is_err(), "{template}");
        }
    }
}
