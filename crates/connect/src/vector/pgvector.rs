//! An index in PostgreSQL with the extension pgvector, in three tables: `<table>` has the chunks,
//! `<table>_documents` the documents, `<table>_model` what made the vectors.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Transaction};

use super::filter::Test;
use super::{DocumentChunks, Error, Filter, Info, Match, Model, Upserted, VectorStore};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to one server that wait for their next use: making one takes longer than most uses.
const IDLE_MAX: usize = 8;
/// Servers whose connections are kept.
const SERVERS_MAX: usize = 8;

/// `{url, table, password_env}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Such as `postgres://user@host/database`. Without TLS so far.
    url: String,
    table: String,
    /// The environment variable that holds the password.
    password_env: Option<String>,
}

pub(super) struct Pgvector {
    config: Config,
    table: String,
    name: String,
    idle: Idle,
}

/// Connections that nobody uses at the moment.
type Idle = Arc<Mutex<Vec<Client>>>;

/// By server and user, those used last first.
static IDLE: Mutex<Vec<(Config, Idle)>> = Mutex::new(Vec::new());

/// Where connections are driven: they outlive the threads of the tasks that use them, and no task that
/// computes keeps them from their work.
fn runtime() -> std::io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let new = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("postgres")
        .enable_all()
        .build()?;
    match RUNTIME.set(new) {
        Ok(()) => {}
        // Another thread was faster.
        Err(unused) => unused.shutdown_background(),
    }
    Ok(RUNTIME.get().expect("it was set"))
}

fn idle(config: &Config) -> Idle {
    let mut all = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
    let known = match all.iter().position(|(known, _)| known == config) {
        Some(at) => all.remove(at),
        None => (config.clone(), Idle::default()),
    };
    let idle = known.1.clone();
    all.insert(0, known);
    all.truncate(SERVERS_MAX);
    idle
}

/// A connection in use. What it has not committed is rolled back when it is given back.
struct Lent {
    client: Option<Client>,
    idle: Idle,
}

impl Deref for Lent {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_ref().expect("lent until it is dropped")
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("lent until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let client = self.client.take();
        idle.extend(client.filter(|client| !client.is_closed()));
        idle.truncate(IDLE_MAX);
    }
}

impl Pgvector {
    pub(super) fn open(settings: Settings) -> Result<Self, Error> {
        let table = settings.table;
        // It becomes a part of SQL text, and others are made of it within PostgreSQL's 63 bytes.
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let first = table.chars().next().is_some_and(|c| c.is_ascii_lowercase());
        if !first || table.len() > 48 || !table.chars().all(plain) {
            return Err(Error::Invalid(format!(
                "index: pgvector: `{table}` is no name of a table: use up to 48 lower-case letters, digits and `_`, a letter first"
            )));
        }
        // What the parser says does not repeat the text, which may hold a password.
        let mut config: Config = settings.url.parse().map_err(|e| {
            Error::Invalid(format!(
                "index: pgvector: url should be like postgres://user@host/database: {e}"
            ))
        })?;
        let password = settings.password_env.as_deref();
        if let Some(password) = super::secret("pgvector", "password_env", password)? {
            config.password(password);
        }
        config.connect_timeout(CONNECT_TIMEOUT);
        let host = config
            .get_hosts()
            .first()
            .map_or(String::new(), |host| match host {
                tokio_postgres::config::Host::Tcp(host) => format!(" at {host}"),
                #[cfg(unix)]
                tokio_postgres::config::Host::Unix(path) => format!(" at {}", path.display()),
            });
        Ok(Self {
            idle: idle(&config),
            config,
            name: format!("{table}{host}"),
            table,
        })
    }

