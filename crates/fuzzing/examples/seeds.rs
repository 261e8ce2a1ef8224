//! Writes what the fuzzers begin with into a folder: `cargo run -p tidemill-fuzzing --example seeds -- fuzz/seeds`.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::args().nth(1).expect("the folder of the seeds"));
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let folder = root.join(target);
        fs::create_dir_all(&folder).expect("the folder can be made");
        fs::write(folder.join(name), bytes).expect("there is room");
    };
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
                "\x01\x04\"text\"",
                "\x02\x04[\"a\", \"b\"]",
                "\x03\x0442",
                "\x04\x04-1.5e3",
                "\x05\x04true",
                "\x06\x04\"2024-01-01T00:00:00.5+02:00\"",
                "\x07\x04[\"a\"]",
                "\x07\x01",
            ][..],
        ),
    ] {
        for (n, text) in texts.iter().enumerate() {
            write(target, &format!("sample-{n}"), text.as_bytes());
        }
    }
    write("log", "payload", &[0, 0]);
    write("log", "files", &[1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    write(
        "log",
        "damaged",
        &[2, 3, 1, 0, 2, 0, 3, 200, 1, 0, 70, 3, 9],
    );
}
