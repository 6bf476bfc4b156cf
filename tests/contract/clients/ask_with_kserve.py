"""Asks a device with KServe's client, as JSON and as binary tensors; prints what came back as one JSON object.

Run by the Python that has the clients: ask_with_kserve.py http://HOST:PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
import typing

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

MODEL = "late"


def request(*, as_bytes: tuple[bool, bool], wants_bytes: bool | None, x: float = 1.0) -> InferRequest:
    """Make a request of two rows."""
    numbers = InferInput("x", [2], "FP32")
    numbers.set_data_from_numpy(np.array([x, -2.5], np.float32), binary_data=as_bytes[0])
    colours = InferInput("colour", [2], "BYTES")
    colours.set_data_from_numpy(np.array([b"red", b"mauve"], np.object_), binary_data=as_bytes[1])
    outputs = None
    if wants_bytes is not None:
        outputs = [
            RequestedOutput(name, {"binary_data": wants_bytes}) for name in ("probabilities", "label", "prediction_id")
        ]
    return InferRequest(MODEL, [numbers, colours], request_id="r-1", request_outputs=outputs)


async def main(address: str) -> None:
    """Ask everything."""
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    said: dict[str, typing.Any] = {
        "live": await client.is_server_live(address),
        "ready": await client.is_server_ready(address),
        "model ready": await client.is_model_ready(address, MODEL),
        "other ready": await client.is_model_ready(address, "other"),
        "mixes": {},
    }
    for as_bytes in ((False, False), (True, True), (True, False)):
        for wants_bytes in (None, False, True):
            made = request(as_bytes=as_bytes, wants_bytes=wants_bytes)
            reply = await client.infer(address, made, model_name=MODEL)
            outputs = {one.name: one for one in reply.outputs}
            said["mixes"][f"{as_bytes} {wants_bytes}"] = {
                "id": reply.id,
                "model": reply.model_name,
                "version": reply.model_version,
                "probabilities": outputs["probabilities"].as_numpy().ravel().tolist(),
                "shape": list(outputs["probabilities"].as_numpy().shape),
                "label": outputs["label"].as_numpy().ravel().tolist(),
            }
    try:
        await client.infer(address, request(as_bytes=(True, True), wants_bytes=None, x=99.0), model_name=MODEL)
    except httpx.HTTPStatusError as err:
        said["refused"] = [err.response.status_code, str(err)]
    await client.close()
    print(json.dumps(said))  # noqa: T201 - what it was started for


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
