"""Shows what an answer costs on the device: over HTTP, in process and from the table, beside plain ONNX Runtime.

Run ``python scripts/bench_predict.py``; ``--quick`` takes under two minutes, ``--json`` prints one object.
Everything is measured in turns, a slice of each in every round; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import typing

import bench_report
import predict_cases as cases
import predict_costs as memory
import predict_lists as lists
import predict_peers as peers
import predict_world as world
from predict_soak import soak

from edge_agent import Predictor

NAMED, SHIPPED = "run, named inputs", "run, as shipped"
FOREST = "forest of 500: run, as shipped"
Found = dict[str, list[dict[str, float]]]


class Size(typing.NamedTuple):
    """How long it takes."""

    rounds: int
    calls: int
    starts: int


FULL, QUICK = Size(40, 400, 9), Size(12, 250, 3)
RATIOS = (
    ("HTTP, uvloop", NAMED, 3.0),
    ("HTTP, uvloop", SHIPPED, 7.0),
    ("HTTP, asyncio", NAMED, 3.5),
    ("HTTP, asyncio", SHIPPED, 8.0),
    ("in process: encode and run", SHIPPED, 1.3),
    ("in process: everything", SHIPPED, 1.9),
    ("hit, 100,000 keys", NAMED, 0.2),
    ("hit, 100,000 keys", SHIPPED, 0.4),
    ("hit, 100,000 keys", FOREST, 0.02),
    ("hit, 1,000,000 keys", "hit, 10,000 keys", 2.5),
    (lists.FOUND, lists.RUN, 0.02),
    (lists.ASKED, lists.RUN, 0.5),
)


PEERS_SHARE = SCORED_SHARE = 10  # they take so long that a few calls are enough
CPU_RATIOS = (("HTTP, uvloop", "MLServer", 1 / 15), ("HTTP, uvloop", "Node + onnxruntime-node", 1 / 2))


def measure(some: dict[str, cases.Case], size: Size) -> Found:
    """Run all cases in turns; microseconds of each round."""
    found: Found = {name: [] for name in some}
    for case in some.values():
        case(size.calls)
    for _ in range(size.rounds):
        for name, case in some.items():
            part = case(size.calls)
            ordered = sorted(part.times)
            found[name].append(
                {
                    "p50": 1e6 * ordered[len(ordered) // 2],
                    "p25": 1e6 * ordered[len(ordered) // 4],
                    "cpu": 1e6 * part.cpu_s / len(ordered),
                }
            )
    return found


def rows_of(found: Found) -> list[dict[str, typing.Any]]:
    """Medians over the rounds."""
    return [
        {"name": name} | {f"{key}_us": statistics.median(one[key] for one in rounds) for key in ("p50", "p25", "cpu")}
        for name, rounds in found.items()
    ]


def ratio(found: Found, name: str, to: str, key: str = "p50") -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a[key] / b[key] for a, b in zip(found[name], found[to], strict=True))


def judge(found: Found, costs: dict[str, float]) -> list[dict[str, typing.Any]]:
    """Compare with the goals."""
    bars = [(f"{name} / {to}", ratio(found, name, to), limit) for name, to, limit in RATIOS if name in found]
    bars += [
        (f"CPU: {name} / {to}", ratio(found, name, to, "cpu"), limit) for name, to, limit in CPU_RATIOS if to in found
    ]
    bars += [(name, costs[name], limit) for name, limit in memory.COSTS.items() if name in costs]
    return [{"name": name, "value": value, "limit": limit, "ok": value <= limit} for name, value, limit in bars]


# ---- everything


def add_peers(stack: contextlib.ExitStack, folder: pathlib.Path, trained: world.Trained) -> dict[str, cases.Case]:
    """Start the other servers; one that can not be had here is left out."""
    some: dict[str, cases.Case] = {}
    for name, peer in peers.PEERS.items():
        home = folder / "".join(letter if letter.isalnum() else "-" for letter in name.lower())
        try:
            peers.install(home, peer)
            process = stack.enter_context(peers.running(home, peer, trained.shipped))
            client = peers.client(process, peer, trained)
            client(20)
        except (OSError, AssertionError, subprocess.CalledProcessError) as err:
            print(f"{name} is left out: {err!r:.200}", file=sys.stderr)
            continue
        stack.callback(client.close)
        some[name] = lambda n, client=client: client(max(n // PEERS_SHARE, 20))
    return some


def add_lists(stack: contextlib.ExitStack, folder: pathlib.Path, trained: world.Trained) -> dict[str, cases.Case]:
    """Ask an agent for the best of a catalogue, in contexts that have a list and in contexts that have none."""
    shown = lists.make_lists(trained)
    process = stack.enter_context(
        world.agent(world.make_store(folder / "lists", shown.sealed), COVEY_SERVE__LOOP="uvloop")
    )
    some = lists.in_process(folder / "listed", trained, shown)
    for name, rows, best, share in (
        (lists.ASKED, shown.known, shown.known_best, 1),
        (lists.SCORED, shown.unknown, shown.unknown_best, SCORED_SHARE),
    ):
        client = lists.client(process, rows, best)
        stack.callback(client.close)
        some[name] = lambda n, client=client, share=share: client(max(n // share, 20))
    run = some[lists.RUN]
    some[lists.RUN] = lambda n: run(max(n // SCORED_SHARE, 20))
    return some


def run(size: Size, peers_folder: pathlib.Path | None, *, only_costs: bool) -> tuple[Found, dict[str, float]]:
    """Train, serve and measure."""
    trained, shadow = world.train("boosting"), world.train("boosting", seed=2)
    forest = world.train("forest of 500", n_rows=4000)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        costs = memory.costs_of(folder, trained, shadow, size.starts)
        if only_costs:
            return {}, costs
        miss = world.table_of(trained, 100_000, 0)
        bundles = [world.sealed(trained, "v1", miss), world.sealed(shadow, "v2", None)]
        some = cases.plain_runs(trained)
        for loop in ("uvloop", "asyncio"):
            layout = world.make_store(folder / loop, *bundles)
            process = stack.enter_context(world.agent(layout, COVEY_SERVE__LOOP=loop))
            client = cases.covey_client(process, trained)
            stack.callback(client.close)
            some[f"HTTP, {loop}"] = client
        loaded = cases.opened(folder / "alone", world.sealed(trained, "v1", None))
        some["in process: encode and run"] = cases.encode_and_run(loaded, trained)
        alone = world.make_store(folder / "inside", bundles[0])
        predictor = stack.enter_context(Predictor(alone.store, with_sync=False))
        some["in process: everything"] = cases.predictor_case(predictor, trained)
        some |= cases.look_ups(trained, (10_000, 100_000, 1_000_000))
        some |= add_lists(stack, folder, trained)
        some[FOREST] = cases.plain_runs(forest)[SHIPPED]
        if peers_folder:
            some |= add_peers(stack, peers_folder, trained)
        time.sleep(3)  # so that all models are loaded
        return measure(some, size), costs


PACKAGES = ("onnxruntime", "numpy", "msgspec", "httptools", "uvloop", "scikit-learn")


def show(rows: list[dict[str, typing.Any]], bars: list[dict[str, typing.Any]]) -> None:
    """Print tables."""
    print(f"{'microseconds':34}{'p50':>9}{'p25':>9}{'CPU':>9}")
    for row in rows:
        print(f"{row['name']:34}{row['p50_us']:9.2f}{row['p25_us']:9.2f}{row['cpu_us']:9.2f}")
    print()
    for bar in bars:
        print(bench_report.line_of(bar))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--with-peers", metavar="FOLDER", type=pathlib.Path, help="install other servers there too")
    parser.add_argument("--costs", action="store_true", help="only memory and the first answer")
    parser.add_argument("--soak", action="store_true", help="answer 1M requests over HTTP and 10M in process instead")
    parser.add_argument("--soak-quick", action="store_true", help="answer 40k and 200k")
    args = parser.parse_args()
    if args.soak or args.soak_quick:
        bars = soak(*((1_000_000, 10_000_000) if args.soak else (40_000, 200_000)))
        if not args.json:
            show([], bars)
        return bench_report.end([], bars, packages=PACKAGES, as_json=args.json)
    size = QUICK if args.quick else FULL
    found, costs = run(size, args.with_peers and args.with_peers.absolute(), only_costs=args.costs)
    rows, bars = rows_of(found), judge(found, costs)
    if not args.json:
        show(rows, bars)
        print("\n".join(f"least  {name:62s} {costs[name]:9.4g}" for name in memory.FLOORS))
    rows += [{"name": name, "ratio": costs[name]} for name in memory.FLOORS]
    return bench_report.end(rows, bars, packages=PACKAGES, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
