"""``[[hook]]``: what is told of things that happened, and what is asked before a rollout goes on."""

from __future__ import annotations

import typing

import msgspec

from cloud.config.table import Positive, Table

# Everything that the audit log can say happened. A word that is not one of them would never be told.
Happening = typing.Literal[
    "*",
    "alarm",
    "bundle build",
    "candidate dropped",
    "candidate not chosen",
    "data add",
    "device approve",
    "device label",
    "device new-key",
    "device pin",
    "device preauthorise",
    "device reject",
    "device release",
    "device retire",
    "device rotate",
    "device set aside",
    "device token",
    "device unpin",
    "gate overridden",
    "gate refused",
    "hook agreed",
    "hook given up",
    "key add",
    "key apply",
    "key create",
    "key renew",
    "key revoke",
    "key rotate",
    "key threshold",
    "model train",
    "promoted",
    "restored",
    "rolled back",
    "rollout abort",
    "rollout approve",
    "rollout given up",
    "rollout pause",
    "rollout resume",
    "rollout start",
    "rollout superseded",
    "rollout undo",
    "stage opened",
    "trigger fired",
]
Before = typing.Literal["stage", "promotion"]


class HookSettings(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[hook]]``: a program or an address of yours; it is told what happened, or asked before a rollout goes on.

    Parameters
    ----------
    on : tuple of str
        What it is told of, in the words of ``covey audit``; ``*`` is everything.
    before : tuple of str
        What waits until it agrees: ``stage``, the opening of each stage; ``promotion``. What goes back never waits.
    command : tuple of str
        A program and its arguments, started in the project's folder with the record on its standard input.
        Ending with 0 is yes; anything else is no, and the first line that it prints says why.
    url : str
        Where the record is posted to, in place of a program. A status of 2xx is yes.
    secret_file : str
        What posts are signed with, so that the other side knows who speaks; a path from the project's folder.
    timeout_s, retry_s : float
        Later is no answer; how long after a no, or after a failure, it is tried again. The time doubles with
        every failure, up to an hour.
    """

    name: typing.Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
    on: tuple[Happening, ...] = ()
    before: tuple[Before, ...] = ()
    command: tuple[str, ...] = ()
    url: str = ""
    secret_file: str = ""
    timeout_s: typing.Annotated[float, msgspec.Meta(gt=0, le=600)] = 30.0
    retry_s: Positive = 60.0
