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
        return Err(bad("SearchAttributes is not set on UpsertWorkflowSearchAttributesCommand.".into()));
    };
    let upsert = checked(tx, upsert)?;
    tx.push_event(command.event(UpsertWorkflowSearchAttributesEventAttributes {
        workflow_task_completed_event_id: command.completed_id,
        search_attributes: Some(upsert.clone()),
    }));
    tx.change_visible(|v| search_attribute::merge(v.search_attributes.get_or_insert_default(), &upsert));
    Ok(())
}

/// Checks search attributes that a command carries (upsert, continue-as-new, child start) and
/// marks each with its type.
pub(crate) fn checked(tx: &Tx<'_>, attributes: SearchAttributes) -> Result<SearchAttributes, Refused> {
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
        return Err(Refused::terminate(cause, format!("memo size {size} exceeds size limit {}", tx.limits().memo_size)));
    }
    Ok(())
}
