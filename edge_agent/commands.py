"""What each verb of ``covey-edge`` does. Heavy imports stay inside the verb that needs them."""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import socket
import sys
import time
import typing

from edge_agent import control, lean
from edge_agent.config import Layout, find_store
from shared import logs
from shared.errors import AuthError, NotFoundError, UnreachableError, UsageError, printable

if typing.TYPE_CHECKING:
    import asyncio

    from edge_agent.sync import Sync

Arguments = typing.Any  # as argparse makes them, or `lean.plain_arguments`
_FIRST_SYNC_PAUSE_S = 0.5
_NICE = 10


def layout_of(arguments: Arguments) -> Layout:
    """Return the paths of the store that the command line names."""
    return Layout(find_store(arguments.store))


def print_out(value: object, lines: typing.Iterable[str], *, as_json: bool) -> None:
    """Print JSON, or lines for people."""
    if as_json:
        import json

        sys.stdout.write(printable(json.dumps(value, ensure_ascii=False), as_json=True) + "\n")
    else:
        sys.stdout.writelines(printable(line) + "\n" for line in lines)


def join(arguments: Arguments) -> int:
    """Join a fleet."""
    from edge_agent.device_key import key_bytes, load_key, new_key, public_hex
    from edge_agent.link import Link
    from edge_agent.update import enrol
    from shared.protocol import parse_join_token

    layout = layout_of(arguments)
    if arguments.if_needed and layout.identity.exists():
        sys.stdout.write(f"joined already, as {layout.load_identity().device}\n")
        return 0
    token = parse_join_token(_token_of(arguments.token))
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

    name = arguments.name or socket.gethostname().split(".")[0]
    at = arguments.url.rstrip("/")
    identity, is_pending = enrol.join(layout, at, name, token, keys=Keys(), exchange=link.exchange)
    if is_pending and not _is_approved(layout, 0.0 if arguments.no_sync else arguments.wait):
        return 0
    sys.stdout.write(f"joined as {identity.device} in region {identity.region}\n")
    return 0 if arguments.no_sync else _first_sync(layout, arguments.wait)


def _token_of(text: str) -> str:
    """Return the token itself, out of a file for @FILE."""
    if text.startswith("@"):
        try:
            return pathlib.Path(text[1:]).read_text(errors="replace")
        except OSError as err:
            raise NotFoundError(f"{text[1:]!r} can not be read: {err.strerror}", field="--token") from err
    if pathlib.Path(text).is_file():
        raise UsageError(f"{text!r} is a file", field="--token", fix=f"To read the token from it: --token @{text}")
    return text


def _is_approved(layout: Layout, wait_s: float) -> bool:
    """Wait until somebody approves this device; one that is rejected belongs to no fleet."""
    from edge_agent.device_key import KeyFile, public_hex
    from edge_agent.link import Link
    from edge_agent.update.enrol import wait_for_approval

    identity, key = layout.load_identity(), KeyFile(layout.device_key)
    name, settings = identity.device, layout.load_settings(os.environ)
    sys.stdout.write(f"asked to join as {name} in region {identity.region}, with the key {public_hex(key.load())}\n")
    sys.stdout.write(f"somebody has to approve it: covey device approve {name}\n")
    sys.stdout.flush()
    link = Link(identity.cloud_url, name, key, timeout_s=settings.sync.timeout_s)
    try:
        approved = wait_for_approval(link.sign_in, wait_s)
    except AuthError:
        layout.identity.unlink()
        raise
    finally:
        link.close()
    if not approved:
        sys.stderr.write("covey-edge: not approved yet. It is asked again at each sync: covey-edge run\n")
    return approved


def _first_sync(layout: Layout, wait_s: float) -> int:
    """Fetch the first models; a rollout that has just begun is given a little time."""
    deadline = time.monotonic() + wait_s
    while True:
        done = _sync_here(layout)
        if done["models"] or time.monotonic() >= deadline:
            break
        time.sleep(_FIRST_SYNC_PAUSE_S)
    if done["models"]:
        sys.stdout.write(f"ready to answer with {', '.join(done['models'])}\n")
        return 0
    why = printable(done["error"]) or "none rolled out"
    sys.stderr.write(f"covey-edge: joined, but there is no model for this region yet: {why}. ")
    sys.stderr.write("Roll one out (covey rollout start); this device fetches it by itself: covey-edge run\n")
    return 0 if done["ok"] or done["code"] == NotFoundError.code else 1


def run(arguments: Arguments) -> int:
    """Serve until stopped."""
    import asyncio

    import msgspec

    from edge_agent.agent import Agent
    from edge_agent.loading import wait_until_idle

    logs.set_up(logging.DEBUG if arguments.debug else logging.INFO)
    layout = layout_of(arguments)
    identity = layout.load_identity()
    settings = layout.load_settings(os.environ)
    flags = {key: value for key in ("host", "port") if (value := getattr(arguments, key)) is not None}
    if not 0 <= flags.get("port", 0) <= 65535:  # noqa: PLR2004 - the largest port
        raise UsageError(f"{flags['port']} is not a port", field="--port", fix="Use 0 to 65535.")
    settings = msgspec.structs.replace(settings, serve=msgspec.structs.replace(settings.serve, **flags))

    def on_ready(address: str) -> None:
        sys.stdout.write(f"{identity.device} answers on {address}\n")
        sys.stdout.flush()

    with asyncio.Runner(loop_factory=_loop_factory(settings.serve.loop)) as runner:
        loop, agent = runner.get_loop(), Agent(layout, identity, settings)
        lean.begin()
        # The agent hears signals itself; a runner would prepare for them too, and imports half of ast for that.
        loop.run_until_complete(agent.run(on_ready, with_sync=not arguments.no_sync))
    # All is written; a model that never ends loading would have the last word.
    return 0 if wait_until_idle(0.0) else os._exit(0)


