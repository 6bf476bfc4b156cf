"""What each verb of ``covey-edge`` does. Heavy imports stay inside the verb that needs them."""

from __future__ import annotations

import argparse
import json
import logging
import os
import pathlib
import socket
import sys
import typing

from edge_agent import control
from edge_agent.config import Layout, find_store
from shared import logs
from shared.errors import NotFoundError, UnreachableError, UsageError

Arguments = argparse.Namespace


def _layout(arguments: Arguments) -> Layout:
    return Layout(find_store(arguments.store))


def _print(value: object, lines: typing.Iterable[str], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    else:
        sys.stdout.writelines(line + "\n" for line in lines)


def join(arguments: Arguments) -> int:
    """Join a fleet."""
    from edge_agent.link import Link, key_bytes, load_key, new_key, public_hex
    from edge_agent.update import enrol
    from shared.protocol import JoinReply, parse_join_token

    layout = _layout(arguments)
    text = arguments.token
    if text.startswith("@"):
        text = pathlib.Path(text[1:]).read_text()
    token = parse_join_token(text)
    layout.store.mkdir(parents=True, exist_ok=True)
    key = load_key(layout.device_key) if layout.device_key.exists() else new_key()
    link = Link(arguments.url, timeout_s=layout.load_settings(os.environ).sync.timeout_s)

    class Keys:
        """Key of this device."""

        def pem(self) -> bytes:
            """Private half."""
            return key_bytes(key)

        def public_hex(self) -> str:
            """Public half."""
            return public_hex(key)

    def exchange(path: str, record: typing.Any, reply: type[JoinReply]) -> JoinReply:  # noqa: ANN401 - any record
        return link.exchange(path, record, reply)

    name = arguments.name or socket.gethostname().split(".")[0]
    identity = enrol.join(layout, arguments.url.rstrip("/"), name, token, keys=Keys(), exchange=exchange)
    sys.stdout.write(f"joined as {identity.device} in region {identity.region}\n")
    if not arguments.no_sync:
        arguments.json = False
        arguments.retry = False
        arguments.child = False
        return sync(arguments)
    return 0


def run(arguments: Arguments) -> int:
    """Serve until stopped."""
    import asyncio

    import msgspec

    from edge_agent.agent import Agent

    logs.set_up(logging.DEBUG if arguments.debug else logging.INFO)
    layout = _layout(arguments)
    identity = layout.load_identity()
    settings = layout.load_settings(os.environ)
    flags = {key: value for key in ("host", "port") if (value := getattr(arguments, key)) is not None}
    if not 0 <= flags.get("port", 0) <= 65535:  # noqa: PLR2004 - the largest port
        raise UsageError(f"{flags['port']} is not a port", field="--port", fix="Use 0 to 65535.")
    settings = msgspec.structs.replace(settings, serve=msgspec.structs.replace(settings.serve, **flags))

    def on_ready(address: str) -> None:
        sys.stdout.write(f"{identity.device} answers on {address}\n")
        sys.stdout.flush()

    asyncio.run(Agent(layout, identity, settings).run(on_ready, with_sync=not arguments.no_sync))
    return 0


def sync(arguments: Arguments) -> int:
    """Update and deliver now: by the running agent if there is one, else in this process."""
    layout = _layout(arguments)
    identity = layout.load_identity()
    if arguments.retry:
        _forget_refusals(layout)
    if arguments.child:
        return _sync_child(layout)
    try:
        done = control.ask(layout.control, "sync", timeout_s=300.0)
    except UnreachableError:
        done = _sync_here(layout)
    said = f"{identity.device}: channel {done['channel_sequence']}, generation {str(done['generation'])[:12] or 'none'}"
    said += f", {done['delivered']} batches delivered"
    _print(done, [said], as_json=arguments.json)
    if not done["ok"]:
        sys.stderr.write(f"covey-edge: {done['error']}\n")
        return UnreachableError.exit_status if done["code"] == UnreachableError.code else 1
    return 0


def _sync_here(layout: Layout) -> dict[str, typing.Any]:
    import msgspec

    from edge_agent.sync import Sync
    from edge_agent.telemetry.spool import Spool

    settings = layout.load_settings(os.environ)
    Spool(layout.spool_db, settings.spool.limit_bytes).close()
    done = Sync(layout, layout.load_identity(), settings).one_pass()
    return msgspec.structs.asdict(done)


def _sync_child(layout: Layout) -> int:
    from edge_agent.sync import Sync, run_child

    logs.set_up()
    return run_child(Sync(layout, layout.load_identity(), layout.load_settings(os.environ)))


def _forget_refusals(layout: Layout) -> None:
    from edge_agent.update.state import State

    state = State(layout.state_db)
    state.forget_refusals()
    state.close()


def rollback(arguments: Arguments) -> int:
    """Go back to the last good generation."""
    layout = _layout(arguments)
    layout.load_identity()
    done = control.ask(layout.control, "rollback", reason=arguments.reason)
    _print(done, [f"now runs {done['active'][:12]}"], as_json=arguments.json)
    return 0


def self_test(arguments: Arguments) -> int:
    """Try a bundle, in this process and with its limits; the exit status says how it went."""
    from edge_agent.predict.loaded import LoadedBundle
    from edge_agent.update.self_test import limit_memory
    from shared.bundle import parse_manifest

    limit_memory(arguments.limit_bytes)
    folder = pathlib.Path(arguments.folder)
    bundle = LoadedBundle(folder, parse_manifest((folder / "manifest.json").read_bytes()))
    if bundle.table:
        bundle.table.check()
    bundle.load_model()
    rows = bundle.check_golden()
    sys.stdout.write(f"{rows} golden rows reproduced\n")
    return 0


def predict(arguments: Arguments) -> int:
    """Answer rows: by the running agent if there is one, else in this process."""
    from edge_agent.ask import ask_agent, ask_here

    layout = _layout(arguments)
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
        _print(answer, [line], as_json=arguments.json)
    return 0


def _rows(arguments: Arguments) -> list[dict[str, object]]:
    if bool(arguments.features) == bool(arguments.file):
        raise UsageError(
            "give the features of one row, or --file", field="NAME=VALUE", fix="Such as: hour=17 origin=JFK"
        )
    if arguments.file:
        text = sys.stdin.read() if arguments.file == "-" else pathlib.Path(arguments.file).read_text()
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
    layout = _layout(arguments)
    identity = layout.load_identity()
    try:
        said = control.ask(layout.control, "status")
    except UnreachableError as err:
        said = {"device": identity.device, "region": identity.region, "running": False, "error": str(err)}
        _print(said, [f"{identity.device} ({identity.region}): {err}"], as_json=arguments.json)
        return err.exit_status
    lines = [f"{said['device']} ({said['region']}) answers on {said['address']}"]
    lines.append(f"generation {said['generation'][:12] or 'none'}  {said['state']}")
    for name, model in said["models"].items():
        trial = f", candidate {model['candidate']}" if model["candidate"] else ""
        lines.append(f"  {name}  {model['incumbent']}{trial}  {model['error']}")
    lines.append("  ".join(f"{name} {n:,}" for name, n in said["totals"].items()))
    if said["sync"]:
        last = said["sync"]
        lines.append(f"last sync: {'ok' if last['ok'] else last['error']}")
    _print(said | {"running": True}, lines, as_json=arguments.json)
    return 0


def versions(arguments: Arguments) -> int:
    """Show generations and versions."""
    from edge_agent.files import BlobStore
    from edge_agent.generation import Generations
    from edge_agent.update.state import State

    layout = _layout(arguments)
    layout.load_identity()
    generations = Generations(layout.generations, layout.current, BlobStore(layout.blobs))
    state = State(layout.state_db)
    running = generations.running()
    rows = []
    for digest in generations.list():
        models = {
            entry.model: {"incumbent": entry.incumbent, "candidate": entry.candidate}
            for entry in generations.read(digest).models
        }
        rows.append(
            {
                "generation": digest,
                "running": digest == running,
                "state": state.state_of(digest) or "staged",
                "models": models,
            }
        )
    refused = [
        {"model": model, "version": version, "reason": why} for (model, version, _), why in state.refused().items()
    ]
    lines = [
        f"{'>' if row['running'] else ' '} {str(row['generation'])[:12]}  {row['state']:6}  {_said(row['models'])}"
        for row in rows
    ]
    lines += [f"  refused {row['model']}@{row['version']}: {row['reason']}" for row in refused]
    _print({"generations": rows, "refused": refused}, lines or ["nothing yet"], as_json=arguments.json)
    return 0


def _said(models: typing.Any) -> str:  # noqa: ANN401 - plain data
    return ", ".join(
        f"{name} {model['incumbent']}" + (f" (candidate {model['candidate']})" if model["candidate"] else "")
        for name, model in models.items()
    )


def outbox(arguments: Arguments) -> int:
    """Show or deliver what waits for the network."""
    from edge_agent.telemetry.outbox import Outbox

    layout = _layout(arguments)
    layout.load_identity()
    if arguments.action == "flush":
        arguments.retry = arguments.child = False
        return sync(arguments)
    if not layout.spool_db.exists():
        raise NotFoundError("nothing has been recorded yet", fix="Answer something: covey-edge run")
    box = Outbox(layout.spool_db)
    said = {"spool": box.spool_id, "bytes": box.size_bytes(), "waiting": box.counts(), "watermark_s": box.watermark_s}
    lines = [f"spool {box.spool_id}, {box.size_bytes():,} bytes"] + [
        f"  {n:6,} {name}" for name, n in box.counts().items()
    ]
    _print(said, lines, as_json=arguments.json)
    return 0


def doctor(arguments: Arguments) -> int:
    """Say what is wrong."""
    from edge_agent.doctor import examine

    findings = examine(_layout(arguments))
    lines = [f"{'ok  ' if finding.ok else 'BAD '} {finding.name}: {finding.detail}" for finding in findings]
    _print([finding._asdict() for finding in findings], lines, as_json=arguments.json)
    return 0 if all(finding.ok for finding in findings) else 1
