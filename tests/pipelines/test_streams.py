"""What a model says is there word by word, for those who watch; history has the whole only."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from conftest import Up, eventually, free_port
from history import events

WORDS = [f"word{n} " for n in range(40)]
PIPELINE = """
name: tell
inputs: { url: string }
stages:
  - uses: llm.generate
    id: tell
    with: { url: "{{ inputs.url }}", model: m, prompt: tell, stream: true }
outputs: "{{ tell.text }}"
"""


class Teller:
    """A model server that says a word whenever it is let."""

    def __init__(self) -> None:
        self.let = threading.Semaphore(0)
        teller = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for word in WORDS:
                    teller.let.acquire()
                    choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                    self.event({"model": "m", "choices": [choice]})
                done = {"index": 0, "delta": {}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 1, "completion_tokens": len(WORDS)}
                self.event({"model": "m", "choices": [done], "usage": usage})
                self.wfile.write(b"data: [DONE]\n\n")

            def event(self, data: object) -> None:
                self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
                self.wfile.flush()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"


@contextmanager
def teller() -> Iterator[Teller]:
    server = Teller()
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        for _ in WORDS:
            server.let.release()
        server.http.shutdown()
        thread.join()


def read(address: str, path: str, last: str | None, most: int) -> tuple[list[str], str | None]:
    """Texts of the next events and the id of the last; the connection is dropped after so many words.
    An event has all that was said since the one before."""
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request("GET", path, headers={"Last-Event-ID": last} if last else {})
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    texts: list[str] = []
    event: dict[str, str] = {}
    while "".join(texts).count("word") < most:
        line = answer.readline().decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
            continue
        if event.get("event") == "finished":
            break
        if event.get("event") == "delta":
            texts.append(json.loads(event["data"])["text"])
            last = event["id"]
        event = {}
    connection.close()
    return texts, last


def test_who_drops_reads_on_where_it_was(launch: Callable[..., Up]) -> None:
    address = f"127.0.0.1:{free_port()}"
    up = launch("--offer", "cpu=1", "--metrics-listen", address)
    with teller() as server:
        file = up.write(PIPELINE)
        inputs = ["--input", f"url={server.url}"]
        started = up.command("run", file, "--id", "told", "--detach", *inputs)
        assert started.code == 0, started.err
        path = "/v1/streams/told/tell"
        server.let.release()

        def there() -> bool:
            connection = http.client.HTTPConnection(address, timeout=30)
            connection.request("GET", path)
            status = connection.getresponse().status
            connection.close()
            return status == 200

        eventually(there)
        heard, last = read(address, path, None, 1)
        for _ in range(9):
            server.let.release()
        more, last = read(address, path, last, 4)
        heard += more
        for _ in WORDS:
            server.let.release()
        more, last = read(address, path, last, len(WORDS))
        heard += more
        eventually(lambda: up.node("told", "tell")["status"] == "done")
    assert "".join(heard) == "".join(WORDS)
    completed = [e for e in events(up, "told") if "ACTIVITY_TASK_COMPLETED" in e["eventType"]]
    assert len(completed) == 1