def _loop_factory(wanted: str) -> typing.Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop; none for the one that comes with Python."""
    if wanted == "asyncio":
        return None
    try:
        import uvloop
    except ImportError as err:
        if wanted == "auto":
            return None
        raise UsageError(
            "uvloop is not installed", field="serve.loop", fix="Install covey[fast], or leave it at auto."
        ) from err
    return typing.cast("typing.Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)


def unit(arguments: Arguments) -> int:
    """Print a systemd unit."""
    from edge_agent.unit import unit as unit_of

    made = unit_of(
        program=arguments.program or str(pathlib.Path(sys.argv[0]).absolute()),
        name=arguments.name,
        url=arguments.url,
        token_file=arguments.token_file,
        port=arguments.port,
        allow=arguments.allow,
    )
    sys.stdout.write(made)
    return 0


def sync(arguments: Arguments) -> int:
    """Update and deliver now: by the running agent if there is one, else in this process."""
    layout = layout_of(arguments)
    identity = layout.load_identity()
    if arguments.retry:
        _forget_refusals(layout)
    if arguments.child:
        return _sync_child(layout, arguments.failures, check_files=arguments.repair)
    if arguments.repair:
        with open_sync(layout) as passing:
            passing.check_files()
    try:
        done = control.ask(layout.control, "sync", timeout_s=300.0)
    except UnreachableError:
        done = _sync_here(layout)
    said = f"{identity.device}: channel {done['channel_sequence']}, generation {str(done['generation'])[:12] or 'none'}"
    _tell(done, f"{said}, {done['delivered']} batches delivered", as_json=arguments.json)
    if done["ok"]:
        return 0
    return UnreachableError.exit_status if done["code"] == UnreachableError.code else 1


@contextlib.contextmanager
def open_sync(layout: Layout, *, source: pathlib.Path | None = None) -> typing.Iterator[Sync]:
    """Open what updates and delivers, in this process; the spool is made if there is none."""
    from edge_agent.sync import Sync
    from edge_agent.telemetry.spool import Spool

    settings = layout.load_settings(os.environ)
    Spool(layout.spool_db, settings.spool.limit_bytes).close()
    with contextlib.closing(Sync(layout, layout.load_identity(), settings, source=source)) as passing:
        yield passing


def _sync_here(layout: Layout) -> dict[str, typing.Any]:
    import msgspec

    with open_sync(layout) as passing:
        return msgspec.structs.asdict(passing.one_pass())


def _tell(done: dict[str, typing.Any], said: str, *, as_json: bool) -> None:
    """Print what a pass did; what went wrong goes to standard error."""
    lines = [said] + [f"  a new version is ready, and waits: {done['waits']}"] * bool(done["waits"])
    lines += [f"  repaired: {name}" for name in done.get("repaired", ())]
    print_out(done, lines, as_json=as_json)
    if not done["ok"]:
        sys.stderr.write(f"covey-edge: {printable(done['error'])}\n")


def import_(arguments: Arguments) -> int:
    """Update from a folder, and forget the batches for which it holds receipts."""
    import msgspec

    from edge_agent.telemetry.carry import take_receipts

    layout = layout_of(arguments)
    device, folder = layout.load_identity().device, pathlib.Path(arguments.folder)
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is no folder", fix="Give the one that covey bundle export has written.")
    with open_sync(layout, source=folder) as passing:
        done = msgspec.structs.asdict(passing.one_pass())
        done["acknowledged"] = take_receipts(passing.outbox, device, layout.tuf / "targets.json", folder)
    said = f"{device}: {', '.join(done['models']) or 'no model'}, channel {done['channel_sequence']}"
    _tell(done, f"{said}, {done['acknowledged']} batches acknowledged", as_json=arguments.json)
    return 0 if done["ok"] else 1


def _sync_child(layout: Layout, failures: int, *, check_files: bool) -> int:
    from edge_agent.passes import Beat, run_child
    from edge_agent.sync import Sync

    logs.set_up()
    os.nice(_NICE)
    settings, beat = layout.load_settings(os.environ), Beat(sys.stdout.buffer)
    passing = Sync(layout, layout.load_identity(), settings, failures=failures, beat=beat)
    if check_files:
        passing.check_files()
    return run_child(passing.one_pass)


def _forget_refusals(layout: Layout) -> None:
    from edge_agent.update.state import State

    state = State(layout.state_db)
    state.forget_refusals()
    state.close()


def rollback(arguments: Arguments) -> int:
    """Go back to the last good generation."""
    layout = layout_of(arguments)
    layout.load_identity()
    done = control.ask(layout.control, "rollback", reason=arguments.reason)
    print_out(done, [f"now runs {done['active'][:12]}"], as_json=arguments.json)
    return 0


def self_test(arguments: Arguments) -> int:
    """Try a bundle, in this process and with its limits; the exit status says how it went."""
    from edge_agent.costs import try_bundle

    rows = try_bundle(pathlib.Path(arguments.folder), arguments.limit_bytes)
    sys.stdout.write(f"{rows} golden rows reproduced\n")
    return 0
