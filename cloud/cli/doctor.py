"""``covey doctor``: each finding says what is wrong and what to do."""

from __future__ import annotations

import pathlib
import sqlite3
import time
import typing

import click

import shared
from cloud.cli.base import Here, json_option, pass_here, show, worker_is_behind
from cloud.hooks import ways
from cloud.publish.changes import key_role
from cloud.publish.keys import ROLES
from cloud.publish.repository import SignedRepository
from cloud.publish.roles import SIGNED_BY
from cloud.publish.seal import load_bundle, verify_bundle
from cloud.training import estimator
from shared.errors import CoveyError

_OFFLINE = ("root", "targets")  # needed when the repository is made, and twice a year


class Finding(typing.NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


class WrongError(CoveyError):
    """Something is wrong."""


def examine(here: Here) -> list[Finding]:
    """Look at everything; never raises."""
    looks: list[tuple[str, typing.Callable[[], str]]] = [
        ("package", _package),
        ("covey.toml", lambda: f"{len(here.project.settings.models)} models"),
    ]
    findings = [_look(name, look) for name, look in looks]
    if not findings[-1].ok:
        return findings
    looks = [
        ("features", lambda: _features(here)),
        ("estimators", lambda: _estimators(here)),
        ("keys", lambda: _keys(here)),
        ("database", lambda: _database(here)),
        ("repository", lambda: _repository(here)),
        ("bundles", lambda: _bundles(here)),
        ("worker", lambda: _worker(here)),
        *([("hooks", lambda: _hooks(here))] if here.project.settings.hook else []),
    ]
    return findings + [_look(name, look) for name, look in looks]


def _look(name: str, look: typing.Callable[[], str]) -> Finding:
    try:
        return Finding(name, ok=True, detail=look())
    except (CoveyError, OSError, sqlite3.DatabaseError) as err:
        return Finding(name, ok=False, detail=str(err))


def _package() -> str:
    """Other projects publish packages called `shared` and `cloud` too; make sure these are ours."""
    home = pathlib.Path(__file__).resolve().parents[2]
    found = pathlib.Path(shared.__file__).resolve()
    if found.parents[1] != home:
        raise WrongError(f"the package 'shared' comes from {found}", fix="Install Covey in an environment of its own.")
    return f"covey {shared.__version__}"


def _features(here: Here) -> str:
    names = [here.project.feature_set(model.features).name for model in here.project.settings.models.values()]
    return ", ".join(names) or "none"


def _estimators(here: Here) -> str:
    built = [type(estimator.build(model, name)).__name__ for name, model in here.project.settings.models.items()]
    return ", ".join(built) or "none"


def _keys(here: Here) -> str:
    """Every key that is here can be used; of the online roles there are enough to sign."""
    repository = SignedRepository(here.project.repository, here.project.keys)
    newest = repository.newest()
    said, away = "one for each role", []
    for role in ROLES:
        names, files = key_role(newest, role), repository.keyring.files(role)
        if len(names.keyids) > 1:
            said = "several for some roles"
        if not {file.keyid for file in files} & set(names.keyids) and role in _OFFLINE:
            away.append(role)
        elif role not in _OFFLINE:
            repository.keyring.signers(role, names.keyids, names.threshold)
    return f"private, {said}{'; kept elsewhere: ' if away else ''}{', '.join(away)}"


def _database(here: Here) -> str:
    said = here.store.db.rows("pragma quick_check")
    if said != [{"quick_check": "ok"}]:
        raise WrongError(f"damaged: {said[:3]}", fix="Restore it from a backup.")
    return f"{here.project.database.stat().st_size >> 10:,} KiB"


def _repository(here: Here) -> str:
    repository = SignedRepository(here.project.repository, here.project.keys)
    versions = repository.versions()
    for role, expires in repository.overdue().items():
        raise WrongError(
            f"the metadata of {role} is refused by devices from {expires:%Y-%m-%d} on, and was not signed anew",
            fix=f"Bring the key keys/{SIGNED_BY[role]}.pem and let the worker run: covey serve. "
            f"Where it stays away: covey key renew {SIGNED_BY[role]}",
        )
    return ", ".join(f"{role} {version}" for role, version in sorted(versions.items()))


def _bundles(here: Here) -> str:
    repository = SignedRepository(here.project.repository, here.project.keys)
    ready = [row for row in here.store.models.all() if row["status"] == "ready"]
    for row in ready:
        verify_bundle(load_bundle(repository, row["model"], row["version"]))
    return f"{len(ready)} signed bundles are whole"


def _worker(here: Here) -> str:
    ticked = float(here.store.get_meta("ticked_s"))
    if not ticked:
        return "has not run yet; start it with covey serve"
    ago = time.time() - ticked
    if ago > max(60.0, 10 * here.project.settings.serve.tick_interval_s):
        raise WrongError(f"the last tick was {ago:,.0f} s ago", fix="Start it: covey serve")
    if worker_is_behind(here):
        raise WrongError("covey.toml was changed after it was read", fix="Start covey serve, or covey worker, again.")
    return f"ticked {ago:.0f} s ago"


def _hooks(here: Here) -> str:
    """Every program is there, every secret can be read, and nothing waits because of a failure."""
    for one in here.project.settings.hook:
        ways.check(here.project, one)
        known = here.store.hooks.meet(one.name)
        if known["tries"]:
            raise WrongError(
                f"{one.name} could not be told, tried {known['tries']} times: {known['error']}",
                fix=f"Mend it, and try it: covey hook test {one.name}",
            )
    return ", ".join(one.name for one in here.project.settings.hook)


@click.command()
@json_option
@pass_here
def doctor(here: Here, as_json: bool) -> int:
    """Say what is wrong with the project."""
    findings = examine(here)
    lines = [f"{'ok  ' if finding.ok else 'BAD '} {finding.name}: {finding.detail}" for finding in findings]
    show([finding._asdict() for finding in findings], lines, as_json=as_json)
    return 0 if all(finding.ok for finding in findings) else 1
