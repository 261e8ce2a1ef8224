//! Queries: they see what was acknowledged before.

use std::time::Duration;

use tidemill_engine::Error;
use tidemill_proto::api::query::v1::WorkflowQuery;
use tidemill_proto::api::workflowservice::v1::*;

use super::{call_for, execution, until};
use crate::life::Link;
use crate::oracle;

/// Asks how many signals the workflow has had.
pub(super) async fn ask(link: Link, at: usize, number: usize, when: Duration) {
    until(when).await;
    let id = &link.world.plan.workflows[at].id;
    while !link.client(at, |client| client.queried.contains(&number)) {
        let least = link.world.with(|shared| shared.ledger.signals_of(id));
        let request = QueryWorkflowRequest {
            execution: execution(id, ""),
            query: Some(WorkflowQuery {
                query_type: "signals".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let asked =
            link.server
                .query_workflow(&link.namespace, request, call_for(Duration::from_secs(10)));
        let answer = asked.await;
        link.note(&format!("query {id}"), &answer, crate::trace::digest);
        match answer {
            Ok(answer) => {
                let told = oracle::result(&answer.query_result);
                let most = link.world.plan.workflows[at].signals.len();
                link.world.with(|shared| {
                    shared.stats.queries += 1;
                    if !told
                        .parse()
                        .is_ok_and(|told| (least..=most).contains(&told))
                    {
                        shared.find(format!(
                            "a query of {id} told of {told} signals, {least} had been acknowledged"
                        ));
                    }
                });
                link.client(at, |client| client.queried.insert(number));
            }
            Err(Error::NotFound(_)) => {
                link.client(at, |client| client.queried.insert(number));
            }
            Err(_) => {}
        }
        link.world.dawdle(300).await;
    }
}
