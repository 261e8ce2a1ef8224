use futures::StreamExt;

use super::*;

fn text(offset: u64, text: &str) -> Piece {
    Piece::Text {
        offset,
        text: text.to_owned(),
    }
}

async fn all(streams: &Streams, name: &str, offset: u64) -> Vec<Piece> {
    let pieces = streams.read(name, offset).expect("a stream");
    pieces.collect().await
}

#[tokio::test]
async fn a_reader_waits_for_more_and_one_who_comes_back_reads_on() {
    let streams = Streams::default();
    let writer = streams.write("r/s");
    writer.append("The tide ");
    let mut reader = Box::pin(streams.read("r/s", 0).expect("a stream"));
    assert_eq!(reader.next().await, Some(text(9, "The tide ")));
    let waiting = tokio::spawn(async move { (reader.next().await, reader) });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    writer.append("fälls");
    let (piece, reader) = waiting.await.expect("read");
    assert_eq!(piece, Some(text(15, "fälls")));
    // It goes away in the middle, and comes back with the offset that it had.
    drop(reader);
    writer.append(".");
    writer.finish();
    let finished = Piece::Finished { offset: 16 };
    assert_eq!(
        all(&streams, "r/s", 15).await,
        [text(16, "."), finished.clone()]
    );
    let whole = [text(16, "The tide fälls."), finished.clone()];
    assert_eq!(all(&streams, "r/s", 0).await, whole);
    assert_eq!(all(&streams, "r/s", 16).await, [finished]);
    assert!(streams.read("r/other", 0).is_none());
}

#[tokio::test]
async fn an_attempt_that_was_given_up_is_told_and_its_writer_not_heard() {
    let streams = Streams::default();
    let first = streams.write("r/s");
    first.append("one two");
    let mut reader = Box::pin(streams.read("r/s", 0).expect("a stream"));
    assert_eq!(reader.next().await, Some(text(7, "one two")));
    let second = streams.write("r/s");
    first.append("three");
    drop(first);
    second.append("1");
    assert_eq!(reader.next().await, Some(Piece::Restarted { offset: 8 }));
    assert_eq!(reader.next().await, Some(text(9, "1")));
    second.restart();
    second.append("uno");
    second.finish();
    let restarted = Piece::Restarted { offset: 10 };
    let rest: Vec<_> = reader.collect().await;
    let end = [text(13, "uno"), Piece::Finished { offset: 13 }];
    let told = [&[restarted][..], &end].concat();
    assert_eq!(rest, told);
    // Who comes new, or was told already, sees the attempt that counts; who was in another is told.
    for (offset, expected) in [
        (0, &end[..]),
        (10, &end),
        (3, &told),
        (9, &told),
        (99, &told),
    ] {
        assert_eq!(
            all(&streams, "r/s", offset).await,
            expected,
            "from {offset}"
        );
    }
}

#[tokio::test]
async fn a_writer_that_is_lost_leaves_a_failure() {
    let streams = Streams::default();
    let writer = streams.write("r/s");
    writer.append("a");
    let mut reader = Box::pin(streams.read("r/s", 1).expect("a stream"));
    drop(writer);
    let reason = "given up before its end".to_owned();
    assert_eq!(
        reader.next().await,
        Some(Piece::Failed { offset: 1, reason })
    );
    streams.write("r/t").fail("no model answered");
    let reason = "no model answered".to_owned();
    assert_eq!(
        all(&streams, "r/t", 0).await,
        [Piece::Failed { offset: 0, reason }]
    );
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded() {
    let limits = Limits {
        each: 10,
        all: 25,
        ended: 3,
        keep: Duration::from_secs(60),
    };
    let streams = Streams::new(limits);
    // A live stream keeps its tail, cut between characters.
    let live = streams.write("live");
    live.append("0123456789");
    live.append("öabc");
    let found: Vec<_> = streams.read("live", 2).expect("it").take(2).collect().await;
    assert_eq!(found, [Piece::Skipped { offset: 5 }, text(15, "56789öabc")]);
    for name in ["a", "b", "c"] {
        let writer = streams.write(name);
        writer.append("0123456789");
        writer.finish();
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    // Those that ended first made room; the live one stays.
    let there = |name: &str| streams.read(name, 0).is_some();
    assert_eq!(
        ["live", "a", "b", "c"].map(there),
        [true, false, false, true]
    );
    assert!(streams.bytes() <= limits.all);
    for number in 0..5 {
        streams.write(&format!("empty {number}")).finish();
    }
    assert!(!there("empty 0") && there("empty 4"), "too many have ended");
    tokio::time::advance(limits.keep).await;
    assert_eq!(["live", "empty 4"].map(there), [true, false]);
}

#[tokio::test]
async fn the_path_and_the_offset_are_read() {
    let streams = Streams::default();
    let writer = streams.write("run 1/a/b");
    writer.append("0123\n5");
    writer.finish();
    let watch = Watch {
        path: "/v1/streams/run%201/a/b",
        query: Some("x=1&offset=2"),
        last_event_id: None,
    };
    let body = async |watch: Watch<'_>| -> String {
        let body = watch.body(&streams).expect("a stream");
        let events: Vec<_> = body.collect().await;
        String::from_utf8(events.concat()).expect("text")
    };
    let end = "id: 6\nevent: finished\ndata: {}\n\n";
    let first = "id: 6\nevent: delta\ndata: {\"text\":\"23\\n5\"}\n\n";
    assert_eq!(body(watch).await, format!("{first}{end}"));
    let resumed = Watch {
        last_event_id: Some("6"),
        ..watch
    };
    assert_eq!(body(resumed).await, end);
    for (path, query, status, expected) in [
        ("/v1/streams/run", None, 404, "/v1/streams/{run}/{stage}"),
        ("/v1/streams/%ff/x", None, 404, "/v1/streams/{run}/{stage}"),
        ("/v1/streams/r/x", None, 404, "no stream r/x on this worker"),
        (
            watch.path,
            Some("offset=-1"),
            400,
            "offset \"-1\" is no number",
        ),
    ] {
        let watch = Watch {
            path,
            query,
            last_event_id: None,
        };
        let refusal = watch.body(&streams).err().expect("refused");
        assert_eq!(refusal.status, status, "{path}");
        assert!(refusal.message.contains(expected), "{}", refusal.message);
    }
    assert!(Watch::is_one(watch.path) && !Watch::is_one("/v1/stream"));
}
