"""Telemetry that is killed again and again, on the device and in the cloud: nothing is lost, nothing counts twice.

``.ci/run`` kills 100 times; ``COVEY_EVERY_CALL=1`` (``just faults``) a thousand times, and prints what came of it.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import fakes
from tests.small_fleet import SmallFleet

ROOT = pathlib.Path(__file__).parents[2]
EVERY = bool(os.environ.get("COVEY_EVERY_CALL"))
KILLS = 1000 if EVERY else 100


@pytest.mark.timeout(1800)
def test_what_was_recorded_counts_once_however_often_everything_is_killed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet = SmallFleet(tmp_path / "project")
    fleet.store.fleet.add_token("token", "secret", "west", uses=1, lifetime_s=3600)
    fleet.store.fleet.join(fakes.DEVICE, "11" * 32, "token", "secret")
    database = fleet.project.database
    fleet.store.close()
    layout = fakes.join(tmp_path / "store")
    driver = pathlib.Path(__file__).with_name("kill_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(layout.store), str(database), str(KILLS), "7"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1700,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["dropped"] == 0
    # A record that was begun and not finished when the process died may count or not; nothing else may differ.
    assert said["done"] > KILLS / 2, said  # something happened between the kills, however busy the machine
    assert said["done"] <= said["requests"] <= said["begun"], said
    assert said["done"] <= said["outcomes"] <= said["begun"], said
    assert said["batches"] > 2, said
    if EVERY:
        with capsys.disabled():
            sys.stdout.write(f"\n{KILLS} kills: {said}; lost 0, doubled 0\n")
