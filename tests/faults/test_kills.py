"""Kill -9 of everything in the middle of a rollout: it ends as it would have, and nothing is lost or doubled."""

from __future__ import annotations

import contextlib
import os
import signal
import typing

import pytest

World = typing.Any


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _find(world: World, tools: typing.Any, words: str) -> list[int]:
    """Processes of the cloud whose command line has some words."""
    main = world.cloud.process.pid
    family = [main, *tools.children_of(main)]
    return [pid for pid in family if words in tools.command_line(pid)]


def _kill_cloud(world: World, tools: typing.Any) -> None:
    """Kill the server's main process alone; what it started must not be left behind on its port."""
    family = tools.children_of(world.cloud.process.pid)
    _kill(world.cloud.process.pid)
    world.cloud.process.wait()
    tools.wait_for("its children to end", lambda: not any(map(tools.is_alive, family)), timeout_s=20)
    world.cloud.stop()
    world.start_cloud()


def _kill_web_worker(world: World, tools: typing.Any) -> None:
    """Kill the process that answers requests; the server starts another."""
    for pid in tools.children_of(world.cloud.process.pid):
        if "--with-parent" not in tools.command_line(pid):
            _kill(pid)
    world.cloud.wait()


def _kill_worker(world: World, tools: typing.Any) -> None:
    """Kill the worker; the server starts another."""
    (pid,) = _find(world, tools, "worker --with-parent")
    _kill(pid)


def _kill_device(world: World, _tools: typing.Any) -> None:
    """Kill an agent right after it has answered; what it has answered must count all the same."""
    device = world.fleet.devices[0]
    world.customers(device, 10)
    _kill(device.process.pid)
    device.process.wait()
    device.process.stdout.close()
    device.hang_up()
    device.start()


def _kill_sync_child(world: World, tools: typing.Any) -> None:
    device = world.fleet.devices[1]
    children = [p for p in tools.children_of(device.process.pid) if "sync --child" in tools.command_line(p)]
    assert children
    for pid in children:
        _kill(pid)


KILLS = {
    "cloud": _kill_cloud,
    "web worker": _kill_web_worker,
    "worker": _kill_worker,
    "device": _kill_device,
    "sync child": _kill_sync_child,
}


def test_killing_each_process_in_the_middle_of_a_rollout_changes_nothing(world: World, world_tools: typing.Any) -> None:
    world.add(world.new_world(), "new")
    number = world.roll_out(world.train())
    kills = list(KILLS.items())
    for _ in range(20):
        if kills and world.store.rollouts.stages(number)[0]["opened_s"]:
            _, kill = kills.pop(0)
            kill(world, world_tools)
        world.day()
        if world.state(number) != "running" and not kills:
            break
    assert not kills
    assert world.state(number) == "promoted", world.stages(number)
    assert [verdict for _, _, verdict in world.stages(number)] == ["PASS", "PASS", "PASS"]
    assert world.failed == 0
    assert world.stored() == world.sent()


@pytest.mark.parametrize("where", ["before the reply", "after the commit"])
def test_a_batch_whose_acknowledgement_is_lost_counts_once(world: World, world_tools: typing.Any, where: str) -> None:
    """Kill the sync child again and again while it delivers; the server may or may not have taken the batch."""
    device = world.fleet.devices[0]
    for _ in range(6):
        world.customers(device, 20)
        children = [p for p in world_tools.children_of(device.process.pid) if "sync" in world_tools.command_line(p)]
        if where == "after the commit":
            before = world.store.evidence.revision()
            with contextlib.suppress(OSError):
                _ask_without_waiting(device)
            with contextlib.suppress(Exception):
                world_tools.wait_for("a batch", lambda: world.store.evidence.revision() > before, timeout_s=3)  # noqa: B023
        for pid in children:
            _kill(pid)
    world.now_s += 3600
    world.each(world.tell_time)
    world.settle()
    assert world.stored() == world.sent()


def _ask_without_waiting(device: typing.Any) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(device.folder / "control.sock"))
        line.sendall(b'{"command": "sync", "timeout_s": 60}\n')
