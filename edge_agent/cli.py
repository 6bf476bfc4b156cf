"""``covey-edge``: the device's command line."""

from __future__ import annotations

import sys

from edge_agent import lean

lean.prepare(sys.argv)  # before anything imports asyncio

import types  # noqa: E402
import typing  # noqa: E402

from edge_agent import commands  # noqa: E402
from shared import __version__  # noqa: E402
from shared.errors import CoveyError, nearest, printable  # noqa: E402

if typing.TYPE_CHECKING:
    import argparse


def _parser() -> argparse.ArgumentParser:
    import argparse

    class Parser(argparse.ArgumentParser):
        """Says what was meant."""

        def error(self, message: str) -> typing.NoReturn:
            """End, in words."""
            super().error(_meant(message))

    parser = Parser(
        prog="covey-edge", description="Answer predictions on this device, offline, and keep its models up to date."
    )
    parser.add_argument("--store", help="folder that holds everything the device keeps (or COVEY_STORE)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and more logs")
    parser.add_argument("--version", action="version", version=f"covey-edge {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_joining(verbs)
    _add_running(verbs)
    _add_looking(verbs)
    return parser


def _meant(message: str) -> str:
    """Name the nearest verb in place of all of them.

    >>> _meant("argument VERB: invalid choice: 'stauts' (choose from 'run', '_self-test', 'status')")
    "no verb 'stauts'. Did you mean 'status'?"
    >>> _meant("argument VERB: invalid choice: 'x' (choose from run, _self-test, status)")
    "no verb 'x'. Known are: run, status"
    """
    import re

    found = re.fullmatch(r"argument VERB: invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
    if not found:
        return message
    known = [verb for verb in re.findall(r"[\w-]+", found[2]) if not verb.startswith("_")]
    near = nearest(found[1], known)
    return f"no verb {found[1]!r:.60}. " + (f"Did you mean {near!r}?" if near else f"Known are: {', '.join(known)}")


Verbs = typing.Any  # argparse does not name the type


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:  # so that not-a-number, which no clock ever reaches, is none either
        raise ValueError(text)
    return value


def _add_joining(verbs: Verbs) -> None:
    from edge_agent import keys

    join = verbs.add_parser("join", help="join a fleet and fetch the first models")
    join.add_argument("url", metavar="URL", help="the cloud's address, such as http://cloud.example:8080")
    join.add_argument("--token", required=True, help="join token, or @FILE to read it from a file")
    join.add_argument("--name", help="name of this device (default: the host's name)")
    join.add_argument(
        "--wait", type=_seconds, default=20.0, help="seconds to wait for approval, and for the first model (default 20)"
    )
    join.add_argument("--no-sync", action="store_true", help="do not fetch anything yet")
    join.add_argument("--if-needed", action="store_true", help="do nothing if this device has joined")
    join.set_defaults(do=commands.join)
    for name, do, text in (
        ("key", keys.key, "print the public half of this device's key; made if there is none"),
        ("rotate-key", keys.rotate, "replace this device's key; the cloud accepts the new one from then on"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.set_defaults(do=do)
    unit = verbs.add_parser("unit", help="print a systemd unit for the agent")
    unit.add_argument("--name", default="covey-edge", help="name of the service (default covey-edge)")
    unit.add_argument("--url", default="", help="the cloud's address: the device joins when it first starts")
    unit.add_argument("--token-file", default="", help="file with the join token, given to the service as a credential")
    unit.add_argument("--port", type=int, help="port to answer on (default 8765)")
    unit.add_argument("--program", default="", help="path of covey-edge (default: this one)")
    unit.add_argument("--allow", action="append", default=[], help="address it may speak with; repeat for more")
    unit.set_defaults(do=commands.unit)


def _add_running(verbs: Verbs) -> None:
    import argparse

    run = verbs.add_parser("run", help="answer predictions and keep in sync, until stopped")
    run.add_argument("--host", help="address to answer on (default 127.0.0.1)")
    run.add_argument("--port", type=int, help="port to answer on (default 8765; 0 picks a free one)")
    run.add_argument("--no-sync", action="store_true", help="do not talk to the cloud")
    run.set_defaults(do=commands.run)
    sync = verbs.add_parser("sync", help="update and deliver now")
    sync.add_argument("--retry", action="store_true", help="try versions again that failed here before")
    sync.add_argument("--repair", action="store_true", help="read every file, and fetch again what is damaged")
    sync.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    sync.add_argument("--failures", type=int, default=0, help=argparse.SUPPRESS)
    sync.add_argument("--json", action="store_true", help="print JSON")
    sync.set_defaults(do=commands.sync)
    carry = verbs.add_parser("import", help="update from a folder that was carried here, and read its receipts")
    carry.add_argument("folder", help="what covey bundle export has written")
    carry.add_argument("--json", action="store_true", help="print JSON")
    carry.set_defaults(do=commands.import_)
    rollback = verbs.add_parser("rollback", help="go back to the last good generation")
    rollback.add_argument("--reason", default="asked for on the device", help="kept in the device's events")
    rollback.add_argument("--json", action="store_true", help="print JSON")
    rollback.set_defaults(do=commands.rollback)
    test = verbs.add_parser("_self-test")
    test.add_argument("folder")
    test.add_argument("limit_bytes", type=int)
    test.set_defaults(do=commands.self_test)


def _add_looking(verbs: Verbs) -> None:
    from edge_agent import show

    predict = verbs.add_parser("predict", help="answer one row, or a file of rows")
    predict.add_argument("features", nargs="*", metavar="NAME=VALUE", help="the features of one row")
    predict.add_argument("--file", help="rows as JSON lines; - reads standard input")
    predict.add_argument("--model", help="which model, if there are several")
    predict.add_argument("--json", action="store_true", help="print JSON")
    predict.set_defaults(do=show.predict)
    for name, do, text in (
        ("status", show.status, "what runs, and how it is"),
        ("versions", show.versions, "generations and versions on this device"),
        ("doctor", show.doctor, "say what is wrong"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.set_defaults(do=do)
    outbox = verbs.add_parser("outbox", help="what waits for the network")
    outbox.add_argument(
        "action", nargs="?", choices=["show", "flush", "export"], default="show",
        help="show it, deliver it now, or write it to a folder to be carried",
    )  # fmt: skip
    outbox.add_argument("folder", nargs="?", help="where to write to")
    outbox.add_argument("--json", action="store_true", help="print JSON")
    outbox.set_defaults(do=show.outbox)


def _plain(words: typing.Sequence[str]) -> types.SimpleNamespace | None:
    read = lean.plain_arguments(words)
    return None if read is None else types.SimpleNamespace(**read, do=commands.run)


def main(argv: typing.Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    arguments: commands.Arguments = _plain(words) or _parser().parse_args(words)
    try:
        return int(arguments.do(arguments) or 0)
    except CoveyError as err:
        return _failed(err, err.exit_status, arguments)
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    except OSError as err:
        return _failed(err, 1, arguments)


def _failed(err: Exception, status: int, arguments: commands.Arguments) -> int:
    if arguments.debug:
        import traceback

        traceback.print_exception(err)
    sys.stderr.write(f"covey-edge: {printable(str(err))}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
