//! Runs in an in-memory store with the executions and attributes tables.

use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};

use super::super::execute::{run_count, run_list};
use super::super::plan::{compile_count, compile_list};
use super::super::{Sql, layout};
use super::schema;
use crate::{AttributeValue, Error, ExecutionCount, ExecutionPage};

const TABLES: &str = "
CREATE TABLE executions(
    run INTEGER PRIMARY KEY, namespace INTEGER NOT NULL, workflow_id TEXT NOT NULL,
    run_id BLOB NOT NULL, workflow_type TEXT NOT NULL, task_queue TEXT NOT NULL,
    status INTEGER NOT NULL, start_time INTEGER NOT NULL, execution_time INTEGER NOT NULL,
    close_time INTEGER, history_length INTEGER, history_size_bytes INTEGER,
    execution_duration INTEGER, state_transition_count INTEGER,
    parent_workflow_id TEXT, parent_run_id TEXT, root_workflow_id TEXT, root_run_id TEXT,
    division TEXT, info BLOB NOT NULL);
CREATE TABLE attributes(
    namespace INTEGER NOT NULL, name TEXT NOT NULL, value NOT NULL, run INTEGER NOT NULL,
    PRIMARY KEY(namespace, name, value, run)) WITHOUT ROWID;
";

/// A run as a filter sees it.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) run: i64,
    pub(super) namespace: i64,
    pub(super) workflow_id: String,
    pub(super) workflow_type: String,
    pub(super) status: i64,
    pub(super) start_time: i64,
    pub(super) close_time: Option<i64>,
    pub(super) parent: Option<String>,
    pub(super) division: Option<String>,
    pub(super) attributes: Vec<(String, AttributeValue)>,
}

/// An open run of the first namespace.
pub(super) fn run(run: i64) -> Run {
    Run {
        run,
        namespace: 1,
        workflow_id: format!("id-{run}"),
        workflow_type: "Type".to_owned(),
        status: 1,
        start_time: run,
        close_time: None,
        parent: None,
        division: None,
        attributes: Vec::new(),
    }
}

impl Run {
    pub(super) fn id(mut self, id: &str) -> Self {
        self.workflow_id = id.to_owned();
        self
    }

    pub(super) fn kind(mut self, kind: &str) -> Self {
        self.workflow_type = kind.to_owned();
        self
    }

    pub(super) fn start(mut self, time: i64) -> Self {
        self.start_time = time;
        self
    }

    pub(super) fn closed(mut self, status: i64, time: i64) -> Self {
        self.status = status;
        self.close_time = Some(time);
        self
    }

    pub(super) fn child_of(mut self, parent: &str) -> Self {
        self.parent = Some(parent.to_owned());
        self
    }

    pub(super) fn division(mut self, division: &str) -> Self {
        self.division = Some(division.to_owned());
        self
    }

    pub(super) fn namespace(mut self, namespace: i64) -> Self {
        self.namespace = namespace;
        self
    }

    pub(super) fn with(mut self, name: &str, value: AttributeValue) -> Self {
        self.attributes.push((name.to_owned(), value));
        self
    }

    /// Set on close, as all that is derived from the close.
    pub(super) fn duration(&self) -> Option<i64> {
        self.close_time.map(|close| close - self.start_time)
    }

    pub(super) fn run_id(&self) -> [u8; 16] {
        u128::from(self.run.unsigned_abs()).to_be_bytes()
    }

    pub(super) fn run_id_text(&self) -> String {
        format!("00000000-0000-0000-0000-{:012x}", self.run)
    }
}

/// Runs, in memory and in SQLite.
pub(super) struct Runs {
    pub(super) connection: Connection,
    pub(super) rows: Vec<Run>,
}

impl Runs {
    pub(super) fn new(rows: Vec<Run>) -> Self {
        let connection = Connection::open_in_memory().unwrap();
        // As the store's connections: a plan must not rest on the values of parameters.
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
            .unwrap();
        connection.execute_batch(TABLES).unwrap();
        connection.execute_batch(layout::INDEXES).unwrap();
        let mut runs = Runs {
            connection,
            rows: Vec::new(),
        };
        for row in rows {
            runs.insert(row);
        }
        runs
    }

    pub(super) fn insert(&mut self, row: Run) {
        let mut insert = self
            .connection
            .prepare_cached(
                "INSERT INTO executions VALUES \
                 (?1,?2,?3,?4,?5,'queue',?6,?7,?7,?8,?9,?9,?9,?9,?10,NULL,?3,NULL,?11,x'00')",
            )
            .unwrap();
        insert
            .execute(params![
                row.run,
                row.namespace,
                row.workflow_id,
                &row.run_id()[..],
                row.workflow_type,
                row.status,
                row.start_time,
                row.close_time,
                row.duration(),
                row.parent,
                row.division,
            ])
            .unwrap();
        let mut insert = self
            .connection
            .prepare_cached("INSERT INTO attributes VALUES (?1,?2,?3,?4)")
            .unwrap();
        for (name, value) in &row.attributes {
            for value in layout::index_values(value) {
                insert
                    .execute(params![row.namespace, name, value, row.run])
                    .unwrap();
            }
        }
        drop(insert);
        self.rows.push(row);
    }

    /// The run numbers that a filter finds, by driving wherever possible or by walking.
    pub(super) fn list(&self, filter: &str, drive: bool) -> Vec<i64> {
        let page = self
            .page(filter, 1_000, None, drive)
            .unwrap_or_else(|error| panic!("{filter}: {error}"));
        assert!(page.next.is_none());
        page.executions.iter().map(|found| found.run.0).collect()
    }

    pub(super) fn page(
        &self,
        filter: &str,
        size: usize,
        token: Option<&[u8]>,
        drive: bool,
    ) -> Result<ExecutionPage, Error> {
        let query = compile_list(&schema(), 1, filter, size, token, &mut self.probe(drive))?;
        run_list(&self.connection, &query)
    }

    pub(super) fn count(&self, filter: &str, drive: bool) -> i64 {
        self.count_by_group(filter, drive)
            .unwrap_or_else(|error| panic!("{filter}: {error}"))
            .total
    }

    pub(super) fn count_by_group(
        &self,
        filter: &str,
        drive: bool,
    ) -> Result<ExecutionCount, Error> {
        let query = compile_count(&schema(), 1, filter, &mut self.probe(drive))?;
        run_count(&self.connection, &query)
    }

    /// The public way, with the plan that it chooses.
    pub(super) fn try_list(&self, filter: &str) -> Result<ExecutionPage, Error> {
        super::super::list(&self.connection, &schema(), 1, filter, 1_000, None)
    }

    /// Steers the choice of the plan: a set that is said to be huge does not drive.
    pub(super) fn probe(&self, drive: bool) -> impl FnMut(&Sql) -> Result<i64, Error> {
        move |sql| {
            let count = sql.count(&self.connection)?;
            Ok(if drive { count } else { i64::MAX })
        }
    }
}
