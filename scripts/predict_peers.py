"""Other servers for ``bench_predict.py --with-peers``: the same model behind Flask, BentoML and others.

Each is installed by name into a folder of its own. Flask and Node take the raw row, as Covey does, and encode it
by hand without checking anything. The others take the row already encoded, which is less work.
"""

from __future__ import annotations

import collections.abc
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import typing

import predict_cases as cases
import predict_world as world

PATIENCE_S = 90.0
_QUIET = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
_ENCODE = f"""
NAMES = {[feature.name for feature in world.FEATURES.feature][:-1]!r}
CARRIERS = {list(world.CARRIERS)!r}
def encode(row):
    one = np.zeros((1, {world.FEATURES.width}), np.float32)
    for i, name in enumerate(NAMES):
        one[0, i] = row[name]
    carrier = row["carrier"]
    one[0, len(NAMES) + (CARRIERS.index(carrier) if carrier in CARRIERS else len(CARRIERS))] = 1
    return one
"""
_SESSION = """
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
def load():
    return ort.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
"""
_FLASK = f"""{_SESSION}{_ENCODE}
import sys
from flask import Flask, request
from waitress import serve
app, session = Flask(__name__), load()
@app.post("/predict")
def predict():
    out = session.run(["probabilities"], {{"inputs": encode(request.get_json()["features"])}})[0]
    return {{"probabilities": out[0].tolist()}}
serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=1, _quiet=True)
"""
_MLSERVER = f"""{_SESSION}
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
class Model(MLModel):
    async def load(self):
        self._session = load()
        return True
    async def predict(self, payload):
        inputs = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        out = self._session.run(["probabilities"], {{"inputs": inputs}})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("probabilities", out)])
"""
_LITSERVE = f"""{_SESSION}
import sys
import litserve
class Api(litserve.LitAPI):
    def setup(self, device):
        self._session = load()
    def decode_request(self, request):
        return np.array(request["inputs"], np.float32)
    def predict(self, inputs):
        return self._session.run(["probabilities"], {{"inputs": inputs}})[0]
    def encode_response(self, out):
        return {{"probabilities": out[0].tolist()}}
if __name__ == "__main__":
    litserve.LitServer(Api(), accelerator="cpu").run(
        host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False, access_log=False
    )
"""
_BENTOML = f"""{_SESSION}
import bentoml
@bentoml.service
class Late:
    def __init__(self):
        self._session = load()
    @bentoml.api
    def predict(self, inputs: list[list[float]]) -> dict:
        out = self._session.run(["probabilities"], {{"inputs": np.array(inputs, np.float32)}})[0]
        return {{"probabilities": out[0].tolist()}}
"""
_MLFLOW = f"""{_SESSION}
import os, shutil, sys
import mlflow.pyfunc
class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self._session = ort.InferenceSession(context.artifacts["model"], providers=["CPUExecutionProvider"])
    def predict(self, context, model_input, params=None):
        return self._session.run(["probabilities"], {{"inputs": np.asarray(model_input, np.float32)}})[0].tolist()
shutil.rmtree("kept", ignore_errors=True)
mlflow.pyfunc.save_model("kept", python_model=Model(), artifacts={{"model": "model.onnx"}}, pip_requirements=[])
serve = ["models", "serve", "-m", "kept", "--env-manager", "local", "-h", "127.0.0.1", "-p", sys.argv[1], "-w", "1"]
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
os.execv(sys.executable, [sys.executable, "-m", "mlflow", *serve])
"""
_NODE = f"""
const http = require("http"), ort = require("onnxruntime-node");
const names = {json.dumps([feature.name for feature in world.FEATURES.feature][:-1])};
const carriers = {json.dumps(list(world.CARRIERS))};
const options = {{ intraOpNumThreads: 1, interOpNumThreads: 1 }};
ort.InferenceSession.create("model.onnx", options).then((session) => {{
  http.createServer((request, response) => {{
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", async () => {{
      const row = JSON.parse(Buffer.concat(parts)).features;
      const one = new Float32Array({world.FEATURES.width});
      for (let i = 0; i < names.length; i++) one[i] = row[names[i]];
      const at = carriers.indexOf(row.carrier);
      one[names.length + (at < 0 ? carriers.length : at)] = 1;
      const inputs = new ort.Tensor("float32", one, [1, one.length]);
      const out = await session.run({{ inputs }}, ["probabilities"]);
      const body = JSON.stringify({{ probabilities: Array.from(out.probabilities.data) }});
      response.writeHead(200, {{ "Content-Type": "application/json", "Content-Length": Buffer.byteLength(body) }});
      response.end(body);
    }});
  }}).listen(Number(process.argv[2]), "127.0.0.1");
}});
"""
_MODEL_SETTINGS = json.dumps({"name": world.MODEL, "implementation": "served.Model"})


