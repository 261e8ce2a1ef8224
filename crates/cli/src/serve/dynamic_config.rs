//! `--dynamic-config-value KEY=JSON`: Temporal's switches. Those that say something about this
//! server are honoured; all others are accepted, because test suites set what they set.

use tidemill_engine::Limits;

use crate::exit::Failure;

/// Applies the values in order.
pub(crate) fn apply(values: &[String], limits: &mut Limits) -> Result<(), Failure> {
    for value in values {
        let (key, json) = value.split_once('=').ok_or_else(|| {
            Failure::usage(format!(
                "--dynamic-config-value {value}: KEY=JSON is wanted"
            ))
        })?;
        let json: serde_json::Value = serde_json::from_str(json).map_err(|error| {
            Failure::usage(format!("--dynamic-config-value {key}: not JSON: {error}"))
        })?;
        set(key, &json, limits)?;
    }
    Ok(())
}

fn set(key: &str, json: &serde_json::Value, limits: &mut Limits) -> Result<(), Failure> {
    let number = || {
        json.as_u64()
            .filter(|number| i64::try_from(*number).is_ok())
            .ok_or_else(|| {
                Failure::usage(format!(
                    "--dynamic-config-value {key}: {json} is not a number"
                ))
            })
    };
    let size = || number().map(|number| number as usize);
    let count = || number().map(|number| number as i64);
    match key.to_ascii_lowercase().as_str() {
        "limit.maxidlength" => limits.id_length = size()?,
        "limit.blobsize.error" => limits.blob_size = size()?,
        "limit.memosize.error" => limits.memo_size = size()?,
        "limit.historycount.error" => limits.history_count = count()?,
        "limit.historysize.error" => limits.history_size = count()?,
        "limit.historycount.suggestcontinueasnew" => {
            limits.suggest_continue_as_new_count = count()?;
        }
        "limit.historysize.suggestcontinueasnew" => {
            limits.suggest_continue_as_new_size = count()?;
        }
        "limit.numpendingactivities.error" => limits.pending_activities = size()?,
        "limit.numpendingchildexecutions.error" => limits.pending_children = size()?,
        "limit.numpendingsignals.error" => limits.pending_external_signals = size()?,
        "limit.numpendingcancelrequests.error" => limits.pending_external_cancels = size()?,
        "history.maximumsignalsperexecution" => limits.signals = count()?,
        "history.maximumbufferedeventsbatch" => limits.buffered_events = size()?,
        "history.maxbufferedquerycount" => limits.buffered_queries = size()?,
        "history.maxinflightupdates" => limits.updates_in_flight = size()?,
        "history.maxtotalupdates" => limits.updates_total = count()?,
        "frontend.searchattributesnumberofkeyslimit" => limits.search_attributes = size()?,
        "frontend.searchattributessizeofvaluelimit" => {
            limits.search_attribute_value_size = size()?;
        }
        "frontend.searchattributestotalsizelimit" => limits.search_attributes_size = size()?,
        _ => tracing::debug!(key, value = %json, "dynamic configuration without effect here"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_count() {
        let mut limits = Limits::default();
        let values = [
            "frontend.enableServerVersionCheck=false",
            "limit.blobSize.error=1000",
            "limit.historyCount.suggestContinueAsNew=50",
            "history.MaxBufferedQueryCount=100",
            "component.callbacks.allowedAddresses=[{\"Pattern\":\"*\",\"AllowInsecure\":true}]",
            "whatever=\"text\"",
        ];
        apply(&values.map(str::to_owned), &mut limits).unwrap();
        assert_eq!(limits.blob_size, 1000);
        assert_eq!(limits.suggest_continue_as_new_count, 50);
        assert_eq!(limits.buffered_queries, 100);
    }

    #[test]
    fn values_that_are_refused() {
        for value in [
            "no-equals-sign",
            "key=not json",
            "limit.blobSize.error=true",
            "limit.blobSize.error=-1",
        ] {
            let result = apply(&[value.to_owned()], &mut Limits::default());
            assert_eq!(result.unwrap_err().code(), 2, "{value}");
        }
    }
}
