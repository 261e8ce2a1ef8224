//! Which attributes exist, what type they have and where they are kept.

use std::collections::BTreeMap;

use crate::AttributeType;

/// The prefix that belongs to the server: no custom attribute may start with it.
pub const RESERVED_PREFIX: &str = "Temporal";
/// The attribute that hides runs of the server's own making (schedules, batches).
pub const DIVISION: &str = "TemporalNamespaceDivision";
/// What the workflow id of a schedule starts with.
pub const SCHEDULE_ID_PREFIX: &str = "temporal-sys-scheduler:";
const SCHEDULE_ID: &str = "ScheduleId";

/// A column of the executions table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    WorkflowId,
    RunId,
    WorkflowType,
    TaskQueue,
    Status,
    StartTime,
    ExecutionTime,
    CloseTime,
    HistoryLength,
    HistorySizeBytes,
    ExecutionDuration,
    StateTransitionCount,
    ParentWorkflowId,
    ParentRunId,
    RootWorkflowId,
    RootRunId,
    Division,
}

/// System attributes: they describe every run and no client sets them.
const SYSTEM: &[(&str, AttributeType, Column)] = &[
    ("CloseTime", AttributeType::Datetime, Column::CloseTime),
    (
        "ExecutionDuration",
        AttributeType::Int,
        Column::ExecutionDuration,
    ),
    ("ExecutionStatus", AttributeType::Keyword, Column::Status),
    (
        "ExecutionTime",
        AttributeType::Datetime,
        Column::ExecutionTime,
    ),
    ("HistoryLength", AttributeType::Int, Column::HistoryLength),
    (
        "HistorySizeBytes",
        AttributeType::Int,
        Column::HistorySizeBytes,
    ),
    ("ParentRunId", AttributeType::Keyword, Column::ParentRunId),
    (
        "ParentWorkflowId",
        AttributeType::Keyword,
        Column::ParentWorkflowId,
    ),
    ("RootRunId", AttributeType::Keyword, Column::RootRunId),
    (
        "RootWorkflowId",
        AttributeType::Keyword,
        Column::RootWorkflowId,
    ),
    ("RunId", AttributeType::Keyword, Column::RunId),
    ("StartTime", AttributeType::Datetime, Column::StartTime),
    (
        "StateTransitionCount",
        AttributeType::Int,
        Column::StateTransitionCount,
    ),
    ("TaskQueue", AttributeType::Keyword, Column::TaskQueue),
    ("WorkflowId", AttributeType::Keyword, Column::WorkflowId),
    ("WorkflowType", AttributeType::Keyword, Column::WorkflowType),
];

/// Predefined attributes, and whether a client may set them.
const PREDEFINED: &[(&str, AttributeType, bool)] = &[
    ("BatcherNamespace", AttributeType::Keyword, true),
    ("BatcherUser", AttributeType::Keyword, true),
    ("BinaryChecksums", AttributeType::KeywordList, true),
    ("BuildIds", AttributeType::KeywordList, true),
    ("TemporalChangeVersion", AttributeType::KeywordList, true),
    ("TemporalExternalPayloadCount", AttributeType::Int, false),
    (
        "TemporalExternalPayloadSizeBytes",
        AttributeType::Int,
        false,
    ),
    (DIVISION, AttributeType::Keyword, true),
    ("TemporalPauseInfo", AttributeType::KeywordList, true),
    ("TemporalReportedProblems", AttributeType::KeywordList, true),
    ("TemporalScheduledById", AttributeType::Keyword, true),
    ("TemporalScheduledStartTime", AttributeType::Datetime, true),
    ("TemporalSchedulePaused", AttributeType::Bool, true),
    (
        "TemporalUsedWorkerDeploymentVersions",
        AttributeType::KeywordList,
        false,
    ),
    ("TemporalWorkerDeployment", AttributeType::Keyword, false),
    (
        "TemporalWorkerDeploymentVersion",
        AttributeType::Keyword,
        false,
    ),
    (
        "TemporalWorkflowVersioningBehavior",
        AttributeType::Keyword,
        false,
    ),
];

/// Names that no custom attribute may take although they are no attributes.
const RESERVED: &[&str] = &["NamespaceId", "Memo", "MemoEncoding", "VisibilityTaskKey"];

