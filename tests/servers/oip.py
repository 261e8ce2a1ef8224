"""MLServer, which speaks the Open Inference Protocol over HTTP and gRPC, with small models for tests:
prints both addresses, and stops when its standard input ends.

It does not go into the environment of the other servers: it needs 300 MB and an older protobuf than
they do. Give it its own with `oip-requirements.txt`, start it, and name both addresses to the tests:

    TIDEMILL_TEST_OIP="http://127.0.0.1:… http://127.0.0.1:…" \\
        cargo test --release --locked --workspace --test oip -- --ignored
"""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile

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
        output = ResponseOutput(
            name="vector", shape=[len(texts), 2], datatype="FP32", data=numbers
        )
        return InferenceResponse(
            model_name=self.name, model_version=self.version, outputs=[output]
        )


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def main() -> None:
    # The addresses are the only line of the output; what MLServer says is for people.
    output, sys.stdout = sys.stdout, sys.stderr
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
            await listening(port, running)
        print(
            f"http://127.0.0.1:{settings.http_port} http://127.0.0.1:{settings.grpc_port}",
            file=output,
            flush=True,
        )
        # Whoever started it holds the other end, and need not live to say that it is done.
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await server.stop()
        await running


async def listening(port: int, running: asyncio.Task[None]) -> None:
    while True:
        if running.done():
            running.result()
            raise RuntimeError("MLServer stopped")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


if __name__ == "__main__":
    asyncio.run(main())
