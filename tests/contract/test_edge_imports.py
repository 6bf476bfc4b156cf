"""What the serving process has in memory: no network client, no cryptography, nothing of the cloud."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import fakes

ROOT = pathlib.Path(__file__).parents[2]
LINE = {"requests", "urllib3", "tuf", "cryptography", "securesystemslib", "certifi", "idna", "charset_normalizer"}
CLOUD = {
    "cloud",
    "click",
    "flask",
    "granian",
    "onnx",
    "pandas",
    "pyarrow",
    "scipy",
    "skl2onnx",
    "sklearn",
    "sqlite_utils",
}
LATE = {"onnxruntime", "backports.zstd", "compression.zstd", "uvloop"}
SERVING = ("edge_agent.agent", "edge_agent.cli", "edge_agent.show", "edge_agent.ask", "edge_agent.doctor")
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("edge_agent", "shared")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
)


def loaded(*modules: str) -> set[str]:
    """Modules in memory after an import in a process of its own, with the packages they belong to."""
    code = f"import {', '.join(modules)}, sys, json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    names = set(json.loads(done.stdout))
    return names | {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("module", SERVING)
def test_what_serves_and_what_looks_has_no_network_client_and_no_cryptography(module: str) -> None:
    assert loaded(module) & LINE == set()


def test_a_process_that_has_answered_and_learnt_the_truth_still_has_none(tmp_path: pathlib.Path) -> None:
    layout = fakes.join(tmp_path)
    fakes.install(layout, fakes.make_bundle(), fakes.make_bundle("v2", slope=2.0), fakes.trial("shadow"))
    code = (
        "import json, sys; from edge_agent import cli;"
        f"cli.main(['--store', {str(tmp_path)!r}, 'run', '--port', '0', '--no-sync']);"
        "print(json.dumps(list(sys.modules)))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        address = process.stdout.readline().split()[-1]
        status, reply = fakes.post(address, "/v1/predict", {"features": {"x": 1, "colour": "red", "size": 0}})
        assert status == 200, reply
        truth = {"prediction_id": reply["parameters"]["prediction_id"], "label": 1}
        assert fakes.post(address, "/v1/outcomes", {"outcomes": [truth]})[1]["accepted"] == 1
        process.terminate()
        names = set(json.loads(process.stdout.read()))
    assert process.returncode == 0
    assert names & (LINE | CLOUD) == set()
    assert "onnxruntime" in names


def test_the_serving_process_imports_its_runtime_only_when_there_is_a_model() -> None:
    assert loaded("edge_agent.agent") & LATE == set()


def test_no_module_of_the_device_imports_anything_of_the_cloud() -> None:
    names = loaded(*MODULES)
    assert set(MODULES) <= names
    assert names & CLOUD == set()


def test_the_sync_child_is_where_the_line_is() -> None:
    """So that the tests above would notice."""
    assert loaded("edge_agent.sync") >= {"requests", "tuf", "cryptography"}


@pytest.mark.parametrize("package", ["edge_agent", "cloud"])
def test_the_runtime_reports_to_nobody_and_keeps_nothing_for_that(tmp_path: pathlib.Path, package: str) -> None:
    code = f"import {package}, onnxruntime"
    environ = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environ | home, check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