/// Where the values of a field are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A column of the executions table.
    Column(Column),
    /// Rows of the attributes table, under this name.
    Attribute(String),
}

/// What a name in a filter stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub target: Target,
    pub kind: AttributeType,
    /// Put before every string literal compared with the field (`ScheduleId`).
    pub literal_prefix: &'static str,
}

/// The attributes of one namespace: the system's, the predefined and the custom ones.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    custom: BTreeMap<String, AttributeType>,
}

impl FromIterator<(String, AttributeType)> for Schema {
    fn from_iter<I: IntoIterator<Item = (String, AttributeType)>>(custom: I) -> Self {
        Schema::with_custom(custom)
    }
}

impl Schema {
    /// The schema of a namespace without custom attributes.
    pub fn new() -> Self {
        Schema::default()
    }

    /// A schema with custom attributes. A name that is a system or predefined attribute keeps its
    /// system meaning in filters.
    pub fn with_custom(custom: impl IntoIterator<Item = (String, AttributeType)>) -> Self {
        Schema {
            custom: custom.into_iter().collect(),
        }
    }

    /// Custom attributes by name, in name order.
    pub fn custom(&self) -> impl Iterator<Item = (&str, AttributeType)> {
        self.custom
            .iter()
            .map(|(name, kind)| (name.as_str(), *kind))
    }

    /// System and predefined attributes: what `ListSearchAttributes` calls system attributes.
    pub fn system() -> impl Iterator<Item = (&'static str, AttributeType)> {
        let system = SYSTEM.iter().map(|(name, kind, _)| (*name, *kind));
        system.chain(PREDEFINED.iter().map(|(name, kind, _)| (*name, *kind)))
    }

    /// True for attributes that describe every run, such as `WorkflowType`.
    pub fn is_system(name: &str) -> bool {
        SYSTEM.iter().any(|(system, ..)| *system == name)
    }

    /// True for attributes that the server defines and that are kept with the custom ones.
    pub fn is_predefined(name: &str) -> bool {
        PREDEFINED
            .iter()
            .any(|(predefined, ..)| *predefined == name)
    }

    /// True for names that a custom attribute must not take.
    pub fn is_reserved(name: &str) -> bool {
        Schema::is_system(name)
            || Schema::is_predefined(name)
            || RESERVED.contains(&name)
            || name.starts_with(RESERVED_PREFIX)
    }

    /// True when a client may set the attribute on a run: it exists, is no system attribute and
    /// no predefined one that only the server sets.
    pub fn is_settable(&self, name: &str) -> bool {
        match PREDEFINED
            .iter()
            .find(|(predefined, ..)| *predefined == name)
        {
            Some((_, _, settable)) => *settable,
            None => !Schema::is_system(name) && self.custom.contains_key(name),
        }
    }

    /// The type under which an attribute's values are stored on a run; `None` when no such
    /// attribute exists or it is a system attribute. Takes the exact name, no aliases.
    pub fn stored_type(&self, name: &str) -> Option<AttributeType> {
        match PREDEFINED
            .iter()
            .find(|(predefined, ..)| *predefined == name)
        {
            Some((_, kind, _)) => Some(*kind),
            None if Schema::is_system(name) => None,
            None => self.custom.get(name).copied(),
        }
    }

    /// What a name in a filter stands for. In order: a custom attribute, a system or predefined
    /// attribute, `ScheduleId`, and the name with the `Temporal` prefix removed or added.
    pub fn resolve(&self, name: &str) -> Option<Field> {
        if let Some(field) = builtin(name) {
            return Some(field);
        }
        if let Some(kind) = self.custom.get(name) {
            return Some(Field {
                target: Target::Attribute(name.to_owned()),
                kind: *kind,
                literal_prefix: "",
            });
        }
        let stripped = name.strip_prefix(RESERVED_PREFIX);
        if stripped.unwrap_or(name) == SCHEDULE_ID {
            return Some(Field {
                target: Target::Column(Column::WorkflowId),
                kind: AttributeType::Keyword,
                literal_prefix: SCHEDULE_ID_PREFIX,
            });
        }
        match stripped {
            Some(stripped) => builtin(stripped),
            None => builtin(&format!("{RESERVED_PREFIX}{name}")),
        }
    }

