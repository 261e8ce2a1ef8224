//! What is asked of an embedded index.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::{Map, Value};

use super::super::{Filter, Info, Match, Model};

pub(super) fn model(conn: &Connection) -> rusqlite::Result<Option<Model>> {
    let mut sql = conn.prepare_cached("SELECT model, revision, dimension, embedder FROM model")?;
    let read = sql.query_row([], |row| {
        let embedder: Option<String> = row.get(3)?;
        Ok(Model {
            model: row.get(0)?,
            revision: row.get(1)?,
            dimension: unsigned(row, 2)? as usize,
            // One that a newer version wrote may be unknown; the model's name is left.
            embedder: embedder.and_then(|json| serde_json::from_str(&json).ok()),
        })
    });
    read.optional()
}

pub(super) fn processed(
    conn: &Connection,
    ids: Vec<String>,
) -> rusqlite::Result<BTreeMap<String, String>> {
    let mut sql =
        conn.prepare_cached("SELECT hash FROM documents WHERE id = ?1 AND hash IS NOT NULL")?;
    let mut found = BTreeMap::new();
    for id in ids {
        if let Some(hash) = sql.query_row([&id], |row| row.get(0)).optional()? {
            found.insert(id, hash);
        }
    }
    Ok(found)
}

pub(super) fn document_ids(conn: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut sql = conn.prepare_cached("SELECT id FROM documents")?;
    let ids = sql.query_map([], |row| row.get(0))?;
    ids.collect()
}

pub(super) fn info(conn: &Connection) -> rusqlite::Result<Info> {
    let count = |sql| conn.query_row(sql, [], |row| unsigned(row, 0));
    Ok(Info {
        documents: count("SELECT count(*) FROM documents WHERE hash IS NOT NULL")?,
        chunks: count("SELECT count(*) FROM chunks")?,
        model: model(conn)?,
    })
}

/// The chunks that meet a filter, with their documents, by number.
pub(super) fn meeting(conn: &Connection, filter: &Filter) -> rusqlite::Result<Vec<(i64, i64)>> {
    let mut sql = conn.prepare_cached(
        "SELECT c.no, c.document, c.id, d.id, d.uri, c.metadata
         FROM chunks c JOIN documents d ON d.no = c.document",
    )?;
    let mut rows = sql.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut fields = metadata(row, 5)?;
        for (at, name) in [(2, "id"), (3, "document"), (4, "uri")] {
            fields.insert(name.to_owned(), Value::String(row.get(at)?));
        }
        if filter.meets(&fields) {
            found.push((row.get(0)?, row.get(1)?));
        }
    }
    Ok(found)
}

/// The nearest chunks. Nothing is near to a vector of length zero, nor far: its score is 0.
pub(super) fn search(
    conn: &Connection,
    vector: &[u8],
    k: usize,
    filter: &Filter,
) -> rusqlite::Result<Vec<Match>> {
    let mut nearest: Vec<(i64, f64)> = if filter.is_empty() {
        let mut sql = conn.prepare_cached(
            "SELECT chunk, coalesce(vec_distance_cosine(vector, ?1), 1.0) AS distance
             FROM vectors ORDER BY distance, chunk LIMIT ?2",
        )?;
        let k = i64::try_from(k).unwrap_or(i64::MAX);
        let rows = sql.query_map(params![vector, k], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<_>>()?
    } else {
        let mut sql = conn.prepare_cached(
            "SELECT coalesce(vec_distance_cosine(vector, ?1), 1.0) FROM vectors WHERE chunk = ?2",
        )?;
        let mut all = Vec::new();
        for (chunk, _) in meeting(conn, filter)? {
            let distance = sql.query_row(params![vector, chunk], |row| row.get(0))?;
            all.push((chunk, distance));
        }
        all
    };
    nearest.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    nearest.truncate(k);
    let mut sql = conn.prepare_cached(
        "SELECT c.id, d.id, d.uri, c.position, c.text, c.metadata
         FROM chunks c JOIN documents d ON d.no = c.document WHERE c.no = ?1",
    )?;
    let mut found = Vec::with_capacity(nearest.len());
    for (chunk, distance) in nearest {
        found.push(sql.query_row([chunk], |row| {
            Ok(Match {
                score: 1.0 - distance,
                id: row.get(0)?,
                document: row.get(1)?,
                uri: row.get(2)?,
                index: unsigned(row, 3)?,
                text: row.get(4)?,
                metadata: metadata(row, 5)?,
            })
        })?);
    }
    Ok(found)
}

/// A number that is never negative; SQLite's are signed.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn metadata(row: &Row<'_>, column: usize) -> rusqlite::Result<Map<String, Value>> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}
