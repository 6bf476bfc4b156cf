"""Several files become new together: what is to be written stands in a journal first, and a crash finishes it later."""

from __future__ import annotations

import pathlib
import typing

import msgspec

from cloud.store.blobs import write_file


class _Entry(msgspec.Struct):
    name: str
    text: str


def write_together(journal: pathlib.Path, folder: pathlib.Path, files: typing.Sequence[tuple[str, bytes]]) -> None:
    """Write files in their order.

    Parameters
    ----------
    journal : Path
        Where the intention is kept until all of them are there.
    files : sequence of (name, content)
        Names in `folder`; the contents are UTF-8.
    """
    write_file(journal, msgspec.json.encode([_Entry(name, data.decode()) for name, data in files]))
    finish(journal, folder)


def finish(journal: pathlib.Path, folder: pathlib.Path) -> None:
    """Write what a journal still intends, if there is one; doing it again changes nothing."""
    try:
        intended = msgspec.json.decode(journal.read_bytes(), type=list[_Entry])
    except FileNotFoundError:
        return
    for entry in intended:
        write_file(folder / entry.name, entry.text.encode())
    journal.unlink()
