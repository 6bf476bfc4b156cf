"""What every change of keys shares: its options, the new key, the question, the request for what is lacking."""

from __future__ import annotations

import functools
import pathlib
import typing

import click
from securesystemslib.signer import CryptoSigner, Key

from cloud.cli.base import Here, Row, confirm, dry_run_option, json_option, pass_here, show
from cloud.publish import rotation, signing_request
from cloud.publish.changes import Change
from cloud.publish.keys import SHORT, read_public, write_key
from cloud.publish.repository import SignedRepository
from cloud.store.audit import this_user
from cloud.store.blobs import write_file
from shared.errors import ConflictError, UsageError

File = click.Path(dir_okay=False, path_type=pathlib.Path)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


class How(typing.NamedTuple):
    """The options that every change has."""

    reason: str
    request: pathlib.Path
    yes: bool
    dry_run: bool
    as_json: bool


def changing(command: typing.Callable[..., None]) -> typing.Callable[..., None]:
    """Give a command the options of a change, as one argument `how`."""

    def with_how(
        here: Here, /, *, reason: str, request: pathlib.Path, yes: bool, dry_run: bool, as_json: bool, **more: object
    ) -> None:
        if not reason.strip():
            raise UsageError("is empty", field="--reason", fix="Say why: it is kept in the audit log.")
        command(here, how=How(reason, request, yes, dry_run, as_json), **more)

    decorated: typing.Callable[..., None] = functools.update_wrapper(pass_here(with_how), command)
    for option in (
        json_option,
        dry_run_option,
        yes_option,
        click.option(
            "--request", type=File, default="key-request.json", show_default=True, metavar="FILE",
            help="Where to write what has to be signed elsewhere.",
        ),
        click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the audit log."),
    ):  # fmt: skip
        decorated = option(decorated)
    return decorated


def carry_out(here: Here, verb: str, given: Change | str, how: How, signer: CryptoSigner | None = None) -> None:
    """Say what would be done, ask, and do it; `signer` is a key that is to be kept first."""
    repository = repository_of(here)
    role = given if isinstance(given, str) else given.role
    plan = rotation.preview(repository, given, [signer] if signer else [])
    if signer and how.dry_run:
        plan = plan._replace(keys=[line.replace(signer.public_key.keyid[:SHORT], "a new key") for line in plan.keys])
    said = plan._asdict() | {"action": f"{verb} {role}", "done": False, "request": None}
    if how.dry_run:
        show(said, ["would change:", *lines(plan)], as_json=how.as_json)
        return
    if plan.lacking and how.request.exists():
        raise ConflictError(f"{how.request} is there already", fix="Apply or delete it, or choose another: --request")
    confirm(f"{verb} {role} ({'; '.join(plan.keys) or 'the keys stay'})?", yes=how.yes)
    if signer:
        write_key(repository.keyring.folder, role, signer)
        log(here, "key create", role, how.reason, {"keyid": signer.public_key.keyid})

    def note() -> None:
        log(here, f"key {verb}", role, how.reason, {"keys": plan.keys, "roles": plan.roles})

    if isinstance(given, str):
        done = rotation.renew(repository, given, reason=how.reason, action=f"{verb} {role}", note=note)
    else:
        done = rotation.change_keys(repository, given, reason=how.reason, action=f"{verb} {role}", note=note)
    said_lines = lines(done.plan)
    if done.request:
        write_file(how.request, done.request)
        said_lines.append(f"  nothing has changed yet; have it signed: covey key sign {how.request} --key FILE")
    else:
        said_lines += [f"  {path} counts no more: delete it, and its copies" for path in retired(repository, given)]
    show(
        said | {"done": not done.request, "request": str(how.request) if done.request else None},
        said_lines,
        as_json=how.as_json,
    )


def retired(repository: SignedRepository, given: Change | str) -> list[pathlib.Path]:
    """Return the file of the key that a change drops, if it is here."""
    if isinstance(given, str) or not given.drop:
        return []
    return [file.path for file in repository.keyring.files(given.role) if file.keyid == given.drop]


def lines(plan: rotation.Plan) -> list[str]:
    """Say for people what a plan does."""
    said = [f"  {line}" for line in plan.keys or ["the keys stay"]]
    said.append(f"  concerns: {', '.join(plan.roles)}")
    said += [
        f"  {role} lacks {n} signature{'s' if n > 1 else ''} of keys elsewhere" for role, n in plan.lacking.items()
    ]
    return said


def new_key(repository: SignedRepository, role: str, file: pathlib.Path | None) -> tuple[Key, CryptoSigner | None]:
    """Return the key of a file; else the one that is here and has never counted; else one that is to be kept yet."""
    if file:
        return read_public(file), None
    fresh = [one.path for one in rotation.fresh_keys(repository, role)]
    if len(fresh) > 1:
        names = ", ".join(path.name for path in fresh)
        raise ConflictError(f"{len(fresh)} new keys of {role} are here: {names}", fix="Name one: --new-key FILE")
    if fresh:
        beside = fresh[0].with_suffix(".pub")
        return read_public(beside if beside.exists() else fresh[0]), None
    signer = CryptoSigner.generate_ed25519()
    return signer.public_key, signer


def repository_of(here: Here) -> SignedRepository:
    """Return the signed repository of the project."""
    return SignedRepository(here.project.repository, here.project.keys)


def read_request(path: pathlib.Path) -> signing_request.SigningRequest:
    """Read a request from a file."""
    with path.open("rb") as file:
        return signing_request.read(file.read(signing_request.LIMIT_BYTES + 1))


def log(here: Here, action: str, subject: str, reason: str, detail: Row) -> None:
    """Write into the audit log."""
    with here.store.db.transaction():
        here.store.audit.add(action, subject, actor=this_user(), reason=reason, **detail)
