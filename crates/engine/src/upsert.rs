//! Commands that change a run's search attributes and memo.

use prost::Message as _;
use tidemill_proto::api::command::v1::{
    ModifyWorkflowPropertiesCommandAttributes, UpsertWorkflowSearchAttributesCommandAttributes,
};
use tidemill_proto::api::common::v1::{Memo, SearchAttributes};
use tidemill_proto::api::enums::v1::WorkflowTaskFailedCause as Cause;
use tidemill_proto::api::history::v1::{
    UpsertWorkflowSearchAttributesEventAttributes, WorkflowPropertiesModifiedEventAttributes,
};

use crate::command::{CommandContext, Refused};
use crate::search_attribute;
use crate::tx::Tx;

pub(crate) fn search_attributes(
    tx: &mut Tx<'_>,
    a: UpsertWorkflowSearchAttributesCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    let bad = |m: String| Refused::new(Cause::BadSearchAttributes, m);
    let Some(upsert) = a.search_attributes.filter(|s| !s.indexed_fields.is_empty()) else {
        return Err(bad(
            "SearchAttributes is not set on UpsertWorkflowSearchAttributesCommand.".into(),
        ));
    };
    let upsert = checked(tx, upsert)?;
    tx.push_event(
        command.event(UpsertWorkflowSearchAttributesEventAttributes {
            workflow_task_completed_event_id: command.completed_id,
            search_attributes: Some(upsert.clone()),
        }),
    );
    tx.change_visible(|v| {
        search_attribute::merge(v.search_attributes.get_or_insert_default(), &upsert)
    });
    Ok(())
}

/// Checks search attributes that a command carries (upsert, continue-as-new, child start) and
/// marks each with its type.
pub(crate) fn checked(
    tx: &Tx<'_>,
    attributes: SearchAttributes,
) -> Result<SearchAttributes, Refused> {
    search_attribute::validate(&attributes, tx.cx.schema, tx.limits())
        .map_err(|m| Refused::new(Cause::BadSearchAttributes, m))?;
    // All of them are known: none is left out.
    Ok(search_attribute::typed(Some(&attributes), tx.cx.schema).unwrap_or(attributes))
}

pub(crate) fn memo(
    tx: &mut Tx<'_>,
    a: ModifyWorkflowPropertiesCommandAttributes,
    command: &CommandContext,
) -> Result<(), Refused> {
    let Some(upsert) = a.upserted_memo.filter(|m| !m.fields.is_empty()) else {
        return Err(Refused::new(
            Cause::BadModifyWorkflowPropertiesAttributes,
            "UpsertedMemo is not set on ModifyWorkflowPropertiesCommand.",
        ));
    };
    let mut merged = tx.run.visible.memo.clone().unwrap_or_default();
    merge_memo(&mut merged, &upsert);
    check_memo(tx, &merged, Cause::BadModifyWorkflowPropertiesAttributes)?;
    tx.push_event(command.event(WorkflowPropertiesModifiedEventAttributes {
        workflow_task_completed_event_id: command.completed_id,
        upserted_memo: Some(upsert),
    }));
    tx.change_visible(|v| v.memo = Some(merged));
    Ok(())
}

/// Applies a memo upsert: each key replaces, a null value removes.
pub(crate) fn merge_memo(into: &mut Memo, upsert: &Memo) {
    for (name, payload) in &upsert.fields {
        if search_attribute::is_unset(payload) {
            into.fields.remove(name);
        } else {
            into.fields.insert(name.clone(), payload.clone());
        }
    }
}

