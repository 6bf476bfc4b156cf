"""``covey rollout plan`` and ``lint``: what a plan would do, before anything is done."""

from __future__ import annotations

import math
import pathlib
import time
import typing

import click
import msgspec

from cloud.cli.base import Amount, Here, json_option, model_option, pass_here, show, table
from cloud.rollout import lint, pace, plan
from cloud.rollout.plan_file import read_plan, traffic_of

_BAD_STATUS = 3
plan_option = click.option(
    "--plan",
    "path",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="TOML with keys of [rollout], laid over the project's.",
)
also_option = click.option(
    "--also", multiple=True, metavar="VERSION", help="Tried at the same time; chances of error are shared by all."
)


@click.command("plan")
@plan_option
@also_option
@click.option("--harm", type=Amount(), help="How much worse a candidate might be; twice the margin by default.")
@click.option("--outcomes-per-day", type=Amount(), help="Outcomes of a device and day; as seen lately by default.")
@click.option("--deviation", type=Amount(1e-9), help="Standard deviation between the arms; as seen so far by default.")
@model_option
@json_option
@pass_here
def plan_(
    here: Here,
    path: pathlib.Path | None,
    also: tuple[str, ...],
    harm: float | None,
    outcomes_per_day: float | None,
    deviation: float | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Say what a plan would do: how long, how many devices, and what harm it would see."""
    view = _forecast(here, path, model, harm, outcomes_per_day, deviation, n=1 + len(also))
    columns = {
        "name": "stage",
        "days": "days at least",
        "devices": "devices",
        "exposed": "exposed",
        "waits": "waits for",
    }
    lines = [*table(view["stages"], columns), "", *view["said"], *(f"odd: {one}" for one in view["odd"])]
    show(view, lines, as_json=as_json)


@click.command("lint")
@plan_option
@also_option
@model_option
@json_option
@pass_here
def lint_(here: Here, path: pathlib.Path | None, also: tuple[str, ...], model: str | None, as_json: bool) -> int:
    """Look for limits in a plan that can not be reached, or mean nothing; exit 3 if there are any."""
    view = _forecast(here, path, model, None, None, None, n=1 + len(also))
    show(view, view["odd"] or ["nothing odd"], as_json=as_json)
    return _BAD_STATUS if view["odd"] else 0


def _forecast(
    here: Here,
    path: pathlib.Path | None,
    model: str | None,
    harm: float | None,
    outcomes_per_day: float | None,
    deviation: float | None,
    *,
    n: int,
) -> dict[str, typing.Any]:
    name, settings = here.project.model(model)
    chosen = read_plan(here.project, path)
    order = here.project.settings.regions.order
    stages = plan.stages_of(order, is_first=False, settings=chosen, n_candidates=n, task=settings.task)
    chosen = msgspec.structs.replace(chosen, alpha=chosen.alpha / n)  # all candidates share the chances of error
    traffic, assumed = traffic_of(
        here.project, here.store, name, settings, outcomes_per_day=outcomes_per_day, deviation=deviation
    )
    found = lint.forecast(stages, [plan.stage_name(one._asdict()) for one in stages], chosen, traffic)
    worse = 2 * settings.margin if harm is None else harm
    timed, odd_times = pace.said_of(found, stages, chosen, traffic, time.time())
    odd = odd_times + lint.faults_of(found, chosen, traffic, harm=worse, margin=settings.margin)
    pairs = (
        lint.outcomes_until_rollback(worse, margin=settings.margin, deviation=traffic.deviation, alpha=chosen.alpha)
        if worse
        else math.inf
    )
    a_day = sum(traffic.devices.values()) * traffic.outcomes_per_day
    days = sum(one.days for one in found)
    whole = f"{days:,.1f} days at least" if math.isfinite(days) else "no end, since one of them gets no outcomes"
    said = [f"all stages: {whole}", *timed, *lint.numbers_said(found)]
    if pairs < math.inf and a_day:
        said.append(
            f"{settings.metric_name} worse by {worse:g}: rolled back after about {pairs:,.0f} pairs,"
            f" {max(pairs / a_day, float(chosen.shadow.min_days)):,.1f} days of the whole fleet in shadow"
        )
    return {
        "stages": [
            {
                "name": f.name,
                "days": _finite(round(f.days, 1)),
                "devices": f.devices,
                "exposed": f.exposed,
                "waits": f.sees,
                "meant": f.meant,
                "device_share": round(f.share, 6),
            }
            for f in found
        ],
        "pairs_until_rollback": _finite(pairs),
        "harm": worse,
        "said": [*said, *assumed],
        "odd": odd,
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
