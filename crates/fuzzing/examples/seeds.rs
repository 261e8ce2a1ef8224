//! Writes what the fuzzers begin with into a folder: `cargo run -p tidemill-fuzzing --example seeds -- fuzz/seeds`.

use std::path::PathBuf;
use std::{env, fs};

use prost::Message;
use tidemill_fuzzing::samples;
use tidemill_proto::api::common::v1::Payload;

fn main() {
    let root = PathBuf::from(env::args().nth(1).expect("the folder of the seeds"));
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = root.join(target);
        fs::create_dir_all(&folder).expect("the folder can be made");
        fs::write(folder.join(name), bytes).expect("there is room");
    };
    for (name, bytes) in samples() {
        write("requests", &name, &bytes);
    }
    for (target, texts) in [
        (
            "filters",
            &[
                "\0WorkflowType = 'Type' AND ExecutionStatus = 'Running'",
                "\0StartTime BETWEEN '2024-01-01T00:00:00Z' AND '2030-01-01T00:00:00Z'",
                "\0(K IN ('a', 'b%') OR L = 'z') AND NOT X = 'word'",
                "\0I > -2 AND D <= 2.5e0 AND B = true ORDER BY StartTime DESC",
                "\0WorkflowId STARTS_WITH 'workflow-' AND CloseTime IS NULL",
                "\0ExecutionDuration > '5m' OR HistoryLength != 3",
                "\0K IS NOT NULL GROUP BY ExecutionStatus",
                "\0`K` = \"a\" and RunId = '00000000-0000-0000-0000-000000000001'",
            ][..],
        ),
        (
            "cron",
            &[
                "\0\0\0\0\0\0\0\0*/5 1-3,7 * jan-mar mon",
                "\0\0\0\0\0\0\0\0CRON_TZ=Europe/Berlin 30 2 * * *",
                "\0\0\0\0\0\0\0\0@every 1h30m",
                "\0\0\0\0\0\0\0\0@monthly",
                "\0\0\0\0\0\0\0\x170 0 29 2 *",
            ][..],
        ),
        (
            "attributes",
            &[
                "\x01\x05\"text\"",
                "\x02\x05[\"a\", \"b\"]",
                "\x03\x0542",
                "\x04\x05-1.5e3",
                "\x05\x05true",
                "\x06\x05\"2024-01-01T00:00:00.5+02:00\"",
                "\x07\x05[\"a\"]",
                "\x07\x01",
            ][..],
        ),
    ] {
        for (n, text) in texts.iter().enumerate() {
            write(target, &format!("sample-{n}"), text.as_bytes());
        }
    }
    let any = Payload {
        metadata: [("encoding", "json/plain"), ("type", "Int")]
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .into(),
        data: b"[4]".to_vec(),
        ..Default::default()
    };
    let any = [&[3, 4][..], &any.encode_to_vec()].concat();
    write("attributes", "payload", &any);
    // Choices: starts, polls, answers, and all again.
    let round: Vec<u8> = (0..32)
        .flat_map(|step| [step, 0, 1, 2, 3, 0, 0, 1])
        .collect();
    write("stateful", "each-step", &round);
    let work = [
        &[0u8; 24][..],
        &[6, 1, 11, 0, 1, 0, 0, 0, 18, 20, 0, 0].repeat(6),
    ]
    .concat();
    write("stateful", "work", &work);
    write(
        "tokens",
        "each-rpc",
        &(0..14).flat_map(|rpc| [rpc, 1, rpc, 0]).collect::<Vec<_>>(),
    );
    write(
        "tokens",
        "changed",
        &(0..14)
            .flat_map(|rpc| [rpc, 2, rpc, 1, 0, rpc, 1, 2])
            .collect::<Vec<_>>(),
    );
    write("log", "payload", &[0, 0]);
    write("log", "files", &[1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    write(
        "log",
        "damaged",
        &[2, 3, 1, 0, 2, 0, 3, 200, 1, 0, 70, 3, 9],
    );
}
