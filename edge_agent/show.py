"""What the looking verbs of ``covey-edge`` print: predict, status, versions, outbox, doctor."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import sys
import typing

from edge_agent import control
from edge_agent.commands import layout_of, open_sync, print_out, sync
from shared.errors import NotFoundError, UnreachableError, UsageError
from shared.labels import in_force

if typing.TYPE_CHECKING:
    from edge_agent.config import Layout
    from edge_agent.generation import Generations
    from edge_agent.update.state import State

Arguments = argparse.Namespace


def predict(arguments: Arguments) -> int:
    """Answer rows: by the running agent if there is one, else in this process."""
    from edge_agent.ask import ask_agent, ask_here

    layout = layout_of(arguments)
    rows = _rows(arguments)
    body: dict[str, object] = {"rows": rows} if arguments.model is None else {"rows": rows, "model": arguments.model}
    try:
        address = control.ask(layout.control, "status")["address"]
        reply = ask_agent(address, body)
    except UnreachableError:
        reply = ask_here(layout, body)
    for answer in reply["predictions"]:
        said = answer.get("label", answer.get("value"))
        how = answer["parameters"]
        probabilities = " ".join(f"{p:.4f}" for p in answer.get("probabilities", ()))
        line = f"{said}  [{probabilities}]  {how['version']} {how['arm']} {how['source']}  {how['prediction_id']}"
        print_out(answer, [line], as_json=arguments.json)
    return 0


def _rows(arguments: Arguments) -> list[dict[str, object]]:
    if bool(arguments.features) == bool(arguments.file):
        raise UsageError(
            "give the features of one row, or --file", field="NAME=VALUE", fix="Such as: hour=17 origin=JFK"
        )
    if arguments.file:
        try:
            text = sys.stdin.read() if arguments.file == "-" else pathlib.Path(arguments.file).read_text()
        except UnicodeDecodeError as err:
            raise UsageError(f"not UTF-8 text: {err}", field="--file", fix="One JSON object a line.") from err
        return [_row(line, i) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    row: dict[str, object] = {}
    for pair in arguments.features:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{pair[:60]!r} is not NAME=VALUE", field="NAME=VALUE", fix="Such as: hour=17")
        row[name] = _value(value)
    return [row]


def _row(line: str, number: int) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise UsageError(f"not JSON: {err}", field=f"--file line {number}") from err
    if not isinstance(row, dict):
        raise UsageError("not a JSON object", field=f"--file line {number}", fix="One object with features a line.")
    return row


def _value(text: str) -> object:
    """Numbers, true, false and null as JSON has them; anything else is text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, int | float | bool) or value is None else text


def status(arguments: Arguments) -> int:
    """Show what runs."""
    layout = layout_of(arguments)
    identity = layout.load_identity()
    try:
        said = control.ask(layout.control, "status")
    except UnreachableError as err:
        said = {"device": identity.device, "region": identity.region, "running": False, "error": str(err)}
        print_out(said, [f"{identity.device} ({identity.region}): {err}"], as_json=arguments.json)
        return err.exit_status
    where = f"on {said['address']}" if said["address"] else "inside a program"
    lines = [f"{said['device']} ({said['region']}) answers {where}"]
    labels = _labels(layout)
    lines.append("labels " + " ".join(f"{key}={value}" for key, value in sorted(labels.items())))
    lines.append(f"generation {said['generation'][:12] or 'none'}  {said['state']}")
    for name, model in said["models"].items():
        trial = f", candidate {', '.join([model['candidate'], *model['also']])}" if model["candidate"] else ""
        lines.append(f"  {name}  {model['incumbent']}{trial}  {model['error']}")
        if lists := model.get("lists"):
            counted = f"{lists['length']} of {lists['items']:,} items for {lists['contexts']:,} contexts"
            lines.append(f"    lists: {counted}")
    lines.append("  ".join(f"{name} {n:,}" for name, n in said["totals"].items()))
    if said["sync"]:
        last = said["sync"]
        lines.append(f"last sync: {'ok' if last['ok'] else last['error']}")
    print_out(said | {"running": True, "labels": labels}, lines, as_json=arguments.json)
    return 0


