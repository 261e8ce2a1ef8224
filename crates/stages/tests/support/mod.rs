//! Surroundings for stages under test.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};
use tidemill_connect::artifacts::Artifacts;
use tidemill_pipeline::data::Item;
use tidemill_pipeline::task::RunRef;
use tidemill_stages::{Context, Error, Sink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A context whose lines of progress are kept.
pub(crate) fn context(data: &Path) -> (Context, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    let cx = Context {
        run: RunRef {
            id: "run-1".into(),
            pipeline: "test".into(),
            plan: "sha256:00".into(),
        },
        stage: "it".into(),
        artifacts: Artifacts::memory(),
        data: data.to_owned(),
        cancelled: CancellationToken::new(),
        progress: Arc::new(move |line| kept.lock().unwrap().push(line)),
        devices: Vec::new(),
        item: String::new(),
        streams: Default::default(),
        limit: None,
    };
    (cx, lines)
}

/// Keeps what a source gives.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) items: Vec<Item>,
    pub(crate) failed: Vec<(String, String)>,
}

#[async_trait]
impl Sink for Kept {
    async fn item(&mut self, item: Item, _bytes: usize) -> Result<(), Error> {
        self.items.push(item);
        Ok(())
    }

    async fn failed(&mut self, id: &str, error: &str) -> Result<(), Error> {
        self.failed.push((id.into(), error.into()));
        Ok(())
    }
}

/// An HTTP/1.1 server that answers each request on its own connection with what `answer` makes of
/// the request's text: a status line, headers and body. Returns its address.
pub(crate) async fn serve(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !whole(&request) {
                if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let answer = answer(&String::from_utf8_lossy(&request));
            // A client that has gone needs no answer.
            let _ = stream.write_all(&answer).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

fn whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(0, |length| length.trim().parse().unwrap());
    body.len() >= length
}

/// An answer with a body.
pub(crate) fn answer(status: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    for header in headers {
        answer.push_str(&format!("{header}\r\n"));
    }
    answer.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    let mut answer = answer.into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// What a source gave, as JSON.
pub(crate) fn shown(kept: &Kept) -> Value {
    let items: Vec<&Value> = kept.items.iter().map(|item| &item.value).collect();
    let failed: Vec<Value> = kept
        .failed
        .iter()
        .map(|(id, error)| json!({"id": id, "error": error}))
        .collect();
    json!({"documents": items, "failed": failed})
}
