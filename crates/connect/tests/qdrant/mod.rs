//! As much of Qdrant's REST API as an index uses, in memory: named vectors that points may lack,
//! filters over payloads, scrolling in order of ids, cosine similarity.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Default)]
struct State {
    /// Points by id; `None` until the collection is made.
    points: Option<BTreeMap<String, Value>>,
    requests_until_failure: Option<usize>,
    key: Option<String>,
}

pub(crate) struct Server {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { url, state, task }
    }

    /// Answers the request with this number, from 0, with 500 and does nothing for it.
    pub(crate) fn fail_at(&self, number: usize) {
        self.state.lock().unwrap().requests_until_failure = Some(number);
    }

    pub(crate) fn want_key(&self, key: &str) {
        self.state.lock().unwrap().key = Some(key.to_owned());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if stream.read_line(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
        let (mut length, mut key) = (0, None);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim().split_once(':') else {
                break;
            };
            match name.to_lowercase().as_str() {
                "content-length" => length = value.trim().parse().unwrap(),
                "api-key" => key = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let (status, answer) = answer(&mut state.lock().unwrap(), method, path, &body, key);
        let answer = match status {
            200 => json!({"result": answer, "status": "ok"}),
            _ => json!({"status": {"error": answer}}),
        }
        .to_string();
        let length = answer.len();
        let answer = format!("HTTP/1.1 {status} .\r\ncontent-length: {length}\r\n\r\n{answer}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(
    state: &mut State,
    method: &str,
    path: &str,
    body: &Value,
    key: Option<String>,
) -> (u16, Value) {
    if state.key != key && state.key.is_some() {
        return (401, json!("Must provide an API key"));
    }
    if let Some(left) = &mut state.requests_until_failure {
        if *left == 0 {
            return (500, json!("disk on fire"));
        }
        *left -= 1;
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let path = path.strip_prefix("/collections/").unwrap();
    let (_, path) = path.split_once('/').unwrap_or((path, ""));
    // Without it a change is acknowledged before it is applied.
    let waits = query == "wait=true";
    if (method, path) == ("PUT", "") {
        if state.points.is_some() {
            return (409, json!("Wrong input: Collection already exists!"));
        }
        assert_eq!(body["vectors"]["chunk"]["distance"], "Cosine");
        state.points = Some(BTreeMap::new());
        return (200, json!(true));
    }
    let Some(points) = &mut state.points else {
        return (404, json!("Not found: Collection doesn't exist!"));
    };
    let meeting = |points: &BTreeMap<String, Value>| -> Vec<Value> {
        points
            .values()
            .filter(|point| meets(point, &body["filter"]))
            .cloned()
            .collect()
    };
    let result = match (method, path) {
        ("PUT", "index") if waits => json!({}),
        ("PUT", "points") if waits => {
            for point in body["points"].as_array().unwrap() {
                points.insert(point["id"].as_str().unwrap().to_owned(), point.clone());
            }
            json!({})
        }
        ("POST", "points") => {
            let ids = body["ids"].as_array().unwrap();
            ids.iter()
                .filter_map(|id| points.get(id.as_str().unwrap()))
                .cloned()
                .collect()
        }
        ("POST", "points/count") => json!({"count": meeting(points).len()}),
        ("POST", "points/delete") if waits => {
            points.retain(|_, point| !meets(point, &body["filter"]));
            json!({})
        }
        ("POST", "points/payload/delete") if waits => {
            for id in body["points"].as_array().unwrap() {
                if let Some(point) = points.get_mut(id.as_str().unwrap()) {
                    for key in body["keys"].as_array().unwrap() {
                        point["payload"]
                            .as_object_mut()
                            .unwrap()
                            .remove(key.as_str().unwrap());
                    }
                }
            }
            json!({})
        }
        ("POST", "points/scroll") => {
            let from = body["offset"].as_str().unwrap_or_default();
            let mut found = meeting(points);
            found.retain(|point| point["id"].as_str().unwrap() >= from);
            let limit = body["limit"].as_u64().unwrap() as usize;
            let next = found.get(limit).map(|point| point["id"].clone());
            found.truncate(limit);
            json!({"points": found, "next_page_offset": next})
        }
        ("POST", "points/query") => {
            let query = floats(&body["query"]);
            let mut found = Vec::new();
            for point in meeting(points) {
                let vector = floats(&point["vector"][body["using"].as_str().unwrap()]);
                if !vector.is_empty() {
                    let score =
                        dot(&query, &vector) / (dot(&query, &query) * dot(&vector, &vector)).sqrt();
                    found.push(
                        json!({"id": point["id"], "score": score, "payload": point["payload"]}),
                    );
                }
            }
            let score = |point: &Value| point["score"].as_f64().unwrap();
            found.sort_by(|a, b| score(b).total_cmp(&score(a)));
            found.truncate(body["limit"].as_u64().unwrap() as usize);
            json!({ "points": found })
        }
        _ => return (400, json!(format!("{method} {path}?{query} is not known"))),
    };
    (200, result)
}

fn floats(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Qdrant's rules: `must` all, `should` one if there are any, `must_not` none; a condition on a
/// list is met by one of its elements.
fn meets(point: &Value, condition: &Value) -> bool {
    let list = |name: &str| condition[name].as_array().cloned().unwrap_or_default();
    if let Some(key) = condition["key"].as_str() {
        return values(&point["payload"], key)
            .iter()
            .any(|value| meets_value(value, condition));
    }
    if let Some(ids) = condition["has_id"].as_array() {
        return ids.contains(&point["id"]);
    }
    if let Some(key) = condition["is_empty"]["key"].as_str() {
        return values(&point["payload"], key).is_empty();
    }
    let should = list("should");
    list("must").iter().all(|c| meets(point, c))
        && (should.is_empty() || should.iter().any(|c| meets(point, c)))
        && !list("must_not").iter().any(|c| meets(point, c))
}

fn meets_value(value: &Value, condition: &Value) -> bool {
    if let Some(any) = condition["match"]["any"].as_array() {
        return any.contains(value);
    }
    if let Some(wanted) = condition["match"].get("value") {
        assert!(!wanted.is_f64(), "Qdrant refuses to match a float");
        return value == wanted;
    }
    let range = condition["range"]
        .as_object()
        .expect("a condition that is known");
    let Some(value) = value.as_f64() else {
        return false;
    };
    range.iter().all(|(bound, at)| {
        let at = at.as_f64().expect("ranges are of numbers");
        match bound.as_str() {
            "lt" => value < at,
            "lte" => value <= at,
            "gt" => value > at,
            "gte" => value >= at,
            other => panic!("{other} is no bound"),
        }
    })
}

/// What is at a path, such as `metadata."a.b"`; the elements of a list.
fn values(payload: &Value, path: &str) -> Vec<Value> {
    let found = match path.split_once(".\"") {
        Some((outer, inner)) => &payload[outer][inner.trim_end_matches('"')],
        None => &payload[path],
    };
    match found {
        Value::Null => Vec::new(),
        Value::Array(values) => values.clone(),
        value => vec![value.clone()],
    }
}
