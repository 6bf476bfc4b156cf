#!/usr/bin/env python3
"""Copy a project, while it runs, into one archive: the database as of one moment, parts, blobs, the signed repository.

Keys are left out unless you ask for them: keep those apart. Restore by unpacking into an empty folder.
"""

from __future__ import annotations

import argparse
import pathlib
import sqlite3
import sys
import tarfile
import tempfile
import time

from cloud.config import find_project, load_project
from cloud.store.restored import mark_copy
from shared.errors import ConflictError, CoveyError

FILES = ("covey.toml", "features", "var/parts", "var/blobs", "var/repo")


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--project", type=pathlib.Path, help="the project's folder (default: the nearest one upwards)")
    parser.add_argument("--out", type=pathlib.Path, help="the archive (default: NAME-TIME.tar.gz here)")
    parser.add_argument("--with-keys", action="store_true", help="also copy the signing keys")
    parser.add_argument("--dry-run", action="store_true", help="say what would be copied")
    arguments = parser.parse_args()
    project = load_project((arguments.project or find_project(pathlib.Path.cwd())).resolve())
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    out = arguments.out or pathlib.Path(f"{project.settings.project.name}-{stamp}.tar.gz")
    names = [*FILES, *(["keys"] if arguments.with_keys else [])]
    found = [name for name in names if (project.folder / name).exists()]
    size = sum(p.stat().st_size for name in found for p in files_of(project.folder / name))
    size += project.database.stat().st_size
    print(f"{out}: {', '.join(['var/covey.db', *found])}, {size:,} bytes before compression")
    if arguments.dry_run:
        return 0
    if out.exists():
        raise ConflictError(f"{out} exists", fix="Name another file with --out.")
    write(project.folder, project.database, out, found)
    print("done")
    return 0


def files_of(path: pathlib.Path) -> list[pathlib.Path]:
    """All files below a path."""
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


def write(folder: pathlib.Path, database: pathlib.Path, out: pathlib.Path, names: list[str]) -> None:
    """Write the archive under another name first, so that a broken one never looks whole."""
    unfinished = out.with_name(out.name + ".part")
    with tempfile.TemporaryDirectory() as temporary:
        # The database before the files: every file that its rows name is there already, and files never change.
        copy = pathlib.Path(temporary) / "covey.db"
        with sqlite3.connect(database) as source, sqlite3.connect(copy) as target:
            source.backup(target)
            mark_copy(target, time.time())
        source.close()
        target.close()
        with tarfile.open(unfinished, "w:gz") as archive:
            archive.add(copy, "var/covey.db")
            for name in names:
                archive.add(folder / name, name, filter=lambda entry: None if entry.name.endswith(".tmp") else entry)
    unfinished.rename(out)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CoveyError as err:
        print(f"backup: {err}", file=sys.stderr)
        sys.exit(err.exit_status)