    fn failed(&self, error: tokio_postgres::Error) -> Error {
        // Its own text for an answer of the server is "db error".
        let cause = match error.as_db_error() {
            Some(db) => format!("{} ({})", db.message(), db.code().code()),
            None => error.to_string(),
        };
        let wrong = matches!(
            error.code(),
            Some(
                &SqlState::INVALID_PASSWORD
                    | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION
                    | &SqlState::INSUFFICIENT_PRIVILEGE
                    | &SqlState::INVALID_CATALOG_NAME
                    | &SqlState::UNDEFINED_FILE
                    | &SqlState::FEATURE_NOT_SUPPORTED
                    | &SqlState::UNDEFINED_OBJECT
            )
        );
        if wrong {
            return Error::Invalid(format!(
                "the vector index {}: {cause}. It needs a database with the extension pgvector in which the user may create tables",
                self.name
            ));
        }
        self.unavailable(cause)
    }

    fn unavailable(&self, cause: impl ToString) -> Error {
        Error::Unavailable {
            index: self.name.clone(),
            cause: cause.to_string(),
        }
    }

    async fn connected(&self) -> Result<Lent, Error> {
        let known = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|client| !client.is_closed());
            idle.pop()
        };
        let client = match known {
            Some(client) => client,
            None => {
                let (config, name) = (self.config.clone(), self.name.clone());
                let connect = runtime()
                    .map_err(|e| self.unavailable(e))?
                    .spawn(async move {
                        let (client, connection) = config.connect(NoTls).await?;
                        tokio::spawn(async move {
                            if let Err(error) = connection.await {
                                tracing::warn!(index = name, %error, "the connection to PostgreSQL ended");
                            }
                        });
                        Ok(client)
                    });
                let connected = connect.await.map_err(|e| self.unavailable(e))?;
                connected.map_err(|e| self.failed(e))?
            }
        };
        Ok(Lent {
            client: Some(client),
            idle: self.idle.clone(),
        })
    }

    /// Runs `work` in a transaction; without the tables there is nothing to work on.
    async fn transaction<T: Default>(
        &self,
        work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        let mut client = self.connected().await?;
        let done = async {
            let tx = client.transaction().await?;
            if !self.has_tables(&tx).await? {
                return Ok(T::default());
            }
            let done = work(&tx).await?;
            tx.commit().await?;
            Ok(done)
        };
        done.await.map_err(|e| self.failed(e))
    }

    /// All of them are made together.
    async fn has_tables(&self, tx: &Transaction<'_>) -> Result<bool, tokio_postgres::Error> {
        let model = format!("{}_model", self.table);
        let sql = "SELECT to_regclass($1) IS NOT NULL";
        Ok(tx.query_one(sql, &[&model]).await?.get(0))
    }

    async fn make_tables(
        &self,
        tx: &Transaction<'_>,
        dimension: usize,
    ) -> Result<(), tokio_postgres::Error> {
        let table = &self.table;
        // `IF NOT EXISTS` alone fails when two sessions create at once, of an extension also those
        // that make other tables.
        tx.execute("SELECT pg_advisory_xact_lock(hashtext('tidemill'))", &[])
            .await?;
        let there = "SELECT count(*) FROM pg_extension WHERE extname = 'vector'";
        if tx.query_one(there, &[]).await?.get::<_, i64>(0) == 0 {
            tx.batch_execute("CREATE EXTENSION IF NOT EXISTS vector")
                .await?;
        }
        tx.batch_execute(&format!(
            "CREATE TABLE IF NOT EXISTS {table}_model (
               one boolean PRIMARY KEY CHECK (one), model text NOT NULL, revision text NOT NULL,
               dimension bigint NOT NULL, embedder jsonb
             );
             CREATE TABLE IF NOT EXISTS {table}_documents (
               id text PRIMARY KEY, uri text NOT NULL, hash text
             );
             CREATE TABLE IF NOT EXISTS {table} (
               document text NOT NULL REFERENCES {table}_documents (id) ON DELETE CASCADE,
               id text NOT NULL, position bigint NOT NULL, text text NOT NULL,
               metadata jsonb NOT NULL, vector vector({dimension}) NOT NULL,
               PRIMARY KEY (document, id)
             )"
        ))
        .await
    }

    async fn model_in(&self, tx: &Transaction<'_>) -> Result<Option<Model>, tokio_postgres::Error> {
        let sql = format!(
            "SELECT model, revision, dimension, embedder::text FROM {}_model",
            self.table
        );
        Ok(tx.query_opt(&sql, &[]).await?.map(|row| Model {
            model: row.get(0),
            revision: row.get(1),
            dimension: usize::try_from(row.get::<_, i64>(2)).unwrap_or(0),
            // One that a newer version wrote may be unknown; the model's name is left.
            embedder: row
                .get::<_, Option<&str>>(3)
                .and_then(|json| serde_json::from_str(json).ok()),
        }))
    }

    /// Makes the index one of this model; the model that it is of if that is another.
    async fn prepare(
        &self,
        tx: &Transaction<'_>,
        given: &Model,
    ) -> Result<Option<Model>, tokio_postgres::Error> {
        if !self.has_tables(tx).await? {
            self.make_tables(tx, given.dimension).await?;
        }
        let mut there = self.model_in(tx).await?;
        if there.as_ref().is_none_or(|there| given.supersedes(there)) {
            // Its `WHERE` looks again: another writer may have been faster.
            let sql = format!(
                "INSERT INTO {0}_model AS there (one, model, revision, dimension, embedder)
                 VALUES (true, $1, $2, $3, $4::text::jsonb)
                 ON CONFLICT (one) DO UPDATE SET embedder = excluded.embedder
                 WHERE (there.model, there.revision, there.dimension) = ($1, $2, $3)
                   AND excluded.embedder IS NOT NULL",
                self.table
            );
            let dimension = i64::try_from(given.dimension).unwrap_or(i64::MAX);
            // A description that comes from JSON can be written as such.
            let embedder = given.embedder.as_ref();
            let embedder = embedder.and_then(|spec| serde_json::to_string(spec).ok());
            let row: [&(dyn ToSql + Sync); 4] =
                [&given.model, &given.revision, &dimension, &embedder];
            tx.execute(&sql, &row).await?;
            there = self.model_in(tx).await?;
        }
        Ok(there.filter(|there| !there.goes_with(given)))
    }

    async fn replace(
        &self,
        tx: &Transaction<'_>,
        document: &DocumentChunks,
    ) -> Result<u64, tokio_postgres::Error> {
        let table = &self.table;
        // This row is the lock for the document.
        let sql = format!(
            "INSERT INTO {table}_documents (id, uri, hash) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO UPDATE SET uri = $2, hash = $3"
        );
        tx.execute(&sql, &[&document.id, &document.uri, &document.hash])
            .await?;
        let sql = format!("DELETE FROM {table} WHERE document = $1");
        let removed = tx.execute(&sql, &[&document.id]).await?;
        let sql = format!(
            "INSERT INTO {table} (document, id, position, text, metadata, vector)
             VALUES ($1, $2, $3, $4, $5::text::jsonb, $6::text::vector)"
        );
        let sql = tx.prepare(&sql).await?;
        for chunk in &document.chunks {
            let position = i64::try_from(chunk.index).unwrap_or(i64::MAX);
            let metadata = Value::Object(chunk.metadata.clone()).to_string();
            let vector = literal(&chunk.vector);
            let row: [&(dyn ToSql + Sync); 6] = [
                &document.id,
                &chunk.id,
                &position,
                &chunk.text,
                &metadata,
                &vector,
            ];
            tx.execute(&sql, &row).await?;
        }
        Ok(removed)
    }
}

