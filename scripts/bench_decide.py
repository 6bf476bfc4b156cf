"""Shows what the decision rule does on simulated experiments with known truth, beside rules that others use.

Every look of 10,000 experiments a scenario is decided by ``cloud.analysis.array_decide``, the rule over arrays. The
first 300 of them also go through ``covey experiment decide``, as JSON lines, and every word must be the same.
``--quick`` gives a rough answer; ``--more`` tries unusual circumstances, of which the command sees fewer.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import subprocess
import sys
import time
import typing

import bench_report
import msgspec
import numpy as np
import numpy.typing as npt
from decide_rivals import RIVALS, pool
from decide_scenarios import Scenario, more, promised

from cloud.analysis.array_decide import Verdicts, decide_all
from cloud.analysis.batch import Batch

CHUNK = 100
DENSE_LOOKS, STEP = 40, 4  # the command sees the first looks all, then every fourth: verdicts mostly fall early
OURS = "covey"
Firsts = npt.NDArray[np.float64]  # (experiment, [rollback, promote]) outcomes when the word first fell, or inf


class Job(typing.NamedTuple):
    """A chunk of the experiments of a scenario, and how many of them rivals and the command see."""

    scenario: Scenario
    chunk: int
    size: int
    rivals: bool
    command: int


class Part(typing.NamedTuple):
    """What came of a chunk: by rule when words fell; experiments and words compared, and how many differ."""

    firsts: dict[str, Firsts]
    looks: int
    compared: int
    words: int
    differ: int
    seconds: float


def firsts_of(rollback: npt.NDArray[np.bool_], promote: npt.NDArray[np.bool_], n: Firsts) -> Firsts:
    """Candidate outcomes when each word first fell."""
    rows = np.arange(len(n))
    found = [np.where(said.any(1), n[rows, said.argmax(1)], np.inf) for said in (rollback, promote)]
    return np.stack(found, -1)


def run(job: Job) -> Part:
    """Simulate and judge a chunk."""
    batches = job.scenario.batches([job.chunk, sum(job.scenario.name.encode())], job.size)
    start = time.perf_counter()
    verdicts = [decide_all(batch) for batch in batches]
    seconds = time.perf_counter() - start
    # Of several candidates, the first of whom it is said counts.
    ours = np.min([firsts_of(found.rollback, found.promote, found.outcomes) for found in verdicts], axis=0)
    firsts = {OURS: ours}
    if job.rivals and batches[0].strata:
        for name, rule in RIVALS.items():
            with np.errstate(all="ignore"):
                words = [(rule(pool(batch)), batch.strata) for batch in batches]
            seen = [np.sum([s.candidate.n for s in strata], axis=0) for _, strata in words]
            each = [firsts_of(w.rollback, w.promote, n) for (w, _), n in zip(words, seen, strict=True)]
            firsts[name] = np.min(each, axis=0)
    compared = [compare(batch, found, job.command) for batch, found in zip(batches, verdicts, strict=True)]
    words_seen, differ = (sum(column) for column in zip(*compared, strict=True))
    looks = sum(found.rollback.size for found in verdicts)
    return Part(firsts, looks, job.command, words_seen, differ, seconds)


def compare(batch: Batch, found: Verdicts, n: int) -> tuple[int, int]:
    """Ask the real command about the first experiments; return words and how many of them differ."""
    looks = [look for look in range(batch.shape[1]) if look < DENSE_LOOKS or look % STEP == 0]
    places = [(e, look) for e in range(n) for look in looks]
    if not places:
        return 0, 0
    lines = b"\n".join(msgspec.json.encode(batch.record(*place)) for place in places)
    command = [sys.executable, "-m", "cloud.cli", "experiment", "decide"]
    done = subprocess.run(command, input=lines, capture_output=True, check=True)
    said = done.stdout.decode().split()
    expected = ["rollback" if found.rollback[p] else "promote" if found.promote[p] else "continue" for p in places]
    return len(places), sum(a != b for a, b in zip(said, expected, strict=True))


def judge(scenario: Scenario, firsts: Firsts) -> list[dict[str, typing.Any]]:
    """Compare words with the bars of a scenario; shares may miss theirs by three standard errors."""
    bars = []
    for word, kind, limit in scenario.bars:
        fell = firsts[:, 0 if word == "rollback" else 1]
        share = float(np.isfinite(fell).mean())
        slack = 3.0 * math.sqrt(limit * (1.0 - limit) / len(fell)) if kind == "at most" else 0.0
        value = float(np.median(fell)) if kind == "median" else share
        ok = value >= limit if kind == "at least" else value <= limit + slack
        name = f"{scenario.name}: {word}, {kind}"
        bars.append({"name": name, "value": value, "limit": round(limit + slack, 5), "ok": bool(ok)})
    return bars


def row_of(scenario: Scenario, rule: str, firsts: Firsts) -> dict[str, typing.Any]:
    """Say how experiments ended under a rule, when the first word ends them; promotion waits for a clean look."""
    rolled = firsts[:, 0] <= firsts[:, 1]
    rolled &= np.isfinite(firsts[:, 0])
    promoted = firsts[:, 1] < firsts[:, 0]
    median = float(np.median(firsts.min(1)))
    return {
        "scenario": scenario.name,
        "rule": rule,
        "experiments": len(firsts),
        "rolled_back": float(rolled.mean()),
        "promoted": float(promoted.mean()),
        "undecided": float((~rolled & ~promoted).mean()),
        "median_outcomes": median if math.isfinite(median) else None,
    }


def show(row: dict[str, typing.Any]) -> str:
    """Write a row of the table."""
    shares = "".join(f"{row[name]:9.2%}" for name in ("rolled_back", "promoted", "undecided"))
    median = "-" if row["median_outcomes"] is None else f"{row['median_outcomes']:g}"
    return f"  {row['rule']:30s}{shares}{median:>9s}"


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="500 experiments a scenario, 5 through the command")
    parser.add_argument("--more", action="store_true", help="unusual circumstances instead of what is promised")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--experiments", type=int, default=0, help="experiments a scenario")
    parser.add_argument("--command", type=int, default=-1, help="of these, so many through the command")
    parser.add_argument("--rivals", type=int, default=-1, help="of these, so many by rules that others use")
    parser.add_argument("--only", default="", help="only scenarios whose name contains this")
    args = parser.parse_args()
    args.experiments = args.experiments or (500 if args.quick else 10_000)
    few, command, rivals = (5, 5, 100) if args.quick else (30, 300, 1_000)
    args.command = args.command if args.command >= 0 else few if args.more else command
    args.rivals = args.rivals if args.rivals >= 0 else 0 if args.more else rivals
    return args


def jobs_of(scenario: Scenario, args: argparse.Namespace) -> list[Job]:
    """Cut the experiments of a scenario into chunks; the first ones are seen by rivals and by the command too."""
    jobs = []
    experiments = max(1, round(args.experiments * scenario.part))
    for chunk, first in enumerate(range(0, experiments, CHUNK)):
        size = min(CHUNK, experiments - first)
        jobs.append(Job(scenario, chunk, size, first < args.rivals, max(0, min(size, args.command - first))))
    return jobs


def measure(
    scenario: Scenario, parts: list[Part], started: float
) -> tuple[list[dict[str, typing.Any]], list[dict[str, typing.Any]]]:
    """Put the chunks of a scenario together: rows and bars."""
    rules = {rule for part in parts for rule in part.firsts}
    firsts = {r: np.concatenate([p.firsts[r] for p in parts if r in p.firsts]) for r in (OURS, *RIVALS) if r in rules}
    rows = [row_of(scenario, rule, found) for rule, found in firsts.items()]
    rows[0]["compared_experiments"] = sum(part.compared for part in parts)
    rows[0]["compared_words"] = sum(part.words for part in parts)
    rows[0]["us_per_decision"] = 1e6 * sum(part.seconds for part in parts) / sum(part.looks for part in parts)
    rows[0]["seconds"] = time.perf_counter() - started
    bars = judge(scenario, firsts[OURS])
    if rows[0]["compared_words"]:
        differ = sum(part.differ for part in parts)
        bars.append({"name": f"{scenario.name}: words that differ", "value": differ, "limit": 0, "ok": not differ})
    return rows, bars


def main() -> int:
    """Run all scenarios and print what came out."""
    args = options()
    rows: list[dict[str, typing.Any]] = []
    bars: list[dict[str, typing.Any]] = []
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as workers:
        chosen = [scenario for scenario in (more() if args.more else promised()) if args.only in scenario.name]
        for done, scenario in enumerate(chosen):
            if args.json:
                print(f"{done} of {len(chosen)}: {scenario.name}", file=sys.stderr, flush=True)
            start = time.perf_counter()
            found = measure(scenario, list(workers.imap(run, jobs_of(scenario, args))), start)
            rows += found[0]
            bars += found[1]
            if not args.json:
                print(f"{scenario.name}  (rolled back, promoted, undecided, outcomes in the median)")
                print("\n".join(show(row) for row in found[0]))
                print("\n".join(f"    {bench_report.line_of(bar)}" for bar in found[1]), flush=True)
    return bench_report.end(rows, bars, packages=("numpy", "scipy", "msgspec"), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