    /// All names that [`Schema::resolve`] knows exactly, for suggestions.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let system = Schema::system().map(|(name, _)| name);
        system.chain(self.custom().map(|(name, _)| name))
    }
}

/// A system or predefined attribute by its exact name.
fn builtin(name: &str) -> Option<Field> {
    let (target, kind) = if name == DIVISION {
        (Target::Column(Column::Division), AttributeType::Keyword)
    } else if let Some((_, kind, column)) = SYSTEM.iter().find(|(system, ..)| *system == name) {
        (Target::Column(*column), *kind)
    } else {
        let (name, kind, _) = PREDEFINED.iter().find(|(other, ..)| *other == name)?;
        (Target::Attribute((*name).to_owned()), *kind)
    };
    Some(Field {
        target,
        kind,
        literal_prefix: "",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        Schema::with_custom([
            ("Env".to_owned(), AttributeType::Keyword),
            ("Score".to_owned(), AttributeType::Double),
            // A name that means something else already: the system's meaning wins.
            ("WorkflowType".to_owned(), AttributeType::Int),
        ])
    }

    #[test]
    fn names_resolve() {
        let column = |column, kind, literal_prefix| {
            Some(Field {
                target: Target::Column(column),
                kind,
                literal_prefix,
            })
        };
        let attribute = |name: &str, kind| {
            Some(Field {
                target: Target::Attribute(name.to_owned()),
                kind,
                literal_prefix: "",
            })
        };
        use AttributeType::*;
        let rows = [
            ("Env", attribute("Env", Keyword)),
            ("env", None),
            ("WorkflowType", column(Column::WorkflowType, Keyword, "")),
            (
                "TemporalWorkflowType",
                column(Column::WorkflowType, Keyword, ""),
            ),
            ("TemporalEnv", None),
            ("NamespaceDivision", column(Column::Division, Keyword, "")),
            (DIVISION, column(Column::Division, Keyword, "")),
            ("SchedulePaused", attribute("TemporalSchedulePaused", Bool)),
            ("BuildIds", attribute("BuildIds", KeywordList)),
            ("TemporalBuildIds", attribute("BuildIds", KeywordList)),
            (
                "ScheduleId",
                column(Column::WorkflowId, Keyword, SCHEDULE_ID_PREFIX),
            ),
            (
                "TemporalScheduleId",
                column(Column::WorkflowId, Keyword, SCHEDULE_ID_PREFIX),
            ),
            ("Temporal", None),
            ("", None),
            ("NamespaceId", None),
        ];
        for (name, expected) in rows {
            assert_eq!(schema().resolve(name), expected, "{name}");
        }
    }

    #[test]
    fn a_custom_schedule_id_is_an_attribute() {
        let schema = Schema::with_custom([("ScheduleId".to_owned(), AttributeType::Keyword)]);
        let field = schema.resolve("ScheduleId").unwrap();
        assert_eq!(field.target, Target::Attribute("ScheduleId".to_owned()));
        let field = schema.resolve("TemporalScheduleId").unwrap();
        assert_eq!(field.target, Target::Column(Column::WorkflowId));
    }

    #[test]
    fn who_may_set_what() {
        // name, system, predefined, reserved, settable
        let rows = [
            ("Env", false, false, false, true),
            ("WorkflowId", true, false, true, false),
            ("WorkflowType", true, false, true, false),
            ("BuildIds", false, true, true, true),
            ("TemporalChangeVersion", false, true, true, true),
            ("TemporalWorkerDeployment", false, true, true, false),
            ("TemporalWhatever", false, false, true, false),
            ("Memo", false, false, true, false),
            ("Unknown", false, false, false, false),
        ];
        for (name, system, predefined, reserved, settable) in rows {
            assert_eq!(Schema::is_system(name), system, "{name}");
            assert_eq!(Schema::is_predefined(name), predefined, "{name}");
            assert_eq!(Schema::is_reserved(name), reserved, "{name}");
            assert_eq!(schema().is_settable(name), settable, "{name}");
        }
        assert_eq!(Schema::system().count(), SYSTEM.len() + PREDEFINED.len());
        assert_eq!(schema().stored_type("Score"), Some(AttributeType::Double));
        assert_eq!(schema().stored_type("WorkflowType"), None);
    }
}
