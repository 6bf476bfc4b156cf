"""Asks a device with tritonclient, in every mix of JSON and binary tensors; prints what came back as one JSON object.

Run by the Python that has the clients: ask_with_triton.py HOST:PORT
"""

from __future__ import annotations

import itertools
import json
import sys
import typing

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

MODEL = "late"
X, COLOURS, SIZES = [1.0, -2.5, 0.5], ["red", "mauve", "grün"], [0, 1, 2]
NUMBERS = {
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
}  # fmt: skip


def column(name: str, datatype: str, values: np.ndarray, *, as_bytes: bool) -> triton.InferInput:
    """Make an input of shape [n]."""
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=as_bytes)
    return made


def inputs(which: tuple[bool, bool, bool]) -> list[triton.InferInput]:
    """Make the three columns, each as JSON or as bytes."""
    texts = np.array([text.encode() for text in COLOURS], np.object_)
    return [
        column("x", "FP64", np.array(X), as_bytes=which[0]),
        column("colour", "BYTES", texts, as_bytes=which[1]),
        column("size", "INT32", np.array(SIZES, np.int32), as_bytes=which[2]),
    ]


def plain(values: np.ndarray) -> list[typing.Any]:
    """Turn an array into what JSON can hold."""
    return [one.decode() if isinstance(one, bytes) else one for one in values.ravel().tolist()]


def refused(ask: typing.Callable[[], object]) -> list[str]:
    """Return status and message of an error."""
    try:
        ask()
    except InferenceServerException as err:
        return [str(err.status()), err.message()]
    return ["200", ""]


def mixes(client: triton.InferenceServerClient) -> dict[str, typing.Any]:
    """Ask in every mix of inputs and outputs."""
    said = {}
    for which in itertools.product([False, True], repeat=3):
        for wanted in (None, (False, False), (True, True), (False, True)):
            outputs = None
            if wanted is not None:
                names = ("probabilities", "label")
                outputs = [
                    triton.InferRequestedOutput(name, binary_data=as_bytes)
                    for name, as_bytes in zip(names, wanted, strict=True)
                ]
            result = client.infer(MODEL, inputs(which), outputs=outputs, request_id="r-1")
            said[f"{which} {wanted}"] = {
                "id": result.get_response()["id"],
                "probabilities": plain(result.as_numpy("probabilities")),
                "shape": list(result.as_numpy("probabilities").shape),
                "label": plain(result.as_numpy("label")),
                "n_ids": len(set(plain(result.as_numpy("prediction_id")))) if outputs is None else 3,
            }
    return said


def kinds(client: triton.InferenceServerClient) -> dict[str, typing.Any]:
    """Ask with every kind of number, and both ways of compressing."""
    said = {}
    for datatype, kind in NUMBERS.items():
        for as_bytes in (True, False) if datatype != "FP16" else (True,):
            one = column("x", datatype, np.array([3], kind), as_bytes=as_bytes)
            said[f"{datatype} {as_bytes}"] = plain(client.infer(MODEL, [one]).as_numpy("probabilities"))
    flat = column("size", "BOOL", np.array([True]), as_bytes=True)
    x = column("x", "FP32", np.array([3], np.float32), as_bytes=True)
    said["BOOL"] = plain(client.infer(MODEL, [x, flat]).as_numpy("probabilities"))
    wide = triton.InferInput("x", [1, 1], "FP32")
    wide.set_data_from_numpy(np.array([[3]], np.float32))
    said["[n, 1]"] = plain(client.infer(MODEL, [wide]).as_numpy("probabilities"))
    for how in ("gzip", "deflate"):
        for back in (None, "gzip", "deflate"):
            result = client.infer(MODEL, [x], request_compression_algorithm=how, response_compression_algorithm=back)
            said[f"{how} {back}"] = plain(result.as_numpy("probabilities"))
    return said


def classes(client: triton.InferenceServerClient) -> dict[str, typing.Any]:
    """Ask for the likeliest class, as JSON and as bytes; both must say the same."""
    said = []
    for as_bytes in (True, False):
        best = triton.InferRequestedOutput("probabilities", binary_data=as_bytes, class_count=1)
        got = client.infer(MODEL, inputs((True, True, True)), outputs=[best]).as_numpy("probabilities")
        said.append({"shape": list(got.shape), "best": plain(got)})
    assert said[0] == said[1], said
    return said[0]


def compressed(client: triton.InferenceServerClient) -> dict[str, int]:
    """Ask for many rows, with either way of compressing the reply; return how many came back right."""
    x = column("x", "FP64", np.linspace(-3, 3, 200), as_bytes=True)
    wanted = plain(client.infer(MODEL, [x]).as_numpy("probabilities"))
    counts = {"None": len(wanted) // 2}
    for how in ("gzip", "deflate"):
        got = plain(client.infer(MODEL, [x], response_compression_algorithm=how).as_numpy("probabilities"))
        counts[how] = sum(a == b for a, b in zip(got, wanted, strict=True)) // 2
    return counts


def main(address: str) -> None:
    """Ask everything."""
    client = triton.InferenceServerClient(address, concurrency=2)
    x = column("x", "FP32", np.array([3], np.float32), as_bytes=True)
    wrong = column("x", "FP32", np.array([99], np.float32), as_bytes=True)
    later = [client.async_infer(MODEL, [x], parameters={"unit": f"u-{i}"}) for i in range(8)]
    said = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready(MODEL),
        "version ready": client.is_model_ready(MODEL, "v1"),
        "other ready": client.is_model_ready("other model"),
        "server": client.get_server_metadata(),
        "metadata": client.get_model_metadata(MODEL, "v1"),
        "index": client.get_model_repository_index(),
        "mixes": mixes(client),
        "kinds": kinds(client),
        "classes": classes(client),
        "compressed": compressed(client),
        "later": [plain(one.get_result().as_numpy("probabilities")) for one in later],
        "version": client.infer(MODEL, [x], model_version="v1").get_response()["model_version"],
        "arms": sorted(
            {plain(client.infer(MODEL, [x], parameters={"unit": "u"}).as_numpy("arm"))[0] for _ in range(8)}
        ),
        "statistics": client.get_inference_statistics(MODEL),
        "refused": {
            "load": refused(lambda: client.load_model(MODEL)),
            "unload": refused(lambda: client.unload_model(MODEL)),
            "value": refused(lambda: client.infer(MODEL, [wrong])),
            "model": refused(lambda: client.infer("other model", [x])),
            "version": refused(lambda: client.infer(MODEL, [x], model_version="v9")),
            "output": refused(lambda: client.infer(MODEL, [x], outputs=[triton.InferRequestedOutput("lable")])),
        },
    }
    print(json.dumps(said))  # noqa: T201 - what it was started for


if __name__ == "__main__":
    main(sys.argv[1])
