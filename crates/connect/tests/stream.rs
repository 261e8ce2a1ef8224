//! A stage's stream over HTTP: a client that goes away in the middle comes back and misses nothing.

use futures::StreamExt;
use tidemill_connect::stream::{Streams, Watch};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// Serves streams as a worker does.
async fn serve(streams: Streams) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let streams = streams.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(&mut stream).lines();
                let mut head = Vec::new();
                while let Ok(Some(line)) = lines.next_line().await
                    && !line.is_empty()
                {
                    head.push(line);
                }
                let target = head[0].split(' ').nth(1).expect("a target").to_owned();
                let (path, query) = target.split_once('?').unwrap_or((&target, ""));
                let last = head.iter().find_map(|line| {
                    let (name, value) = line.split_once(": ")?;
                    name.eq_ignore_ascii_case("last-event-id").then_some(value)
                });
                let watch = Watch {
                    path,
                    query: Some(query),
                    last_event_id: last,
                };
                let mut body = watch.body(&streams).expect("a stream");
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                            connection: close\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                while let Some(event) = body.next().await {
                    if stream.write_all(&event).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

/// Reads events until `enough`, then goes away. Gives the text, and the id of the last whole event.
async fn watch(url: &str, last: Option<String>, enough: usize) -> (String, Option<String>, bool) {
    let mut request = tidemill_connect::http::client().get(url);
    if let Some(last) = &last {
        request = request.header("last-event-id", last);
    }
    let response = request.send().await.expect("answered");
    let mut pieces = response.bytes_stream();
    let (mut buffer, mut text, mut last) = (String::new(), String::new(), last);
    let mut events = 0;
    while let Some(Ok(piece)) = pieces.next().await {
        buffer.push_str(std::str::from_utf8(&piece).expect("text"));
        while let Some((event, rest)) = buffer.split_once("\n\n") {
            let field = |name: &str| {
                let mut lines = event.lines();
                lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
            };
            last = field("id: ").or(last);
            if field("event: ").as_deref() == Some("finished") {
                return (text, last, true);
            }
            let data = field("data: ").expect("data");
            let data: serde_json::Value = serde_json::from_str(&data).expect("JSON");
            text.push_str(data["text"].as_str().expect("a delta"));
            buffer = rest.to_owned();
            events += 1;
            if events == enough {
                return (text, last, false);
            }
        }
    }
    panic!("the stream ended without an event that says so");
}

#[tokio::test]
async fn who_drops_in_the_middle_resumes_and_nothing_is_lost_or_repeated() {
    let streams = Streams::default();
    let url = serve(streams.clone()).await;
    let writer = streams.write("run-1/ask");
    let address = format!("{url}/v1/streams/run-1/ask?offset=0");
    let (mut text, mut whole, mut last) = (String::new(), String::new(), None);
    for n in 0..20 {
        // What was said while nobody was connected comes first.
        let said = [format!("wörd {n} "), format!("{n}, ")];
        writer.append(&said[0]);
        let reading = tokio::spawn({
            let (address, last) = (address.clone(), last.clone());
            async move { watch(&address, last, 1).await }
        });
        let (more, at, ended) = reading.await.expect("read");
        writer.append(&said[1]);
        whole.push_str(&said.concat());
        text.push_str(&more);
        last = at;
        assert!(!ended);
    }
    writer.finish();
    let (more, at, ended) = watch(&address, last, 99).await;
    text.push_str(&more);
    assert!(ended);
    assert_eq!(text, whole);
    assert_eq!(at, Some(whole.len().to_string()));
    // From the offset of any event on, by the query.
    let (tail, _, _) = watch(&format!("{url}/v1/streams/run-1/ask?offset=7"), None, 99).await;
    assert_eq!(tail, whole[7..]);
}
