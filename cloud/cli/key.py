"""``covey key``: signing keys, several for a role, replaced when they have to be."""

from __future__ import annotations

import pathlib

import click
from securesystemslib.signer import CryptoSigner

from cloud.cli.base import Group, Here, Number, Row, confirm, dry_run_option, json_option, pass_here, show, table
from cloud.cli.key_change import (
    File,
    How,
    carry_out,
    changing,
    lines,
    log,
    new_key,
    read_request,
    repository_of,
    yes_option,
)
from cloud.publish import rotation, signing_request
from cloud.publish.changes import Change, find_key, key_role, signs
from cloud.publish.keys import ROLES, SHORT, open_key, read_passphrase, write_key
from cloud.publish.repository import SignedRepository
from cloud.publish.roles import Newest
from cloud.store.blobs import write_file

role_argument = click.argument("role", type=click.Choice(ROLES))
passphrase_option = click.option("--passphrase-file", type=File, metavar="FILE", help="File of the key's passphrase.")
new_key_option = click.option(
    "--new-key",
    "new_key_file",
    type=File,
    metavar="FILE",
    help="The .pub file of the new key (default: the one that is here and new, else one is made).",
)


@click.group(cls=Group)
def key() -> None:
    """Signing keys: which count, and how they are replaced."""


@key.command("list")
@json_option
@pass_here
def list_(here: Here, as_json: bool) -> None:
    """List the keys of each role, and which private halves are here."""
    repository = repository_of(here)
    newest = repository.newest()
    rows = [_role(repository, newest, role) for role in ROLES]
    cells = [
        {
            "role": row["role"],
            "key": one["keyid"][:SHORT] or "?",
            "state": one["state"],
            "threshold": f"{row['threshold']} of {row['n_keys']}",
            "file": f"{one['file'] or 'elsewhere'}{', encrypted' if one['encrypted'] else ''}",
            "expires": min(row["expires"].values())[:10],
        }
        for row in rows
        for one in row["keys"]
    ]
    titles = ("role", "key", "state", "threshold", "file", "expires")
    show(rows, table(cells, {title: title for title in titles}), as_json=as_json)


def _role(repository: SignedRepository, newest: Newest, role: str) -> Row:
    files = {file.keyid or str(file.path): file for file in repository.keyring.files(role)}
    fresh = {file.keyid for file in rotation.fresh_keys(repository, role)}
    names = key_role(newest, role)
    found = []
    for keyid in dict.fromkeys([*names.keyids, *files]):
        file = files.get(keyid)
        state = "counts" if keyid in names.keyids else "new" if keyid in fresh else "counts no more"
        found.append(
            {
                "keyid": file.keyid if file else keyid,
                "state": state if not file or file.keyid else "locked",
                "file": f"{file.path.parent.name}/{file.path.name}" if file else "",
                "encrypted": bool(file and file.encrypted),
            }
        )
    expires = {name: newest[name].signed.expires.isoformat() for name in signs(role)}
    return {
        "role": role, "threshold": names.threshold, "n_keys": len(names.keyids), "keys": found, "expires": expires,
    }  # fmt: skip


@key.command("create")
@role_argument
@passphrase_option
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=pathlib.Path), metavar="FOLDER",
    help="Where to put it (default: the keys of the project).",
)  # fmt: skip
@json_option
@pass_here
def create(
    here: Here, role: str, passphrase_file: pathlib.Path | None, out: pathlib.Path | None, as_json: bool
) -> None:
    """Make another key for a ROLE; it counts once it was added."""
    passphrase = read_passphrase(passphrase_file) if passphrase_file else None
    signer = CryptoSigner.generate_ed25519()
    path = write_key(out or here.project.keys, role, signer, passphrase)
    if out is None:
        log(here, "key create", role, "", {"keyid": signer.public_key.keyid})
    said = {"role": role, "keyid": signer.public_key.keyid, "file": str(path), "encrypted": passphrase is not None}
    show(said, [f"{path}", f"{path.with_suffix('.pub')}"], as_json=as_json)


