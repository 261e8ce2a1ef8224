"""MLServer, which speaks the Open Inference Protocol over HTTP and gRPC, with small models for tests:
prints both addresses, and stops when its standard input ends.

It has an environment of its own, `.venv-oip`: it needs an older protobuf than the other servers do.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.errors import MLServerError
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    ResponseOutput,
)


class Echo(MLModel):
    """Gives back what it is given, of any type, as `out_` and the input's name."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = [
            ResponseOutput(
                name=f"out_{one.name}",
                shape=one.shape,
                datatype=one.datatype,
                data=one.data,
                # Else texts become numbers over gRPC.
                parameters=Parameters(content_type=None),
            )
            for one in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


class Lengths(MLModel):
    """Embeds texts: the length of each, and 1. Some texts it does not like."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = [
            one.encode() if isinstance(one, str) else bytes(one) for one in payload.inputs[0].data
        ]
        if b"huge" in texts and len(texts) > 1:
            raise MLServerError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if b"poison" in texts:
            raise MLServerError("no such text", 400)
        numbers = [number for text in texts for number in (float(len(text)), 1.0)]
        output = ResponseOutput(name="vector", shape=[len(texts), 2], datatype="FP32", data=numbers)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def main() -> None:
    # The addresses are the only line of the output.
    output, sys.stdout = sys.stdout, sys.stderr
    # Calls fail here because tests want them to: MLServer would print a traceback for each.
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="mlserver") as folder:
        settings = Settings(
            host="127.0.0.1",
            http_port=free_port(),
            grpc_port=free_port(),
            metrics_endpoint=None,
            parallel_workers=0,
            environments_dir=folder,
            debug=False,
        )
        models = [
            ModelSettings(name="echo", implementation=Echo, parameters={"version": "3"}),
            ModelSettings(
                name="lengths",
                implementation=Lengths,
                platform="test",
                inputs=[MetadataTensor(name="text", datatype="BYTES", shape=[-1, 1])],
                outputs=[MetadataTensor(name="vector", datatype="FP32", shape=[-1, 2])],
            ),
        ]
        server = MLServer(settings)
        running = asyncio.create_task(server.start(models))
        for port in (settings.http_port, settings.grpc_port):
            await until(listens, port, running=running)
        # It listens before it has its models.
        for model in models:
            url = f"http://127.0.0.1:{settings.http_port}/v2/models/{model.name}/ready"
            await until(answers, url, running=running)
        print(
            f"http://127.0.0.1:{settings.http_port} http://127.0.0.1:{settings.grpc_port}",
            file=output,
            flush=True,
        )
        # Whoever started it holds the other end, and need not live to say that it is done.
        await asyncio.to_thread(sys.stdin.read)
        await server.stop()
        await running


async def until(holds: Callable[[Any], bool], of: Any, *, running: asyncio.Task[None]) -> None:
    while not await asyncio.to_thread(holds, of):
        if running.done():
            running.result()
            raise RuntimeError("MLServer stopped")
        await asyncio.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url):
            return True
    except urllib.error.HTTPError:
        return False


if __name__ == "__main__":
    asyncio.run(main())
