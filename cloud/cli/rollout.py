"""``covey rollout``: start, watch and steer."""

from __future__ import annotations

import pathlib
import sys
import time
import typing

import click
import msgspec

from cloud.cli.base import (
    Amount,
    Group,
    Here,
    Number,
    dry_run_option,
    json_option,
    model_option,
    pass_here,
    reason_option,
    show,
    table,
)
from cloud.cli.draw import rollout_lines
from cloud.cli.plan import lint_, plan_, plan_option
from cloud.rollout import overview, plan
from cloud.rollout.plan_file import read_plan
from cloud.store.audit import this_user
from cloud.store.rollouts import ENDED
from shared.clock import day_of
from shared.errors import ConflictError, TimeoutExpiredError, UsageError

_BAD_STATUS = 3
_WAIT_S = 0.5
_COLUMNS = {
    "id": "id",
    "model": "model",
    "from": "from",
    "tried": "to",
    "state": "state",
    "stage": "stage",
    "outcome": "outcome",
}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@click.group(cls=Group)
def rollout() -> None:
    """Start, watch and steer rollouts."""


@rollout.command("start")
@click.argument("version", default="@latest")
@click.option("--also", multiple=True, metavar="VERSION", help="Try this one at the same time; several are allowed.")
@plan_option
@click.option("--expedite", is_flag=True, help="Guardrails and a person decide, not quality. Needs --reason; expires.")
@click.option("--supersede", is_flag=True, help="End the rollout of this model that is running.")
@model_option
@reason_option
@dry_run_option
@json_option
@pass_here
def start(
    here: Here,
    version: str,
    also: tuple[str, ...],
    path: pathlib.Path | None,
    expedite: bool,
    supersede: bool,
    model: str | None,
    reason: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Roll a VERSION out: shadow on the whole fleet, then region by region."""
    if expedite and not reason:
        raise UsageError("an expedited rollout needs a reason", field="--reason", fix="Say why it can not wait.")
    name, own = here.project.model(model)
    versions = [here.store.models.resolve(name, one)["version"] for one in (version, *also)]
    named = f"{name}@{', '.join(versions)}"
    settings, order = read_plan(here.project, path), here.project.settings.regions.order
    settings = msgspec.structs.replace(settings, expedited=expedite)
    if dry_run:
        first = not here.store.models.incumbents(name)
        made = plan.stages_of(order, is_first=first, settings=settings, n_candidates=len(versions), task=own.task)
        stages = [plan.stage_name(stage._asdict()) for stage in made]
        said = {"version": versions[0], "also": versions[1:], "stages": stages}
        show(said, [f"would roll {named} out:", *stages], as_json=as_json)
        return
    number = plan.start(
        here.store,
        settings,
        order,
        model=name,
        version=versions[0],
        also=versions[1:],
        task=own.task,
        why=reason or "asked for",
        actor=this_user(),
        event_day=day_of(float(here.store.get_meta("event_s"))),
        supersede=supersede,
    )
    lines = [f"rollout {number}: {named}. Watch it: covey rollout show {number} -w"]
    if time.time() - float(here.store.get_meta("ticked_s")) > 10 * here.project.settings.serve.tick_interval_s:
        lines.append("No worker is at work; it begins when one is: covey serve")
    show({"rollout": number, "model": name, "version": versions[0], "also": versions[1:]}, lines, as_json=as_json)


@rollout.command("list")
@json_option
@pass_here
def list_(here: Here, as_json: bool) -> None:
    """List rollouts, newest first."""
    rows = [overview.brief(here.store, row) for row in here.store.rollouts.all()]
    lines = table([row | {"tried": ", ".join(row["tried"])} for row in rows], _COLUMNS)
    show(rows, lines if rows else ["no rollout yet: covey rollout start"], as_json=as_json)


@rollout.command("show")
@click.argument("number", type=Number(), required=False)
@click.option("-w", "--watch", is_flag=True, help="Go on until it ends.")
@json_option
@pass_here
def show_(here: Here, number: int | None, watch: bool, as_json: bool) -> None:
    """Show a rollout (the newest by default): stages, verdicts, and why."""
    chosen = number or int(here.store.rollouts.newest()["id"])
    while True:
        view = overview.rollout(here.project, here.store, chosen)
        lines = rollout_lines(view)
        if watch and sys.stdout.isatty() and not as_json:
            click.clear()
        show(view, lines, as_json=as_json)
        if not watch or view["state"] in ENDED:
            return
        time.sleep(_WAIT_S)


@rollout.command("status")
@click.argument("number", type=Number(), required=False)
@click.option("--timeout", "timeout", default="0s", metavar="TIME", help="Wait so long for its end: 30s, 10m, 2h.")
@json_option
@pass_here
def status(here: Here, number: int | None, timeout: str, as_json: bool) -> int:
    """Say in one line how a rollout is; exit 0 promoted, 3 rolled back, 124 still running."""
    chosen = number or int(here.store.rollouts.newest()["id"])
    deadline = time.monotonic() + _seconds(timeout)
    while True:
        row = here.store.rollouts.get(chosen)
        if row["state"] in ENDED:
            break
        if time.monotonic() >= deadline:
            raise TimeoutExpiredError(f"rollout {chosen} is still running", fix=f"See: covey rollout show {chosen}")
        time.sleep(_WAIT_S)
    said = f"{row['state'].replace('_', ' ')}: {row['outcome']}"
    show(overview.brief(here.store, row), [said], as_json=as_json)
    return 0 if row["state"] == "promoted" else _BAD_STATUS


def _seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * _UNITS[unit]
    except (ValueError, KeyError) as err:
        raise UsageError(f"{text[:40]!r} is not a time", field="--timeout", fix="Write 30s, 10m, 2h or 1d.") from err
    if not 0 <= seconds < 1e9:  # noqa: PLR2004 - thirty years
        raise UsageError(f"{text[:40]!r} is not a time to wait", field="--timeout", fix="Write 30s, 10m, 2h or 1d.")
    return seconds


def _order_command(action: str, text: str) -> click.Command:
    @click.argument("number", type=Number(), required=False)
    @click.option(
        "--wait", "wait_s", type=Amount(), default=10.0, show_default=True, help="Seconds to wait for the worker."
    )
    @reason_option
    @dry_run_option
    @json_option
    @pass_here
    def command(here: Here, number: int | None, wait_s: float, reason: str, dry_run: bool, as_json: bool) -> None:
        chosen = number or int(here.store.rollouts.newest()["id"])
        row = here.store.rollouts.get(chosen)
        if dry_run:
            show(
                {"rollout": chosen, "action": action},
                [f"would {action} rollout {chosen} ({row['state']})"],
                as_json=as_json,
            )
            return
        order = here.store.rollouts.order(chosen, action, actor=this_user(), reason=reason)
        result = _wait(here, order, wait_s)
        if result.startswith("not done"):
            raise ConflictError(f"rollout {chosen}: {action}: {result}", fix=f"See: covey rollout show {chosen}")
        said = f"rollout {chosen}: {action}: {result or 'asked for; the worker will see to it'}"
        show({"rollout": chosen, "action": action, "result": result}, [said], as_json=as_json)

    command.__doc__ = text
    return click.command(action)(command)


def _wait(here: Here, order: int, wait_s: float) -> str:
    deadline = time.monotonic() + wait_s
    while True:
        row: dict[str, typing.Any] = here.store.rollouts.get_order(order)
        if row["done_s"] or time.monotonic() >= deadline:
            return str(row["result"])
        time.sleep(0.1)


for _action, _text in (
    ("approve", "Let the next stage open that waits for somebody's word."),
    ("pause", "Open no further stage; a bad verdict still rolls back."),
    ("resume", "Go on after a pause."),
    ("abort", "End a running rollout; every device goes back to the incumbent."),
    ("undo", "Go back to the version before, everywhere, with one order; nothing is downloaded."),
):
    rollout.add_command(_order_command(_action, _text))
rollout.add_command(plan_)
rollout.add_command(lint_)
