//! A transaction that stays open over many groups of commits, for a store that is durable by a log of
//! its own ([`crate::logged`]).
//!
//! Pages that many groups change stay in the writer's cache and are written once. Nobody but the writer's own
//! connection sees what is staged. A group that fails takes all of it along, which is in the log: a savepoint for
//! each group would cost two fifths of what its SQL does.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use super::schema::{META_APPLIED_LSN, META_LOG};
use super::{Options, SqliteStore, Writer, write};
use crate::log::LogId;
use crate::sync::MutexGuard;
use crate::{Commit, Error};

impl SqliteStore {
    /// Opens a data file that has, or will have, a log beside it.
    pub(crate) fn open_for_log(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, Options::default(), false)
    }

    /// A store in memory over what a connection holds.
    #[cfg(test)]
    pub(crate) fn over(mut conn: Connection) -> Result<Self, Error> {
        super::open::configure(&conn)?;
        super::schema::migrate(&mut conn)?;
        let store = Self::memory()?;
        store.writer.lock().conn = conn;
        Ok(store)
    }

    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock()
    }
}

/// Takes the open transaction along when it is dropped and was not kept, also by a panic.
struct Group<'a> {
    writer: &'a mut Writer,
    is_kept: bool,
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.writer.discard();
        }
    }
}

fn run(conn: &Connection, sql: &str) -> Result<(), Error> {
    conn.prepare_cached(sql)?.execute([])?;
    Ok(())
}

impl Writer {
    /// No transaction is open: nothing is staged, or what was is lost.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.conn.is_autocommit()
    }

    /// Reads what is stored and what is staged.
    pub(crate) fn conn(&self) -> &Connection {
        &self.conn
    }

    /// Adds a group to the open transaction, or to a new one, if `persist` succeeds too. On an error nothing of it
    /// is left, nor of the groups before: [`holds_nothing`](Self::holds_nothing).
    pub(crate) fn stage(
        &mut self,
        commits: &[&Commit],
        persist: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.conn.is_autocommit() {
            run(&self.conn, "BEGIN IMMEDIATE")?;
        }
        let mut group = Group {
            writer: self,
            is_kept: false,
        };
        let writer = &mut *group.writer;
        write::apply(&writer.conn, &mut writer.known, commits)?;
        persist()?;
        group.is_kept = true;
        Ok(())
    }

    /// Commits what is staged, which ends with frame `lsn`. On an error all of it may be lost.
    pub(crate) fn commit_staged(&mut self, lsn: u64) -> Result<(), Error> {
        let committed = self.put_meta(META_APPLIED_LSN, lsn as i64).and_then(|()| {
            if self.conn.is_autocommit() {
                return Ok(());
            }
            run(&self.conn, "COMMIT")
        });
        if committed.is_err() {
            self.known = write::Known::default();
        } else if let Some(checkpointer) = &mut self.checkpointer {
            checkpointer.committed(&self.conn);
        }
        committed
    }

    /// Gives up what is staged.
    pub(crate) fn discard(&mut self) {
        self.known = write::Known::default();
        if !self.conn.is_autocommit() {
            let _ = run(&self.conn, "ROLLBACK");
        }
    }

    /// The last frame that the tables hold, and the log that the file has.
    pub(crate) fn log(&self) -> Result<(u64, Option<LogId>), Error> {
        let applied: Option<i64> = self.meta(META_APPLIED_LSN)?;
        Ok((
            applied.unwrap_or(0).try_into().unwrap_or(0),
            self.meta(META_LOG)?,
        ))
    }

    /// Sets the log that the file has from now on; durable when this returns, with all that was
    /// committed before.
    pub(crate) fn set_log(&mut self, log: Option<&LogId>) -> Result<(), Error> {
        self.set_flushing(true)?;
        match log {
            Some(log) => self.put_meta(META_LOG, log)?,
            None => {
                self.conn
                    .execute("DELETE FROM meta WHERE key = ?1", [META_LOG])?;
            }
        }
        Ok(())
    }

    /// Whether each transaction is forced to disk.
    pub(crate) fn set_flushing(&mut self, flushing: bool) -> Result<(), Error> {
        let mode = if flushing { "FULL" } else { "NORMAL" };
        self.conn
            .execute_batch(&format!("PRAGMA synchronous = {mode}"))?;
        Ok(())
    }

    /// Bytes that nobody can guess.
    pub(crate) fn random_id(&self) -> Result<LogId, Error> {
        Ok(self
            .conn
            .query_row("SELECT randomblob(16)", [], |row| row.get(0))?)
    }

    fn meta<T: rusqlite::types::FromSql>(&self, key: &str) -> Result<Option<T>, Error> {
        Ok(self
            .conn
            .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
            .query_row([key], |row| row.get(0))
            .optional()?)
    }

    fn put_meta(&self, key: &str, value: impl rusqlite::ToSql) -> Result<(), Error> {
        self.conn
            .prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value")?
            .execute(params![key, value])?;
        Ok(())
    }
}