class Peer(typing.NamedTuple):
    """A server.

    Parameters
    ----------
    needs : tuple of str
        Packages: of npm if it runs in Node, else of pip.
    files : mapping
        Name to text; ``PORT`` in it becomes the port.
    command : tuple of str
        ``python`` is the one of its folder.
    """

    needs: tuple[str, ...]
    files: dict[str, str]
    command: tuple[str, ...]
    path: str
    takes_rows: bool = True


_MLSERVER_SETTINGS = (
    '{"parallel_workers": 0, "http_port": PORT, "grpc_port": 0, "metrics_endpoint": null, "debug": false}'
)
PEERS = {
    "Flask + waitress": Peer(
        ("flask", "waitress", "onnxruntime"), {"served.py": _FLASK}, ("python", "served.py", "PORT"), "/predict"
    ),
    "MLServer": Peer(
        ("mlserver", "onnxruntime"),
        {"served.py": _MLSERVER, "settings.json": _MLSERVER_SETTINGS, "model-settings.json": _MODEL_SETTINGS},
        ("python", "-m", "mlserver.cli.main", "start", "."),
        f"/v2/models/{world.MODEL}/infer",
        takes_rows=False,
    ),
    "LitServe": Peer(
        ("litserve", "onnxruntime"),
        {"served.py": _LITSERVE},
        ("python", "served.py", "PORT"),
        "/predict",
        takes_rows=False,
    ),
    "BentoML": Peer(
        ("bentoml", "onnxruntime"),
        {"served.py": _BENTOML},
        ("python", "-m", "bentoml", "serve", "served:Late", "--host", "127.0.0.1", "--port", "PORT"),
        "/predict",
        takes_rows=False,
    ),
    "MLflow": Peer(
        ("mlflow", "onnxruntime"),
        {"served.py": _MLFLOW},
        ("python", "served.py", "PORT"),
        "/invocations",
        takes_rows=False,
    ),
    "Node + onnxruntime-node": Peer(
        ("onnxruntime-node",), {"served.js": _NODE}, ("node", "served.js", "PORT"), "/predict"
    ),
}


def install(folder: pathlib.Path, peer: Peer) -> None:
    """Install what a peer needs; what is there already stays.

    Raises
    ------
    OSError, subprocess.CalledProcessError
        It can not be had here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "installed").exists():
        return
    if peer.command[0] == "node":
        if shutil.which("npm") is None:
            raise FileNotFoundError("npm")
        (folder / "package.json").write_text("{}")
        subprocess.run(["npm", "install", "--ignore-scripts", *peer.needs], cwd=folder, check=True, capture_output=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", "venv"], cwd=folder, check=True, capture_output=True)
        pip = ["venv/bin/python", "-m", "pip", "install", "--quiet", *peer.needs]
        subprocess.run(pip, cwd=folder, check=True, capture_output=True)
    (folder / "installed").touch()


@contextlib.contextmanager
def running(folder: pathlib.Path, peer: Peer, model: bytes) -> collections.abc.Iterator[world.Process]:
    """Start a peer, and wait until it listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "model.onnx").write_bytes(model)
    for name, text in peer.files.items():
        (folder / name).write_text(text.replace("PORT", str(port)))
    program = str(folder / "venv/bin/python") if peer.command[0] == "python" else peer.command[0]
    command = [program, *(part.replace("PORT", str(port)) for part in peer.command[1:])]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=os.environ | _QUIET) as process,
    ):
        try:
            _wait_for(process, port)
            yield world.Process(tuple(_family(process.pid)), port)
        finally:
            for pid in reversed(_family(process.pid)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 15)


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            time.sleep(3)  # some listen before the model has loaded
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ChildProcessError("it does not listen")
        time.sleep(0.1)


def _family(pid: int) -> list[int]:
    """Return a process and everything it has started."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for children in pathlib.Path(f"/proc/{one}/task").glob("*/children"):
                found += [int(child) for child in children.read_text().split()]
    return found


def client(process: world.Process, peer: Peer, trained: world.Trained) -> cases.Client:
    """Ask a peer for one row at a time."""
    if peer.takes_rows:
        bodies = [json.dumps({"features": row}) for row in trained.rows]
    elif peer.path.startswith("/v2"):
        shape = [1, world.FEATURES.width]
        bodies = [
            json.dumps({"inputs": [{"name": "inputs", "datatype": "FP32", "shape": shape, "data": one}]})
            for one in world.inputs_of(trained.rows).tolist()
        ]
    else:
        bodies = [json.dumps({"inputs": [one]}) for one in world.inputs_of(trained.rows).tolist()]
    return cases.Client(process, peer.path, [body.encode() for body in bodies], trained.answers, _read)


def _read(reply: typing.Any) -> tuple[float, str]:  # noqa: ANN401 - JSON
    if "predictions" in reply:
        return reply["predictions"][0][1], ""
    said = reply["probabilities"] if "probabilities" in reply else reply["outputs"][0]["data"]
    return said[1], ""