/// A memo that is too large ends the run.
pub(crate) fn check_memo(tx: &Tx<'_>, memo: &Memo, cause: Cause) -> Result<(), Refused> {
    let size = memo.encoded_len();
    if size > tx.limits().memo_size {
        return Err(Refused::terminate(
            cause,
            format!(
                "memo size {size} exceeds size limit {}",
                tx.limits().memo_size
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidemill_proto::api::command::v1::Command;
    use tidemill_proto::api::common::v1::Payload;
    use tidemill_proto::api::enums::v1::EventType as E;

    use super::*;
    use crate::Error;
    use crate::testing::{Rig, command, json};

    fn fields(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, Payload)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json(value)))
    }

    fn attributes(pairs: &[(&str, &str)]) -> Command {
        let upsert = SearchAttributes {
            indexed_fields: fields(pairs).collect(),
        };
        command(
            UpsertWorkflowSearchAttributesCommandAttributes {
                search_attributes: Some(upsert),
            }
            .into(),
        )
    }

    fn modify(pairs: &[(&str, &str)]) -> Command {
        let upsert = Memo {
            fields: fields(pairs).collect(),
        };
        command(
            ModifyWorkflowPropertiesCommandAttributes {
                upserted_memo: Some(upsert),
            }
            .into(),
        )
    }

    fn texts<'a>(
        fields: impl IntoIterator<Item = (&'a String, &'a Payload)>,
    ) -> BTreeMap<&'a str, &'a str> {
        fields
            .into_iter()
            .map(|(name, p)| (name.as_str(), std::str::from_utf8(&p.data).unwrap()))
            .collect()
    }

    /// Upserts one after the other, and what is there in the end.
    type Fields = &'static [(&'static str, &'static str)];
    const ROWS: [(&[Fields], Fields); 4] = [
        (&[&[("Word", "\"a\"")]], &[("Word", "\"a\"")]),
        (
            &[&[("Word", "\"a\""), ("Number", "1")], &[("Number", "2")]],
            &[("Number", "2"), ("Word", "\"a\"")],
        ),
        (
            &[&[("Word", "\"a\""), ("Number", "1")], &[("Word", "null")]],
            &[("Number", "1")],
        ),
        (&[&[("Word", "\"a\"")], &[("Word", "[]")]], &[]),
    ];

    #[test]
    fn each_key_replaces() {
        for (upserts, expected) in ROWS {
            let mut rig = Rig::new();
            for (i, upsert) in upserts.iter().enumerate() {
                let shown = rig.shown;
                rig.task(vec![attributes(upsert), modify(upsert)]);
                assert_eq!(rig.shown, shown + 1);
                rig.signal(&i.to_string()).unwrap();
            }
            let expected: BTreeMap<_, _> = expected.iter().copied().collect();
            assert_eq!(
                texts(
                    &rig.run
                        .visible
                        .search_attributes
                        .as_ref()
                        .unwrap()
                        .indexed_fields
                ),
                expected
            );
            assert_eq!(
                texts(&rig.run.visible.memo.as_ref().unwrap().fields),
                expected
            );
            assert_eq!(rig.count(E::UpsertWorkflowSearchAttributes), upserts.len());
        }
    }

    #[test]
    fn what_is_refused() {
        let long = format!("\"{}\"", "x".repeat(3000));
        for (name, value) in [
            ("Unknown", "1"),
            ("WorkflowType", "\"x\""),
            ("Number", "\"x\""),
            ("Word", &long),
        ] {
            let mut rig = Rig::new();
            let started = rig.poll();
            let reply = rig.commands(&started.task, vec![attributes(&[(name, value)])]);
            assert!(
                matches!(reply, Err(Error::InvalidArgument(m)) if m.starts_with("BadSearchAttributes: ")),
                "{name}"
            );
            assert_eq!(
                (rig.state().as_str(), &rig.run.visible.search_attributes),
                ("scheduled attempt 2", &None)
            );
        }
    }

    #[test]
    fn a_memo_that_grows_too_large_ends_the_run() {
        let mut rig = Rig::new();
        rig.limits.memo_size = 100;
        for (i, ends) in [(0, false), (1, true)] {
            let started = rig.poll();
            let text = format!("\"{}\"", "x".repeat(50));
            let reply = rig.commands(&started.task, vec![modify(&[(&format!("k{i}"), &text)])]);
            assert_eq!(reply.is_err(), ends);
            assert_eq!(rig.run.is_open(), !ends);
            let _ = rig.signal("");
        }
        assert_eq!(rig.state(), "terminated");
    }
}
