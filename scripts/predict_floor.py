"""The least that anything costs which answers HTTP from Python, or runs a model: what bench_predict.py compares with.

Run ``python scripts/predict_floor.py``: a server of asyncio and httptools that says the same to everybody.
"""

from __future__ import annotations

import asyncio
import sys
import typing

import httptools

REPLY = b'{"probabilities":[0.5,0.5],"parameters":{"arm":"incumbent","prediction_id":""}}'
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
# A process that imports onnxruntime, loads two models and runs each once, with the options of the device.
TWO_MODELS = """
import pathlib, sys
import numpy, onnxruntime as ort
kept = []
for path in sys.argv[1:]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(pathlib.Path(path).read_bytes(), options, providers=["CPUExecutionProvider"])
    session.run(["probabilities"], {"inputs": numpy.zeros((1, session.get_inputs()[0].shape[1]), numpy.float32)})
    kept.append(session)
print(pathlib.Path("/proc/self/status").read_text())
"""


class Hello(asyncio.Protocol):
    """Says the same to every request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection."""
        self._transport = typing.cast("asyncio.Transport", transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Answer a whole request."""
        self._transport.write(_HEAD % len(REPLY) + REPLY)


async def serve() -> None:
    """Answer until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Hello, "127.0.0.1", 0)
    sys.stdout.write(f"hello answers on http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
