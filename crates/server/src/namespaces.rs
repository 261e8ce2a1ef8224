//! The namespaces of a store: their records, the rules for changing them, and cheap snapshots
//! for the request path.
//!
//! A change is shown only when it is durable. Readers take a reference count and never wait for a
//! writer.

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use prost::Message;
use tidemill_engine::Error;
use tidemill_proto::api::enums::v1::{IndexedValueType, NamespaceState};
use tidemill_store::visibility::Schema;
use tidemill_store::{Commit, Committer, NamespaceId, NamespaceWrite, Store};
use uuid::Uuid;

use crate::core::read_failed;
use crate::record_writer::{RecordWriter, Turn};
use crate::search_attributes::{self, Custom};

/// The namespace that always exists for users.
pub const DEFAULT: &str = "default";
/// The namespace that always exists for the server; its id is Temporal's.
pub const SYSTEM: &str = "temporal-system";
const SYSTEM_ID: Uuid = Uuid::from_u128(0x32049b68_7872_4094_8e63_d0dd59896a83);
const SYSTEM_RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Bytes of a namespace's name.
pub const NAME_BYTES_MAX: usize = 1000;
/// The shortest time for which closed runs are kept.
pub const RETENTION_MIN: Duration = Duration::from_secs(3600);
const BAD_BINARIES_MAX: usize = 10;

/// The version of [`Record`]. A reader refuses a record of a newer one; fields may be added
/// without raising it as long as older readers may ignore them.
const RECORD_VERSION: u32 = 1;

/// A namespace as it was when it was looked up.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Details>);

/// What is known of a namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Details {
    pub id: NamespaceId,
    pub name: String,
    pub state: NamespaceState,
    pub description: String,
    pub owner_email: String,
    pub data: BTreeMap<String, String>,
    /// How long closed runs are kept.
    pub retention: Duration,
    pub bad_binaries: BTreeMap<String, BadBinary>,
    pub custom_search_attributes: Custom,
    schema: SchemaOf,
}

/// A build that must not run workflow tasks.
#[derive(Clone, PartialEq, Message)]
pub struct BadBinary {
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(string, tag = "2")]
    pub operator: String,
    /// Nanoseconds since the Unix epoch.
    #[prost(int64, tag = "3")]
    pub created: i64,
}

/// The schema made from a namespace's own attributes: equal when they are.
#[derive(Clone, Debug, Default)]
struct SchemaOf(Schema);

impl PartialEq for SchemaOf {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Deref for Namespace {
    type Target = Details;

    fn deref(&self) -> &Details {
        &self.0
    }
}

impl Details {
    /// The id as text, as the protocol carries it.
    pub fn id_string(&self) -> String {
        Uuid::from_bytes(self.id).to_string()
    }

    /// All attributes that runs of this namespace can have.
    pub fn search_attributes(&self) -> &Schema {
        &self.schema.0
    }
}

/// What a new namespace is given.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    pub name: String,
    pub description: String,
    pub owner_email: String,
    pub data: BTreeMap<String, String>,
    pub retention: Duration,
    pub custom_search_attributes: Custom,
}

/// Changes to a namespace; what is empty or `None` stays.
#[derive(Clone, Debug, Default)]
pub struct Update {
    pub description: String,
    pub owner_email: String,
    /// Merged into what is there.
    pub data: BTreeMap<String, String>,
    pub state: Option<NamespaceState>,
    pub retention: Option<Duration>,
    /// Merged into what is there.
    pub bad_binaries: BTreeMap<String, BadBinary>,
    pub delete_bad_binary: String,
}

/// The namespaces of a store.
pub struct Namespaces {
    index: Arc<RwLock<Index>>,
    writer: RecordWriter,
}

#[derive(Default)]
struct Index {
    by_id: BTreeMap<NamespaceId, Namespace>,
    by_name: HashMap<String, Namespace>,
}