def _labels(layout: Layout) -> dict[str, str]:
    """Return the labels that this device goes by."""
    from edge_agent.update.state import State

    settings = layout.load_settings(os.environ)
    with contextlib.closing(State(layout.state_db)) as state:
        return in_force(settings.device.labels, state.labels(), settings.update.variants)


def versions(arguments: Arguments) -> int:
    """Show generations and versions."""
    from edge_agent.files import BlobStore
    from edge_agent.generation import Generations
    from edge_agent.update.state import State

    layout = layout_of(arguments)
    layout.load_identity()
    generations = Generations(layout.generations, layout.current, BlobStore(layout.blobs))
    running = generations.running()
    with contextlib.closing(State(layout.state_db)) as state:
        rows = _generations(generations, state, running)
        refused = [
            {"model": model, "version": version, "reason": why} for (model, version, _), why in state.refused().items()
        ]
    lines = [
        f"{'>' if row['running'] else ' '} {str(row['generation'])[:12]}  {row['state']:6}  {_said(row['models'])}"
        for row in rows
    ]
    lines += [f"  refused {row['model']}@{row['version']}: {row['reason']}" for row in refused]
    print_out({"generations": rows, "refused": refused}, lines or ["nothing yet"], as_json=arguments.json)
    return 0


def _generations(generations: Generations, state: State, running: str) -> list[dict[str, typing.Any]]:
    return [
        {
            "generation": digest,
            "running": digest == running,
            "state": state.state_of(digest) or "staged",
            "models": {
                entry.model: {
                    "incumbent": entry.incumbent,
                    "candidate": entry.candidate,
                    "also": [version for version, _ in entry.also],
                }
                for entry in generations.read(digest).models
            },
        }
        for digest in generations.list()
    ]


def _said(models: typing.Any) -> str:  # noqa: ANN401 - plain data
    return ", ".join(
        f"{name} {model['incumbent']}"
        + (f" (candidate {', '.join([model['candidate'], *model['also']])})" if model["candidate"] else "")
        for name, model in models.items()
    )


def outbox(arguments: Arguments) -> int:
    """Show or deliver what waits for the network."""
    from edge_agent.telemetry.outbox import Outbox

    layout = layout_of(arguments)
    layout.load_identity()
    if arguments.action == "flush":
        arguments.retry = arguments.child = False
        return sync(arguments)
    if not layout.spool_db.exists():
        raise NotFoundError("nothing has been recorded yet", fix="Answer something: covey-edge run")
    if arguments.action == "export":
        return _export(layout, arguments)
    with contextlib.closing(Outbox(layout.spool_db)) as box:
        waiting = box.counts()
        said = {"spool": box.spool_id, "bytes": box.size_bytes(), "waiting": waiting, "watermark_s": box.watermark_s}
    lines = [f"spool {said['spool']}, {said['bytes']:,} bytes"] + [f"  {n:6,} {name}" for name, n in waiting.items()]
    print_out(said, lines, as_json=arguments.json)
    return 0


def _export(layout: Layout, arguments: Arguments) -> int:
    """Write what waits to a folder."""
    from edge_agent.device_key import load_key
    from edge_agent.telemetry.carry import export_batches

    if not arguments.folder:
        raise UsageError("the folder is missing", field="FOLDER", fix="covey-edge outbox export FOLDER")
    device, folder = layout.load_identity().device, pathlib.Path(arguments.folder)
    with open_sync(layout) as passing:
        passing.flush()
        written = export_batches(passing.outbox, device, passing.status, load_key(layout.device_key), folder)
    said = {"folder": str(folder), "batches": [path.name for path in written]}
    print_out(said, [f"{len(written)} batches in {folder}"], as_json=arguments.json)
    return 0


def doctor(arguments: Arguments) -> int:
    """Say what is wrong."""
    from edge_agent.doctor import examine

    findings = examine(layout_of(arguments))
    lines = [f"{'ok  ' if finding.ok else 'BAD '} {finding.name}: {finding.detail}" for finding in findings]
    print_out([finding._asdict() for finding in findings], lines, as_json=arguments.json)
    return 0 if all(finding.ok for finding in findings) else 1