#[async_trait]
impl VectorStore for Pgvector {
    async fn upsert(
        &self,
        given: &Model,
        mut documents: Vec<DocumentChunks>,
    ) -> Result<Upserted, Error> {
        super::check(given, &documents)?;
        // One order for all, so that no two writers wait for each other.
        documents.sort_by(|a, b| a.id.cmp(&b.id));
        let mut client = self.connected().await?;
        let done = async {
            let tx = client.transaction().await?;
            if let Some(there) = self.prepare(&tx, given).await? {
                return Ok(Err(there));
            }
            let mut done = Upserted::default();
            for document in &documents {
                done.removed += self.replace(&tx, document).await?;
                done.documents += 1;
                done.chunks += document.chunks.len() as u64;
            }
            tx.commit().await?;
            Ok(Ok(done))
        };
        let done: Result<Result<Upserted, Model>, tokio_postgres::Error> = done.await;
        done.map_err(|e| self.failed(e))?
            .map_err(|there| Error::Mismatch {
                index: self.name.clone(),
                there: Box::new(there),
                given: Box::new(given.clone()),
            })
    }

    async fn processed(&self, ids: &[String]) -> Result<BTreeMap<String, String>, Error> {
        let sql = format!(
            "SELECT id, hash FROM {}_documents WHERE id = ANY($1) AND hash IS NOT NULL",
            self.table
        );
        self.transaction(async |tx| {
            let rows = tx.query(&sql, &[&ids]).await?;
            Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
        })
        .await
    }