impl Index {
    fn insert(&mut self, namespace: Namespace) {
        self.remove(&namespace.id);
        self.by_name
            .insert(namespace.name.clone(), namespace.clone());
        self.by_id.insert(namespace.id, namespace);
    }

    fn remove(&mut self, id: &NamespaceId) -> Option<Namespace> {
        let old = self.by_id.remove(id)?;
        self.by_name.remove(&old.name);
        Some(old)
    }
}

impl Namespaces {
    /// Reads the namespaces of a store and makes the system's and those of `wanted` that are
    /// missing. Those that exist keep their settings.
    pub async fn open(
        store: &dyn Store,
        committer: Arc<Committer>,
        wanted: Vec<Registration>,
    ) -> Result<Self, Error> {
        let stored = store.namespaces().map_err(read_failed)?;
        let mut index = Index::default();
        for write in stored {
            if let Some(value) = &write.value {
                index.insert(decode(value)?);
            }
        }
        let this = Self {
            index: Arc::new(RwLock::new(index)),
            writer: RecordWriter::new(committer),
        };
        if this.by_id(SYSTEM_ID.as_bytes()).is_err() {
            let system = Registration {
                name: SYSTEM.to_owned(),
                description: "Namespace of the server itself.".to_owned(),
                retention: SYSTEM_RETENTION,
                ..Default::default()
            };
            this.create(SYSTEM_ID, system).await?;
        }
        for registration in wanted {
            match this.register(registration).await {
                Ok(_) | Err(Error::NamespaceAlreadyExists) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(this)
    }

    /// A namespace by name, in any state.
    pub fn by_name(&self, name: &str) -> Result<Namespace, Error> {
        if name.is_empty() {
            return Err(Error::invalid("Namespace not set on request."));
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::invalid("Namespace length exceeds limit."));
        }
        let found = self.index.read().by_name.get(name).cloned();
        found.ok_or_else(|| Error::NamespaceNotFound(name.to_owned()))
    }

    /// A namespace by id, in any state.
    pub fn by_id(&self, id: &NamespaceId) -> Result<Namespace, Error> {
        let found = self.index.read().by_id.get(id).cloned();
        found.ok_or_else(|| Error::NamespaceNotFound(Uuid::from_bytes(*id).to_string()))
    }

    /// A namespace by the text of its id.
    pub fn by_id_text(&self, id: &str) -> Result<Namespace, Error> {
        let parsed = Uuid::parse_str(id).map_err(|_| Error::NamespaceNotFound(id.to_owned()))?;
        self.by_id(parsed.as_bytes())
    }

    /// Namespaces in the order of their ids, after the given one.
    pub fn after(&self, id: Option<NamespaceId>, limit: usize) -> Vec<Namespace> {
        use std::ops::Bound;
        let from = id.map_or(Bound::Unbounded, Bound::Excluded);
        let index = self.index.read();
        index
            .by_id
            .range((from, Bound::Unbounded))
            .take(limit)
            .map(|(_, ns)| ns.clone())
            .collect()
    }

    /// Makes a namespace.
    pub async fn register(&self, registration: Registration) -> Result<Namespace, Error> {
        if registration.name.is_empty() {
            return Err(Error::invalid("Namespace not set on request."));
        }
        if registration.name.len() > NAME_BYTES_MAX {
            return Err(Error::invalid("Namespace length exceeds limit."));
        }
        check_retention(registration.retention)?;
        self.create(Uuid::new_v4(), registration).await
    }

    async fn create(&self, id: Uuid, registration: Registration) -> Result<Namespace, Error> {
        let turn = self.writer.turn().await;
        if self.index.read().by_name.contains_key(&registration.name) {
            return Err(Error::NamespaceAlreadyExists);
        }
        let details = Details {
            id: id.into_bytes(),
            name: registration.name,
            state: NamespaceState::Registered,
            description: registration.description,
            owner_email: registration.owner_email,
            data: registration.data,
            retention: registration.retention,
            bad_binaries: BTreeMap::new(),
            custom_search_attributes: registration.custom_search_attributes,
            schema: SchemaOf::default(),
        };
        self.persist(turn, details).await
    }

    /// Changes a namespace by the rules for users.
    pub async fn update(&self, name: &str, update: Update) -> Result<Namespace, Error> {
        self.change(name, |details| apply(details, update)).await
    }

    /// Adds custom search attributes.
    pub async fn add_search_attributes(
        &self,
        name: &str,
        wanted: &HashMap<String, i32>,
    ) -> Result<Namespace, Error> {
        self.change(name, |d| {
            search_attributes::add(&mut d.custom_search_attributes, wanted)
        })
        .await
    }

    /// Removes custom search attributes.
    pub async fn remove_search_attributes(
        &self,
        name: &str,
        names: &[String],
    ) -> Result<Namespace, Error> {
        self.change(name, |d| {
            search_attributes::remove(&mut d.custom_search_attributes, names)
        })
        .await
    }

    /// Marks a namespace as deleted and frees its name. Its runs are then for the caller to
    /// delete, after which [`crate::Server::forget_namespace`] removes the record.
    pub async fn delete(&self, name: &str) -> Result<Namespace, Error> {
        self.change(name, |details| {
            if details.name == SYSTEM {
                let text = "Unable to delete system namespace: temporal-system.";
                return Err(Error::FailedPrecondition(text.to_owned()));
            }
            if details.state != NamespaceState::Deleted {
                let id = details.id_string();
                details.name = format!("{}-deleted-{}", details.name, &id[..5]);
                details.state = NamespaceState::Deleted;
            }
            Ok(())
        })
        .await
    }

    /// Removes the record of a deleted namespace.
    pub(crate) async fn forget(&self, id: &NamespaceId) -> Result<(), Error> {
        let turn = self.writer.turn().await;
        let namespace = self.by_id(id)?;
        if namespace.state != NamespaceState::Deleted {
            return Err(Error::FailedPrecondition(
                "Namespace is not deleted.".to_owned(),
            ));
        }
        let write = NamespaceWrite {
            id: *id,
            name: namespace.name.clone(),
            value: None,
        };
        let id = *id;
        self.write(turn, write, move |index| {
            index.remove(&id);
        })
        .await
    }

    async fn change(
        &self,
        name: &str,
        change: impl FnOnce(&mut Details) -> Result<(), Error>,
    ) -> Result<Namespace, Error> {
        let turn = self.writer.turn().await;
        let old = self.by_name(name)?;
        let mut details = Details::clone(&old);
        change(&mut details)?;
        if details == *old {
            return Ok(old);
        }
        self.persist(turn, details).await
    }

    async fn persist(&self, turn: Turn, mut details: Details) -> Result<Namespace, Error> {
        details.schema = schema_of(&details.custom_search_attributes);
        let value = Some(encode(&details).into());
        let write = NamespaceWrite {
            id: details.id,
            name: details.name.clone(),
            value,
        };
        let namespace = Namespace(Arc::new(details));
        let shown = namespace.clone();
        self.write(turn, write, |index| index.insert(shown)).await?;
        Ok(namespace)
    }

    async fn write(
        &self,
        turn: Turn,
        write: NamespaceWrite,
        show: impl FnOnce(&mut Index) + Send + 'static,
    ) -> Result<(), Error> {
        let commit = Commit {
            namespaces: vec![write],
            ..Default::default()
        };
        let index = self.index.clone();
        self.writer
            .write(turn, commit, move || show(&mut index.write()))
            .await
    }
}

fn check_retention(retention: Duration) -> Result<(), Error> {
    if retention < RETENTION_MIN {
        return Err(Error::invalid(
            "A valid retention period is not set on request.",
        ));
    }
    Ok(())
}

fn apply(details: &mut Details, update: Update) -> Result<(), Error> {
    if !update.description.is_empty() {
        details.description = update.description;
    }
    if !update.owner_email.is_empty() {
        details.owner_email = update.owner_email;
    }
    details.data.extend(update.data);
    if let Some(state) = update.state.filter(|state| *state != details.state) {
        use NamespaceState::{Deleted, Deprecated, Registered};
        match (details.state, state) {
            (Registered, Deprecated | Deleted) | (Deprecated, Deleted) => details.state = state,
            _ => return Err(Error::invalid("Invalid namespace state update.")),
        }
    }
    if let Some(retention) = update.retention {
        check_retention(retention)?;
        details.retention = retention;
    }
    details.bad_binaries.extend(update.bad_binaries);
    if details.bad_binaries.len() > BAD_BINARIES_MAX {
        return Err(Error::InvalidArgument(format!(
            "Total resetBinaries cannot exceed the max limit: {BAD_BINARIES_MAX}"
        )));
    }
    let checksum = update.delete_bad_binary;
    if !checksum.is_empty() && details.bad_binaries.remove(&checksum).is_none() {
        let text = format!("Bad binary checksum {checksum} doesn't exists.");
        return Err(Error::InvalidArgument(text));
    }
    Ok(())
}

fn schema_of(custom: &Custom) -> SchemaOf {
    SchemaOf(Schema::with_custom(
        custom.iter().map(|(name, ty)| (name.clone(), *ty)),
    ))
}

/// A namespace in the store.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(int32, tag = "4")]
    state: i32,
    #[prost(string, tag = "5")]
    description: String,
    #[prost(string, tag = "6")]
    owner_email: String,
    #[prost(btree_map = "string, string", tag = "7")]
    data: BTreeMap<String, String>,
    #[prost(uint64, tag = "8")]
    retention_ms: u64,
    #[prost(btree_map = "string, message", tag = "9")]
    bad_binaries: BTreeMap<String, BadBinary>,
    /// Name to `temporal.api.enums.v1.IndexedValueType`.
    #[prost(btree_map = "string, int32", tag = "10")]
    search_attributes: BTreeMap<String, i32>,
}

