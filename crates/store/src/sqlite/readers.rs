//! Connections that read while the writer writes.

use std::path::PathBuf;

use rusqlite::Connection;

use super::open;
use crate::Error;
use crate::sync::{Condvar, Mutex};

/// How many reads run at a time; more wait. SQLite itself has no such limit, but each connection
/// has a page cache, and more readers than cores only lengthen each other.
const READERS_MAX: usize = 16;

pub(super) struct Readers {
    path: PathBuf,
    pool: Mutex<Pool>,
    returned: Condvar,
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    lent: usize,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Readers {
            path,
            pool: Mutex::default(),
            returned: Condvar::new(),
        }
    }

    /// Runs `read` on a connection that nobody else uses meanwhile. Must not be nested: with all
    /// connections lent to outer calls, the inner ones would wait for ever.
    pub(super) fn with<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let lent = self.lend()?;
        read(
            lent.conn
                .as_ref()
                .expect("only drop takes the connection away"),
        )
    }

    fn lend(&self) -> Result<Lent<'_>, Error> {
        let mut pool = self.pool.lock();
        while pool.idle.is_empty() && pool.lent == READERS_MAX {
            self.returned.wait(&mut pool);
        }
        pool.lent += 1;
        let mut lent = Lent {
            conn: pool.idle.pop(),
            readers: self,
        };
        drop(pool);
        if lent.conn.is_none() {
            lent.conn = Some(open::reader_connection(&self.path)?);
        }
        Ok(lent)
    }
}

struct Lent<'a> {
    conn: Option<Connection>,
    readers: &'a Readers,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut pool = self.readers.pool.lock();
        pool.lent -= 1;
        pool.idle.extend(self.conn.take());
        drop(pool);
        self.readers.returned.notify_one();
    }
}