    async fn document_ids(&self) -> Result<BTreeSet<String>, Error> {
        let sql = format!("SELECT id FROM {}_documents", self.table);
        self.transaction(async |tx| {
            let rows = tx.query(&sql, &[]).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        })
        .await
    }

    async fn delete_documents(&self, ids: &[String]) -> Result<u64, Error> {
        let sql = format!("DELETE FROM {}_documents WHERE id = ANY($1)", self.table);
        self.transaction(async |tx| tx.execute(&sql, &[&ids]).await)
            .await
    }

    async fn delete(&self, filter: &Filter) -> Result<u64, Error> {
        let (condition, values) = condition(filter, 1);
        let table = &self.table;
        let sql = format!(
            "WITH gone AS (
               DELETE FROM {table} c USING {table}_documents d
               WHERE d.id = c.document AND {condition} RETURNING c.document
             ), forgotten AS (
               UPDATE {table}_documents SET hash = NULL WHERE id IN (SELECT document FROM gone)
             )
             SELECT count(*) FROM gone"
        );
        let removed = self
            .transaction(async |tx| {
                Ok(tx
                    .query_one(&sql, &parameters(&values))
                    .await?
                    .get::<_, i64>(0))
            })
            .await?;
        Ok(removed as u64)
    }

    async fn search(
        &self,
        vector: Vec<f32>,
        k: usize,
        filter: &Filter,
    ) -> Result<Vec<Match>, Error> {
        let (condition, values) = condition(filter, 3);
        let table = &self.table;
        // pgvector's distance to a vector of length zero is NaN; its score is 0.
        let sql = format!(
            "SELECT 1 - coalesce(nullif(c.vector <=> $1::text::vector, 'NaN'), 1) AS score,
               c.id, c.document, d.uri, c.position, c.text, c.metadata::text
             FROM {table} c JOIN {table}_documents d ON d.id = c.document
             WHERE {condition} ORDER BY score DESC, c.document, c.position LIMIT $2"
        );
        let text = literal(&vector);
        let k = i64::try_from(k).unwrap_or(i64::MAX);
        let mut refused = None;
        let found = self
            .transaction(async |tx| {
                let Some(there) = self.model_in(tx).await? else {
                    return Ok(Vec::new());
                };
                if let Err(error) = super::check_query(&self.name, &there, &vector) {
                    refused = Some(error);
                    return Ok(Vec::new());
                }
                let mut all: Vec<&(dyn ToSql + Sync)> = vec![&text, &k];
                all.extend(parameters(&values));
                tx.query(&sql, &all).await
            })
            .await?;
        if let Some(error) = refused {
            return Err(error);
        }
        Ok(found
            .iter()
            .map(|row| Match {
                score: row.get(0),
                id: row.get(1),
                document: row.get(2),
                uri: row.get(3),
                index: u64::try_from(row.get::<_, i64>(4)).unwrap_or(0),
                text: row.get(5),
                metadata: object(row.get(6)),
            })
            .collect())
    }

    async fn model(&self) -> Result<Option<Model>, Error> {
        self.transaction(async |tx| self.model_in(tx).await).await
    }

    async fn info(&self) -> Result<Info, Error> {
        let count = format!(
            "SELECT (SELECT count(*) FROM {0}_documents WHERE hash IS NOT NULL), (SELECT count(*) FROM {0})",
            self.table
        );
        self.transaction(async |tx| {
            let row = tx.query_one(&count, &[]).await?;
            Ok(Info {
                documents: row.get::<_, i64>(0) as u64,
                chunks: row.get::<_, i64>(1) as u64,
                model: self.model_in(tx).await?,
            })
        })
        .await
    }
}

