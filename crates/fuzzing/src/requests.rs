//! Requests as bytes on the wire, of every RPC: whatever they hold, the answer tells of no defect.

use std::time::Duration;

use prost::Message;
use tidemill_proto::METHODS;
use tidemill_proto::api::workflowservice::v1::*;

use crate::engine::{path, with_engine};
use crate::stateful::calls;

/// Calls that wait for something are given up.
const PATIENCE: Duration = Duration::from_millis(30);
const REQUESTS_MAX: usize = 8;

/// Requests one after the other: the place of the RPC among all, the length in two bytes, the message.
pub fn requests(data: &[u8]) {
    with_engine(async |engine| {
        let mut rest = data;
        for _ in 0..REQUESTS_MAX {
            let Some((head, body)) = rest.split_at_checked(3) else {
                break;
            };
            let (method, _) = METHODS[usize::from(head[0]) % METHODS.len()];
            let len = usize::from(u16::from_be_bytes([head[1], head[2]]));
            let (message, after) = body.split_at(len.min(body.len()));
            rest = after;
            // Its outcome was looked at.
            let _ = engine.send(method, message, PATIENCE).await;
        }
        let info: Result<GetSystemInfoResponse, _> = engine
            .call(
                "GetSystemInfo",
                &GetSystemInfoRequest::default(),
                Duration::from_secs(60),
            )
            .await;
        assert!(info.is_ok(), "it serves no more: {info:?}");
        engine
    });
}

/// Inputs of [`requests`] that are legal, for fuzzers to begin with.
pub fn samples() -> Vec<(String, Vec<u8>)> {
    let start = calls::start("w0");
    let started = frame("StartWorkflowExecution", &start);
    let mut samples = Vec::new();
    let mut sample = |name: &str, request: Vec<u8>| {
        let mut input = started.clone();
        input.extend(frame_bytes(name, &request));
        samples.push((name.to_owned(), input));
    };
    for (name, request) in calls::legal() {
        sample(name, request);
    }
    samples.push(("StartWorkflowExecution".to_owned(), started));
    samples
}

fn frame(name: &str, request: &impl Message) -> Vec<u8> {
    frame_bytes(name, &request.encode_to_vec())
}

fn frame_bytes(name: &str, request: &[u8]) -> Vec<u8> {
    let path = path(name);
    let place = METHODS.iter().position(|(method, _)| *method == path);
    let mut frame = vec![place.unwrap_or_default() as u8];
    frame.extend((request.len() as u16).to_be_bytes());
    frame.extend(request);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Option<i32> = Some(0);
    const INVALID_ARGUMENT: Option<i32> = Some(3);

    /// What each answered with, `None` for nothing until the caller went.
    fn codes(requests: Vec<(&'static str, Vec<u8>)>) -> Vec<(&'static str, Option<i32>)> {
        let mut codes = Vec::new();
        with_engine(async |engine| {
            for (name, message) in &requests {
                let answer = engine.send(path(name), message, PATIENCE).await;
                codes.push((
                    *name,
                    answer.map_or_else(|e| e.map(|(code, _)| code), |_| OK),
                ));
            }
            engine
        });
        codes
    }

    #[test]
    fn legal_requests_are_understood() {
        for (name, code) in codes(calls::legal()) {
            match name {
                // Its token is none.
                "RespondWorkflowTaskCompleted" => assert_eq!(code, INVALID_ARGUMENT),
                // The run that is started first is `w1`, and has no such event.
                "ResetWorkflowExecution" => assert!(code.is_some()),
                "StartWorkflowExecution" | "ListWorkflowExecutions" => assert_eq!(code, OK),
                _ => assert_ne!(code, INVALID_ARGUMENT, "{name}"),
            }
        }
    }

    #[test]
    fn every_rpc_answers_an_empty_message() {
        let all = METHODS.iter().map(|(_, name)| (*name, Vec::new()));
        let codes = codes(all.collect());
        assert_eq!(codes.len(), METHODS.len());
        assert!(codes.contains(&("StartWorkflowExecution", INVALID_ARGUMENT)));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert_eq!(
            codes(vec![("StartWorkflowExecution", vec![0xff; 4])]),
            [("StartWorkflowExecution", Some(13))]
        );
    }
}
