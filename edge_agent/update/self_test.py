"""Try a new bundle in a throw-away process before it may run: memory and time limits, golden inputs."""

from __future__ import annotations

import pathlib
import resource
import subprocess
import sys
import typing

from shared.bundle import Manifest
from shared.errors import ModelError

Command = typing.Sequence[str]
_INTERPRETER_BYTES = 2 << 30  # address space that Python and ONNX Runtime reserve before any model
_SHOWN = 400
COMMAND: Command = (sys.executable, "-m", "edge_agent.cli", "_self-test")


def run_self_test(folder: pathlib.Path, manifest: Manifest, *, timeout_s: float, command: Command = COMMAND) -> None:
    """Load a bundle in a process of its own and reproduce its golden outputs.

    Parameters
    ----------
    folder : Path
        The version's folder.
    timeout_s : float
        The process is killed after so long.

    Raises
    ------
    ModelError
        It failed, hung or was killed; the message says how.
    """
    where = f"{manifest.model}@{manifest.version}"
    if manifest.variant != "standard":
        where += f" ({manifest.variant})"
    limit = _INTERPRETER_BYTES + manifest.budgets.memory_bytes
    try:
        done = subprocess.run(
            [*command, str(folder), str(limit)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path))},
        )
    except subprocess.TimeoutExpired as err:
        raise ModelError(f"self-test did not end within {timeout_s:g} s", field=where) from err
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-_SHOWN:]
        raise ModelError(f"self-test ended with {done.returncode}: {said or 'nothing said'}", field=where)


def limit_memory(limit_bytes: int) -> None:
    """Bound this process' address space."""
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
