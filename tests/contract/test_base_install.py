"""The base install is the device alone: it answers from a bundle, and has nothing of the cloud's libraries."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import typing

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FORBIDDEN = (
    "flask",
    "click",
    "scikit-learn",
    "scipy",
    "pandas",
    "sqlite-utils",
    "onnx",
    "skl2onnx",
    "pydantic",
    "pyarrow",
)


def _run(*command: str | pathlib.Path, **settings: typing.Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280, check=False, **settings)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Python of a venv that has the wheel and what its base install needs."""
    folder = tmp_path_factory.mktemp("bare")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    wheel = _run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    del wheel
    _run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    (built,) = folder.glob("covey-*.whl")
    _run(
        python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-c", ROOT / "constraints.txt", built
    )
    return python


@pytest.mark.timeout(600)
def test_the_base_install_answers_from_a_bundle_and_has_none_of_the_clouds_libraries(
    bare_python: pathlib.Path, make_world: typing.Any, tmp_path: pathlib.Path
) -> None:
    listed = json.loads(_run(bare_python, "-m", "pip", "list", "--format=json").stdout)
    names = {entry["name"].lower().replace("_", "-") for entry in listed}
    assert names.isdisjoint(FORBIDDEN)
    world = make_world()
    world.start_cloud()
    world.add(world.old_world(), "old")
    number = world.roll_out(world.train())
    edge = bare_python.with_name("covey-edge")
    store = ("--store", tmp_path / "device")
    token = (world.project.keys / "join-token").read_text().strip()
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    _run(edge, *store, "join", world.cloud.url, "--token", token, "--name", "bare", env=clean)
    world.cloud.stop()
    world.cloud = None
    said = _run(edge, *store, "predict", "--json", "colour=red", "price=5", env=clean, cwd=tmp_path)
    answer = json.loads(said.stdout)
    assert answer["label"] == 1
    assert answer["parameters"]["version"] == "v1"
    assert answer["parameters"]["source"] == "precomputed"
    miss = json.loads(_run(edge, *store, "predict", "--json", "colour=violet", env=clean, cwd=tmp_path).stdout)
    assert miss["parameters"]["source"] == "onnx"
    assert number == 1


def test_the_wheel_holds_the_three_packages_and_nothing_else(bare_python: pathlib.Path) -> None:
    code = (
        "import importlib.metadata as m, json;"
        "print(json.dumps(sorted({str(f).split('/')[0] for f in m.files('covey') if '..' not in str(f)})))"
    )
    tops = json.loads(_run(bare_python, "-c", code).stdout)
    assert [top for top in tops if not top.endswith(".dist-info")] == ["cloud", "edge_agent", "shared"]
