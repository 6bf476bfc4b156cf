"""The clients that people have: tritonclient and KServe's, as they are published, ask a real device."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import pathlib
import re
import subprocess
import sys
import typing

import msgspec
import pytest

from edge_agent.files import lock
from edge_agent.passes import Pass
from shared import bundle, codec
from shared.features import Bucketed, Categorical, FeatureSet, TimePart
from tests import fakes

HERE = pathlib.Path(__file__).parent / "clients"
PINS = HERE / "constraints.txt"
Said = dict[str, typing.Any]
X, COLOURS, SIZES = [1.0, -2.5, 0.5], ["red", "mauve", "grün"], [0, 1, 2]


def run(*command: str | pathlib.Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="session")
def python() -> pathlib.Path:
    """Python of a venv of the clients' own, since what they need does not go with what Covey needs; made once."""
    folder = pathlib.Path(sys.prefix) / "covey-clients"
    stamp = folder / hashlib.sha256(PINS.read_bytes()).hexdigest()[:16]
    with lock(pathlib.Path(sys.prefix) / "covey-clients.lock", wait=True):
        if not stamp.exists():
            run(sys.executable, "-m", "venv", "--clear", folder)
            pip = (folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
            done = subprocess.run(
                [*map(str, pip), "--no-deps", "--no-compile", "--requirement", str(PINS)],
                capture_output=True,
                text=True,
                timeout=500,
                check=False,
            )
            if done.returncode:
                pytest.skip(f"the clients can not be installed: {done.stderr[-400:]}")
            stamp.touch()
    return folder / "bin" / "python"


@pytest.fixture
def served(tmp_path: pathlib.Path) -> fakes.Served:
    candidate = fakes.make_bundle("v2", slope=2.0)
    trial = fakes.trial(request_share_bp=0)
    return fakes.serve(tmp_path, fakes.make_bundle(), candidate, trial)


@pytest.fixture
def address(served: fakes.Served) -> typing.Iterator[str]:
    with fakes.listening(served.api) as (host, port):
        yield f"{host}:{port}"


def expected(**row: object) -> list[float]:
    return list(fakes.expected(row, task="binary", slope=1.0, n_outputs=2))


@pytest.mark.timeout(900)
def test_tritonclient_is_answered_whatever_it_sends_and_told_why_if_not(address: str, python: pathlib.Path) -> None:
    said: Said = json.loads(run(python, HERE / "ask_with_triton.py", address))
    assert [said[what] for what in ("live", "ready", "model ready", "version ready", "other ready")] == [
        True, True, True, True, False,
    ]  # fmt: skip
    assert said["server"]["extensions"] == [
        "binary_tensor_data", "classification", "parameters", "statistics", "model_repository",
    ]  # fmt: skip
    assert (said["metadata"]["name"], said["metadata"]["versions"]) == ("late", ["v1", "v2"])
    assert [(one["version"], one["state"]) for one in said["index"]] == [("v1", "READY"), ("v2", "READY")]
    columns = zip(X, COLOURS, SIZES, strict=True)
    rows = [p for x, colour, size in columns for p in expected(x=x, colour=colour, size=size)]
    assert len(said["mixes"]) == 32
    for mix, got in said["mixes"].items():
        assert got["probabilities"] == pytest.approx(rows, abs=1e-6), mix
        assert (got["id"], got["shape"], got["label"], got["n_ids"]) == ("r-1", [3, 2], [1, 0, 1], 3), mix
    plain, flat = expected(x=3), expected(x=3, size=True)
    assert len(said["kinds"]) == 29
    for kind, answer in said["kinds"].items():
        assert answer == pytest.approx(flat if kind == "BOOL" else plain, abs=1e-6), kind
    assert said["later"] == [pytest.approx(plain, abs=1e-6)] * 8
    assert (said["version"], said["arms"]) == ("v1", ["incumbent"])
    v1, v2 = said["statistics"]["model_stats"]
    n_rows = 3 * 32 + 29 + 8 + 1 + 8 + 3 * 2 + 3 * 200
    assert v1["inference_stats"]["success"]["count"] == v1["execution_count"] == n_rows
    assert v1["inference_stats"]["success"]["ns"] > 0
    assert v2["inference_count"] == 0
    top = said["classes"]
    assert top["shape"] == [3, 1]
    for text, row in zip(top["best"], (rows[:2], rows[2:4], rows[4:]), strict=True):
        value, index, label = text.split(":")
        assert (float(value), int(index), label) == (pytest.approx(max(row), abs=1e-6), row.index(max(row)), index)
    assert said["compressed"] == {"None": 200, "gzip": 200, "deflate": 200}
    said = said["refused"]
    assert {what: status for what, (status, _) in said.items()} == {
        "load": "403", "unload": "403", "value": "400", "model": "404", "version": "404", "output": "400",
    }  # fmt: skip
    assert "the signed channel decides" in said["load"][1]
    assert said["value"][1].startswith("x: 99 is outside -10..10")
    assert "no model 'other model'" in said["model"][1]
    assert "Known are label" in said["output"][1]


@pytest.mark.timeout(900)
def test_kserves_client_is_answered_whatever_it_sends_and_asks_for(address: str, python: pathlib.Path) -> None:
    said: Said = json.loads(run(python, HERE / "ask_with_kserve.py", f"http://{address}"))
    assert [said[what] for what in ("live", "ready", "model ready", "other ready")] == [True, True, True, False]
    wanted = expected(x=1, colour="red") + expected(x=-2.5, colour="mauve")
    assert len(said["mixes"]) == 9
    for mix, got in said["mixes"].items():
        assert got["probabilities"] == pytest.approx(wanted, abs=1e-6), mix
        assert (got["id"], got["model"], got["shape"], got["label"]) == ("r-1", "late", [2, 2], [1, 0]), mix
    status, message = said["refused"]
    assert status == 400
    assert "rows[0].x: 99 is outside -10..10" in message


@pytest.mark.timeout(900)
def test_kserves_client_waits_for_a_model_that_loads(tmp_path: pathlib.Path, python: pathlib.Path) -> None:
    loading = fakes.serve(tmp_path, fakes.make_bundle(), load=False)
    with fakes.listening(loading.api) as (host, port):
        code = (
            "import asyncio, json; from kserve import InferenceRESTClient as C, RESTConfig as R\n"
            "async def main():\n"
            "    c = C(R(protocol='v2')); u = f'http://{}:{}'\n"
            "    print(json.dumps([await c.is_server_live(u), await c.is_model_ready(u, 'late')]))\n"
            "asyncio.run(main())"
        ).replace("{}:{}", f"{host}:{port}")
        assert json.loads(run(python, "-c", code)) == [True, False]


# ---- what the pages show

DOCS = pathlib.Path(__file__).parents[2] / "docs"
HOW_TO, REFERENCE = (DOCS / page for page in ("how-to/ask-a-device.md", "reference/device-api.md"))
PRICES = (17.0, 47.5, 79.5, 104.5)
# What `covey init` makes of the tutorial's table.
SHOP = FeatureSet(
    name="returned",
    feature=(
        TimePart(name="sold-at-hour", source="sold_at", part="hour"),
        TimePart(name="sold-at-weekday", source="sold_at", part="weekday"),
        Categorical(name="article", categories=("dress", "jacket", "scarf", "shoes", "socks")),
        Bucketed(name="price", cuts=PRICES),
        Categorical(name="channel", categories=("till", "web")),
    ),
)


@pytest.fixture
def shop(tmp_path: pathlib.Path) -> typing.Iterator[str]:
    made = fakes.make_bundle(model="shop", features_sha256=SHOP.digest)
    files = {
        bundle.FEATURES_FILE: codec.to_json(SHOP),
        bundle.MODEL_FILE: fakes.onnx_model("binary", 1.0, 2, SHOP.width, ""),
    }
    served = fakes.serve(tmp_path, made._replace(files=made.files | files))
    with fakes.listening(served.api) as (host, port):
        yield f"{host}:{port}"


def posts_of_the_pages() -> list[tuple[str, str]]:
    shown = re.findall(r"^curl .*8765(/\S+) -d '(.*)'$", HOW_TO.read_text(), re.MULTILINE)
    for section in REFERENCE.read_text().split("\n### `POST ")[1:]:
        path, _, text = section.partition("`")
        blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
        shown += [(path.replace("{model}", "shop"), block) for block in blocks[:1] if "/repository/" not in path]
    return [(path, body) for path, body in shown if path != "/v1/clock"]


@pytest.mark.parametrize(("path", "body"), posts_of_the_pages())
def test_what_the_pages_post_is_answered(shop: str, path: str, body: str) -> None:
    connection = http.client.HTTPConnection(shop, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", path, body)
        reply = connection.getresponse()
        assert (reply.status, "error" in json.loads(reply.read())) == (200, False)


def test_the_pages_show_every_way_to_ask() -> None:
    paths = [path for path, _ in posts_of_the_pages()]
    ways = {"/v1/predict": 2, "/v1/rank": 2, "/v1/outcomes": 3, "/v2/models/shop/infer": 1}
    assert {path: paths.count(path) for path in set(paths)} == ways


def test_the_page_shows_the_status_as_it_is(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path / "store")
    fakes.install(layout, fakes.make_bundle())
    with fakes.running_agent(layout) as agent:
        fakes.wait_for(lambda: agent.engine.models)
        said = json.loads(fakes.get_text(agent.address, "/v1/status"))
    said["sync"] = msgspec.to_builtins(Pass())  # there was none yet
    section = REFERENCE.read_text().partition("### `GET /v1/status`")[2]
    shown = json.loads(section.partition("```json")[2].partition("```")[0])
    assert list(shown) == list(said)
    for part in ("update", "trial", "sync"):
        assert list(shown[part]) == list(said[part]), part
    assert list(shown["models"]["shop"]) == list(said["models"]["late"])


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("heading", "says"), [("From Python", "1 onnx"), ("tritonclient", "[["), ("KServe's", "[1]")])
def test_the_programs_of_the_page_print_an_answer(shop: str, python: pathlib.Path, heading: str, says: str) -> None:
    (code,) = re.findall(rf"^## [^\n]*{heading}.*?```python\n(.*?)```", HOW_TO.read_text(), re.DOTALL | re.MULTILINE)
    host, port = shop.split(":")
    code = code.replace('"127.0.0.1", 8765', f'"{host}", {port}').replace("127.0.0.1:8765", shop)
    assert run(python, "-c", code).startswith(says)
