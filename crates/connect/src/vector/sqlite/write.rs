//! Changes of an embedded index; each function's all in one transaction.

use std::collections::BTreeSet;

use rusqlite::{OptionalExtension, Transaction, params};

use super::super::{DocumentChunks, Error, Filter, Model, Upserted};
use super::{bytes, failed, read};

pub(super) fn upsert(
    tx: &Transaction<'_>,
    name: &str,
    given: &Model,
    documents: &[DocumentChunks],
) -> Result<Upserted, Error> {
    let failed = |e| failed(name, e);
    if documents.iter().any(|document| !document.chunks.is_empty()) {
        let there = read::model(tx).map_err(failed)?;
        if let Some(there) = &there
            && !there.goes_with(given)
        {
            return Err(Error::Mismatch {
                index: name.to_owned(),
                there: Box::new(there.clone()),
                given: Box::new(given.clone()),
            });
        }
        if there.is_none_or(|there| given.supersedes(&there)) {
            let sql = "INSERT OR REPLACE INTO model (one, model, revision, dimension, embedder)
                       VALUES (1, ?1, ?2, ?3, ?4)";
            let dimension = signed(given.dimension as u64);
            let embedder = given.embedder.as_ref().map(serde_json::to_string);
            let embedder = embedder.transpose().map_err(|e| failed(unwritable(e)))?;
            let row = params![given.model, given.revision, dimension, embedder];
            tx.execute(sql, row).map_err(failed)?;
        }
    }
    let mut done = Upserted::default();
    for document in documents {
        replace(tx, document, &mut done).map_err(failed)?;
    }
    Ok(done)
}

fn replace(
    tx: &Transaction<'_>,
    document: &DocumentChunks,
    done: &mut Upserted,
) -> rusqlite::Result<()> {
    let no: i64 = tx
        .prepare_cached(
            "INSERT INTO documents (id, uri, hash) VALUES (?1, ?2, ?3)
             ON CONFLICT (id) DO UPDATE SET uri = ?2, hash = ?3 RETURNING no",
        )?
        .query_row([&document.id, &document.uri, &document.hash], |row| {
            row.get(0)
        })?;
    step();
    done.removed += remove_chunks(tx, no)?;
    for chunk in &document.chunks {
        let metadata = serde_json::to_string(&chunk.metadata).map_err(unwritable)?;
        let index = signed(chunk.index);
        let mut sql = tx.prepare_cached(
            "INSERT INTO chunks (document, id, position, text, metadata) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        let chunk_no = sql.insert(params![no, chunk.id, index, chunk.text, metadata])?;
        step();
        tx.prepare_cached("INSERT INTO vectors (chunk, vector) VALUES (?1, ?2)")?
            .execute(params![chunk_no, bytes(&chunk.vector)])?;
        step();
    }
    done.documents += 1;
    done.chunks += document.chunks.len() as u64;
    Ok(())
}

/// Removes a document's chunks; their number.
fn remove_chunks(tx: &Transaction<'_>, document: i64) -> rusqlite::Result<u64> {
    tx.prepare_cached(
        "DELETE FROM vectors WHERE chunk IN (SELECT no FROM chunks WHERE document = ?1)",
    )?
    .execute([document])?;
    step();
    let removed = tx
        .prepare_cached("DELETE FROM chunks WHERE document = ?1")?
        .execute([document])?;
    step();
    Ok(removed as u64)
}

pub(super) fn delete_documents(tx: &Transaction<'_>, ids: &[String]) -> rusqlite::Result<u64> {
    let mut deleted = 0;
    for id in ids {
        let no: Option<i64> = tx
            .prepare_cached("SELECT no FROM documents WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        if let Some(no) = no {
            remove_chunks(tx, no)?;
            tx.prepare_cached("DELETE FROM documents WHERE no = ?1")?
                .execute([no])?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

pub(super) fn delete(tx: &Transaction<'_>, filter: &Filter) -> rusqlite::Result<u64> {
    let chunks = read::meeting(tx, filter)?;
    let mut documents = BTreeSet::new();
    for (chunk, document) in &chunks {
        tx.prepare_cached("DELETE FROM vectors WHERE chunk = ?1")?
            .execute([chunk])?;
        tx.prepare_cached("DELETE FROM chunks WHERE no = ?1")?
            .execute([chunk])?;
        documents.insert(*document);
    }
    for document in documents {
        tx.prepare_cached("UPDATE documents SET hash = NULL WHERE no = ?1")?
            .execute([document])?;
    }
    Ok(chunks.len() as u64)
}

fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// SQLite has no numbers above this.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Between two statements of a transaction: where tests crash.
fn step() {
    #[cfg(test)]
    super::tests::step();
}
