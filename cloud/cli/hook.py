"""``covey hook``: who is told of what happens, and who is asked."""

from __future__ import annotations

import time
import typing

import click

from cloud.cli.base import Group, Here, Row, json_option, pass_here, show, table
from cloud.config import HookSettings
from cloud.hooks import telling, ways
from shared.clock import format_time
from shared.errors import NotFoundError, UnreachableError


@click.group(cls=Group)
def hook() -> None:
    """See and try the hooks: programs and addresses that are told, or asked."""


@hook.command("list")
@json_option
@pass_here
def list_(here: Here, as_json: bool) -> None:
    """List hooks, how far each was told, and what each was asked and has not agreed to."""
    rows = [_row(here, one) for one in here.project.settings.hook]
    columns = {"name": "name", "does": "does", "when": "when", "told": "told", "waits": "not yet", "trouble": "trouble"}
    lines = table(rows, columns) if rows else ["no hook: add [[hook]] to covey.toml"]
    for row in rows:
        lines += [
            f"  {row['name']} was asked {one['about']}: {one['words'] or 'no answer yet'}" for one in row["asked"]
        ]
    show(rows, lines, as_json=as_json)


def _row(here: Here, settings: HookSettings) -> dict[str, typing.Any]:
    known = here.store.hooks.meet(settings.name)
    questions = here.store.hooks.open_questions(name=settings.name)
    again_s = known["next_s"] - time.time()
    again = f" (again in {again_s:.0f} s)" if again_s > 0 else ""
    lost = f"{known['given_up']} given up; " if known["given_up"] else ""
    return {
        "name": settings.name,
        "does": settings.url or " ".join(settings.command),
        "when": ", ".join([*settings.on, *(f"before {one}" for one in settings.before)]),
        "told": format_time(known["told_s"]) if known["told_s"] else "never" if settings.on else "",
        "waits": here.store.hooks.n_waiting(settings.name, settings.on) if settings.on else None,
        "trouble": f"{lost}{known['error']}{again}" if known["error"] else lost.removesuffix("; "),
        "asked": [{"about": _about(here, one), "words": one["words"], "times": one["tries"]} for one in questions],
    }


def _about(here: Here, question: dict[str, object]) -> str:
    said = telling.question_record(here.project, here.store, question)
    versions = ", ".join(said["candidates"])
    place = f"the stage {' '.join(_place(said['stage']))}" if said["stage"] else "its promotion"
    return f"before {place} of rollout {said['rollout']} ({said['model']} {versions})"


def _place(stage: Row) -> list[str]:
    return [stage["kind"], *([] if stage["region"] == "*" else [stage["region"]])]


@hook.command("test")
@click.argument("name")
@json_option
@pass_here
def test(here: Here, name: str, as_json: bool) -> None:
    """Give hook NAME a record that says it is a test, and show what it says. Nothing is noted."""
    known = {one.name: one for one in here.project.settings.hook}
    if name not in known:
        raise NotFoundError(
            f"no hook {name!r}", field="NAME", fix=f"Known are: {', '.join(known) or 'none; add [[hook]]'}."
        )
    event = {"id": 0, "at_s": time.time(), "action": "test", "subject": name, "actor": "", "reason": "", "detail": {}}
    answer = ways.send(here.project, known[name], telling.event_record(here.project, event))
    if not answer.agrees:
        did = "agree" if known[name].before else "take it"
        raise UnreachableError(f"{name} did not {did}: {answer.words}", fix="It would be tried again and again.")
    does = "agrees" if known[name].before else "took it"
    show(answer._asdict(), [f"{name} {does}{': ' if answer.words else ''}{answer.words}"], as_json=as_json)