/// jsonb as an object; it is one, since only objects are written.
fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_default()
}

/// A vector as pgvector reads it.
fn literal(vector: &[f32]) -> String {
    let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
    format!("[{}]", numbers.join(","))
}

/// A filter as a condition on the tables `c` and `d`, and the values of its parameters, which are
/// numbered from `first` on. A JSON path unwraps lists by itself, and compares only what has an
/// order.
fn condition(filter: &Filter, first: usize) -> (String, Vec<String>) {
    let mut sql = vec!["true".to_owned()];
    let mut values: Vec<String> = Vec::new();
    let fields =
        "(c.metadata || jsonb_build_object('id', c.id, 'document', c.document, 'uri', d.uri))";
    let mut exists = |field: &str, test: &str, wanted: Value| {
        let at = first + values.len();
        // Names of fields have no quotes and no backslashes.
        values.push(format!("$.\"{field}\" ? ({test})"));
        values.push(json!({ "v": wanted }).to_string());
        format!(
            "jsonb_path_exists({fields}, ${at}::text::jsonpath, ${}::text::jsonb)",
            at + 1
        )
    };
    for condition in &filter.conditions {
        let field = &condition.field;
        match &condition.test {
            Test::In(wanted) => {
                let mut any = vec!["false".to_owned()];
                any.extend(
                    wanted
                        .iter()
                        .map(|value| exists(field, "@ == $v", value.clone())),
                );
                sql.push(format!("({})", any.join(" OR ")));
            }
            Test::Compare("!=", wanted) => {
                sql.push(exists(field, "@ != null", Value::Null));
                sql.push(format!("NOT {}", exists(field, "@ == $v", wanted.clone())));
            }
            Test::Compare(operator, wanted) => {
                sql.push(exists(field, &format!("@ {operator} $v"), wanted.clone()));
            }
        }
    }
    (sql.join(" AND "), values)
}

fn parameters(values: &[String]) -> Vec<&(dyn ToSql + Sync)> {
    values
        .iter()
        .map(|value| value as &(dyn ToSql + Sync))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The statements themselves need a server with pgvector; what is put into them does not.
    #[test]
    fn filters_are_paths_whose_values_are_parameters() {
        let filter =
            json!({"year": {">=": 1990}, "lang": {"in": ["fr", "'; DROP"]}, "uri": {"!=": "a"}});
        let (sql, values) = condition(&Filter::from_json(&filter).unwrap(), 3);
        assert!(!sql.contains("DROP") && !sql.contains("1990"), "{sql}");
        let wanted = [
            "$.\"lang\" ? (@ == $v)",
            "{\"v\":\"fr\"}",
            "$.\"lang\" ? (@ == $v)",
            "{\"v\":\"'; DROP\"}",
            "$.\"uri\" ? (@ != null)",
            "{\"v\":null}",
            "$.\"uri\" ? (@ == $v)",
            "{\"v\":\"a\"}",
            "$.\"year\" ? (@ >= $v)",
            "{\"v\":1990}",
        ];
        assert_eq!(values, wanted);
        for number in 3..13 {
            assert!(sql.contains(&format!("${number}::")), "${number} in {sql}");
        }
        assert!(!sql.contains("$13"));
    }

    #[test]
    fn vectors_are_written_without_loss() {
        assert_eq!(literal(&[0.1, -2.0, 1e-10]), "[0.1,-2,0.0000000001]");
    }

    #[test]
    fn tables_that_would_change_the_statements_are_refused() {
        for table in ["", "A", "a b", "a;b", "1a", "a\"", &"a".repeat(49)] {
            let settings = Settings {
                url: "postgres://u@localhost/d".to_owned(),
                table: table.to_owned(),
                password_env: None,
            };
            assert!(
                matches!(Pgvector::open(settings), Err(Error::Invalid(_))),
                "{table}"
            );
        }
    }
}
