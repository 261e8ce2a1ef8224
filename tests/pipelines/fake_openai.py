"""A server that speaks OpenAI's API as far as the tests need it, and remembers what it was asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIMENSION = 16


class Refused(Exception):
    """Raised by a test's `before` or `answer`: the server answers with this status."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class Server:
    """Embeddings are made from the text alone; chat answers are what `answer` gives."""

    def __init__(self, port: int = 0) -> None:
        self.texts: list[str] = []
        """Texts that were embedded, in the order in which they came."""
        self.chats: list[dict[str, Any]] = []
        """Bodies of the chat requests."""
        self.dimension = DIMENSION
        self.before: Callable[[list[str]], None] = lambda texts: None
        """Called with the texts of a request before they are embedded; may raise `Refused`."""
        self.answer: Callable[[dict[str, Any]], str] = lambda body: "yes"
        self.tokens_of: Callable[[str], int] = lambda text: 1
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"server_of_test": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        self.before(texts)
        with self.lock:
            self.texts += texts
        data = [
            {"object": "embedding", "index": i, "embedding": vector(text, self.dimension)}
            for i, text in enumerate(texts)
        ]
        tokens = sum(map(self.tokens_of, texts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "model": body["model"], "data": data, "usage": usage}

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.chats.append(body)
        message = {"role": "assistant", "content": self.answer(body)}
        return {
            "id": "1",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }


def vector(text: str, dimension: int) -> list[float]:
    """The same text has the same vector, others point elsewhere."""
    numbers = hashlib.shake_256(text.encode()).digest(dimension)
    return [number / 255 - 0.5 for number in numbers]


class _Handler(BaseHTTPRequestHandler):
    server_of_test: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    """Head and body are two writes: the second would wait for an acknowledgement of the first."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            if self.path == "/v1/embeddings":
                self.reply(200, self.server_of_test.embeddings(body))
            elif self.path == "/v1/chat/completions":
                self.reply(200, self.server_of_test.chat(body))
            else:
                self.reply(404, {"error": {"message": f"no such path: {self.path}"}})
        except Refused as refused:
            body = {"error": {"message": str(refused), "type": "test"}}
            self.reply(refused.status, body, refused.retry_after)

    def reply(self, status: int, body: dict[str, Any], retry_after: int | None = None) -> None:
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            if retry_after is not None:
                self.send_header("retry-after", str(retry_after))
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except ConnectionError:  # Who asked was killed.
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """The tests say what they want to know."""


@contextmanager
def serving(port: int = 0) -> Iterator[Server]:
    """`port` 0 is any that is free."""
    server = Server(port)
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
