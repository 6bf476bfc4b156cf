"""Drives the agent's own updater with the arguments of the public TUF conformance suite.

    tuf_client.py --metadata-dir D init ROOT
    tuf_client.py --metadata-dir D --metadata-url U refresh
    tuf_client.py --metadata-dir D --metadata-url U --target-name T --target-base-url B --target-dir X download

Exit status 0 if the command was carried out, 1 if it was refused. Metadata lie in D without a version in their names.
What the agent keeps in ``state.db`` (versions and time that never fall) lies beside D.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import sys
import urllib.parse

from edge_agent.link import Link
from edge_agent.update.state import State
from edge_agent.update.trust import Repository, Where
from shared.errors import CoveyError


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the suite's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metadata-dir", required=True, type=pathlib.Path)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", default="")
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=pathlib.Path)
    parser.add_argument("--timeout", default=30.0, type=float, help="seconds without a byte")
    parser.add_argument("command", choices=["init", "refresh", "download"])
    parser.add_argument("root", nargs="?", type=pathlib.Path)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run one command."""
    given = parse(argv)
    folder: pathlib.Path = given.metadata_dir
    floors = folder.with_name(f".{folder.name}.state.db")
    if given.command == "init":
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "root.json").unlink(missing_ok=True)  # it is a link by now if this is not the first time
        shutil.copyfile(given.root, folder / "root.json")
        floors.unlink(missing_ok=True)
        return 0
    link = Link(given.metadata_url, timeout_s=given.timeout)
    state = State(floors)
    where = Where(_with_slash(given.metadata_url), _with_slash(given.target_base_url))
    try:
        repository = Repository(folder, None, where, link.stream, state)
        repository.refresh()
        if given.command == "download":
            name = urllib.parse.quote(given.target_name, safe="")
            repository.target(given.target_name, cache=given.target_dir / name)
    except (CoveyError, OSError) as err:
        sys.stderr.write(f"{getattr(err, 'code', 'disk')}: {err}\n")
        return 1
    finally:
        state.close()
        link.close()
    return 0


def _with_slash(url: str) -> str:
    return url if url.endswith("/") else f"{url}/"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