fn encode(details: &Details) -> Vec<u8> {
    let search_attributes = details
        .custom_search_attributes
        .iter()
        .map(|(name, ty)| (name.clone(), search_attributes::to_proto(*ty) as i32))
        .collect();
    Record {
        version: RECORD_VERSION,
        id: details.id.to_vec(),
        name: details.name.clone(),
        state: details.state as i32,
        description: details.description.clone(),
        owner_email: details.owner_email.clone(),
        data: details.data.clone(),
        retention_ms: u64::try_from(details.retention.as_millis()).unwrap_or(u64::MAX),
        bad_binaries: details.bad_binaries.clone(),
        search_attributes,
    }
    .encode_to_vec()
}

fn decode(bytes: &[u8]) -> Result<Namespace, Error> {
    let lost = |what: String| Error::DataLoss(format!("namespace record: {what}"));
    let record = Record::decode(bytes).map_err(|e| lost(e.to_string()))?;
    if record.version > RECORD_VERSION {
        return Err(lost(format!(
            "version {} is newer than this binary",
            record.version
        )));
    }
    let id = record
        .id
        .try_into()
        .map_err(|_| lost("its id is not a UUID".to_owned()))?;
    let custom: Custom = record
        .search_attributes
        .into_iter()
        .filter_map(|(name, ty)| {
            let ty = IndexedValueType::try_from(ty)
                .ok()
                .and_then(search_attributes::from_proto)?;
            Some((name, ty))
        })
        .collect();
    Ok(Namespace(Arc::new(Details {
        id,
        name: record.name,
        state: NamespaceState::try_from(record.state)
            .map_err(|_| lost(format!("unknown state {}", record.state)))?,
        description: record.description,
        owner_email: record.owner_email,
        data: record.data,
        retention: Duration::from_millis(record.retention_ms),
        bad_binaries: record.bad_binaries,
        schema: schema_of(&custom),
        custom_search_attributes: custom,
    })))
}

#[cfg(test)]
mod tests;