@key.command("rotate")
@role_argument
@click.option("--old", default="", metavar="KEYID", help="Which key, if there are several.")
@new_key_option
@changing
def rotate(here: Here, role: str, old: str, new_key_file: pathlib.Path | None, how: How) -> None:
    """Let a new key take the place of a ROLE's old one."""
    repository = repository_of(here)
    dropped = find_key(repository.newest(), role, old)
    public, signer = new_key(repository, role, new_key_file)
    carry_out(here, "rotate", Change(role, add=public, drop=dropped), how, signer)


@key.command("add")
@role_argument
@new_key_option
@changing
def add(here: Here, role: str, new_key_file: pathlib.Path | None, how: How) -> None:
    """Let one key more count for a ROLE."""
    public, signer = new_key(repository_of(here), role, new_key_file)
    carry_out(here, "add", Change(role, add=public), how, signer)


@key.command("revoke")
@role_argument
@click.argument("keyid")
@changing
def revoke(here: Here, role: str, keyid: str, how: How) -> None:
    """Let the key KEYID count no more for a ROLE."""
    carry_out(here, "revoke", Change(role, drop=find_key(repository_of(here).newest(), role, keyid)), how)


@key.command("threshold")
@role_argument
@click.argument("n", type=Number())
@changing
def threshold(here: Here, role: str, n: int, how: How) -> None:
    """Let N keys have to sign what a ROLE says."""
    carry_out(here, "threshold", Change(role, threshold=n), how)


@key.command("renew")
@click.argument("role", type=click.Choice(signing_request.OFFLINE))
@changing
def renew(here: Here, role: str, how: How) -> None:
    """Sign what a ROLE says anew, before it expires; its keys stay."""
    carry_out(here, "renew", role, how)


@key.command("sign")
@click.argument("request", type=File)
@click.option("--key", "key_file", type=File, required=True, metavar="FILE", help="The private key to sign with.")
@passphrase_option
@yes_option
@dry_run_option
@json_option
def sign(
    request: pathlib.Path, key_file: pathlib.Path, passphrase_file: pathlib.Path | None, yes: bool, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Add a signature to a REQUEST; needs no project."""
    asked = read_request(request)
    signer = open_key(key_file, "this file", [read_passphrase(passphrase_file)] if passphrase_file else [])
    roles = signing_request.roles_for(asked, signer)
    said = {"request": str(request), "keyid": signer.public_key.keyid, "roles": roles}
    described = signing_request.describe(asked)
    if dry_run:
        show(said, [f"would sign {', '.join(roles)}:", *described], as_json=as_json)
        return
    if not yes:
        show(said, described, as_json=False)
    confirm(f"Sign {', '.join(roles)} with {signer.public_key.keyid[:SHORT]}?", yes=yes)
    signing_request.add_signature(asked, signer)
    write_file(request, asked.to_bytes())
    show(said, signing_request.describe(asked), as_json=as_json)


@key.command("apply")
@click.argument("request", type=File)
@yes_option
@dry_run_option
@json_option
@pass_here
def apply(here: Here, request: pathlib.Path, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Publish what a REQUEST asked for, once enough keys have signed it."""
    repository, asked = repository_of(here), read_request(request)
    plan = rotation.preview(repository, asked)
    said = plan._asdict() | {"action": asked.action, "done": False}
    if dry_run:
        show(said, ["would publish:", *signing_request.describe(asked), *lines(plan)], as_json=as_json)
        return
    confirm(f"Publish this: {'; '.join(signing_request.describe(asked))}?", yes=yes)
    detail = {"keys": plan.keys, "roles": plan.roles}
    rotation.apply(repository, asked, note=lambda: log(here, "key apply", asked.action, asked.reason, detail))
    show(said | {"done": True}, lines(plan), as_json=as_json)
