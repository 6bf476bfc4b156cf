"""A folder after a cut of the power: which states a file system may leave behind, worked out from recorded calls.

A call is recorded with its data (strace). Calls become operations on files and on folders. At a cut, an operation is
durable if its own file or folder was synced after it; of every other one anything may be left:

* what was written to a file: all of it, nothing, its first half, or as many zeros as it was long;
* a name that was made, moved or taken away: done or not done, each for itself, whatever became of the file's content.

That is harsher than ext4, which keeps the order of names, makes them durable with any sync, and writes a new file's
content before the rename that puts it over another. A sync of a file does not make its name durable here.

Not covered: a sector that is torn in the middle of what was synced, a disk that says it has synced and has not, files
damaged that nobody was writing, permissions and times. What SQLite writes to its ``-shm`` goes through memory and is
not seen; these files hold nothing that must last, and are gone at each cut, as they would be on a machine that starts.
"""

from __future__ import annotations

import collections
import itertools
import os
import pathlib
import random
import re
import typing

CALLS = (
    "openat,write,pwrite64,writev,lseek,rename,renameat,renameat2,unlink,unlinkat,symlink,symlinkat,link,linkat,mkdir,"
    "mkdirat,rmdir,fsync,fdatasync,ftruncate,truncate,fallocate"
)
_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)", re.MULTILINE)
_ARGUMENT = re.compile(r'(-?\d+|AT_FDCWD)<((?:\\x\w\w)*)>|"((?:\\x\w\w)*)"|([A-Z_|]{2,})|(-?\d+)')
_ANY_ORDER = 2
_GONE = "-shm"

Mode = typing.Literal["whole", "half", "zeros"]


class Write(typing.NamedTuple):
    """Bytes go into a file."""

    inode: int
    at: int
    data: bytes


class Cut(typing.NamedTuple):
    """A file gets another length."""

    inode: int
    length: int


class Name(typing.NamedTuple):
    """A folder gets a name for something; `inode` 0 takes the name away, `was` is where it was moved from."""

    folder: int
    name: str
    inode: int
    was: tuple[int, str] | None = None


class Sync(typing.NamedTuple):
    """What was done to a file or to the names of a folder is durable."""

    inode: int
    path: str


Operation = Write | Cut | Name | Sync
Kept = frozenset[tuple[int, Mode]]
Image = dict[str, bytes | pathlib.PurePath | None]


class Disk:
    """A folder and everything that was done to it.

    Parameters
    ----------
    folder : Path
        As it is before the first call; all of it is durable.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder, self._ids = folder, itertools.count(1)
        self._names: dict[int, dict[str, int]] = {}
        self._content: dict[int, bytes] = {}
        self._targets: dict[int, pathlib.PurePath] = {}
        self._known: dict[int, int] = {}
        self.home = self._scan(folder)
        self._first = {inode: dict(names) for inode, names in self._names.items()}
        self.operations: list[Operation] = []

    def _scan(self, path: pathlib.Path) -> int:
        """Take in what is there; two names of one file are one file."""
        number = path.lstat().st_ino
        if number in self._known:
            return self._known[number]
        inode = self._known[number] = next(self._ids)
        if path.is_symlink():
            self._targets[inode] = path.readlink()
        elif path.is_dir():
            self._names[inode] = {}
            self._names[inode] = {one.name: self._scan(one) for one in path.iterdir() if self._inside(one)}
        elif path.is_file():
            self._content[inode] = path.read_bytes()
        return inode

    # ---- calls become operations

    def record(self, log: str) -> None:
        """Take in what strace has said (``-y -xx``) of one process; calls that failed have done nothing."""
        handles: dict[int, tuple[int, int]] = {}
        for call, said, result in _LINE.findall(log):
            if int(result) >= 0:
                self._take(call, _arguments(said), int(result), handles)

    def _take(self, call: str, given: list[typing.Any], result: int, handles: dict[int, tuple[int, int]]) -> None:
        match call:
            case "openat":
                self._open(given, result, handles)
            case "write" | "pwrite64" | "writev" | "lseek" | "ftruncate" | "fsync" | "fdatasync" | "fallocate":
                if given[0][0] in handles and self._inside(given[0][1]):
                    self._to_file(call, given, result, handles)
            case "mkdir" | "mkdirat" | "symlink" | "symlinkat" | "link" | "linkat":
                self._make(call.removesuffix("at"), given)
            case "rename" | "renameat" | "renameat2" | "unlink" | "unlinkat" | "rmdir":
                self._move(_paths(given))

    def _open(self, given: list[typing.Any], result: int, handles: dict[int, tuple[int, int]]) -> None:
        (path,), flags = _paths(given), next(one for one in given if isinstance(one, str))
        handles.pop(result, None)
        if not self._inside(path):
            return
        inode = self._find(path)
        if not inode:
            inode = next(self._ids)
            self._content[inode] = b""
            self._name(path, inode)
        elif "O_TRUNC" in flags:
            self.operations.append(Cut(inode, 0))
        handles[result] = (inode, 0)

    def _to_file(self, call: str, given: list[typing.Any], result: int, handles: dict[int, tuple[int, int]]) -> None:
        (handle, path), (inode, at) = given[0], handles[given[0][0]]
        if call in ("fsync", "fdatasync"):
            self.operations.append(Sync(inode, str(path.relative_to(self._folder))))
        elif call == "ftruncate":
            self.operations.append(Cut(inode, given[1]))
        elif call == "lseek":
            handles[handle] = (inode, result)
        elif call == "pwrite64":
            self.operations.append(Write(inode, given[3], given[1][:result]))
        elif call == "write":
            self.operations.append(Write(inode, at, given[1][:result]))
            handles[handle] = (inode, at + result)
        else:
            raise NotImplementedError(f"{call} of {path}")

    def _make(self, call: str, given: list[typing.Any]) -> None:
        if call == "symlink":
            target, path = pathlib.PurePath(os.fsdecode(given[0])), _paths(given[1:])[0]
        else:
            *from_there, path = _paths(given)
        if not self._inside(path):
            return
        inode = self._find(from_there[0]) if call == "link" else next(self._ids)
        if call == "symlink":
            self._targets[inode] = target
        elif call == "mkdir":
            self._names[inode], self._first[inode] = {}, {}
        self._name(path, inode)

    def _move(self, paths: list[pathlib.Path]) -> None:
        if self._inside(paths[0]):
            was = (self._find(paths[0].parent), paths[0].name)
            inode = self._names[was[0]].pop(was[1])
            if len(paths) == 1:
                self.operations.append(Name(*was, 0))
            else:
                self._name(paths[1], inode, was)

    def _name(self, path: pathlib.Path, inode: int, was: tuple[int, str] | None = None) -> None:
        folder = self._find(path.parent)
        self._names[folder][path.name] = inode
        self.operations.append(Name(folder, path.name, inode, was))

    def _inside(self, path: pathlib.Path) -> bool:
        return path.is_relative_to(self._folder) and not path.name.endswith(_GONE)

    def _find(self, path: pathlib.Path) -> int:
        """What a path leads to now; 0 if nothing. A symbolic link is followed, as opening it would."""
        inode = self.home
        for part in path.relative_to(self._folder).parts:
            inode = self._names[inode].get(part, 0) if inode in self._names else 0
        if inode in self._targets:
            return self._find(path.parent / self._targets[inode])
        return inode

    # ---- what may be left

    def states(self, seed: int) -> dict[Kept, int]:
        """Return every state that a cut may leave, with the number of the call before it, in the order of the calls."""
        found: dict[Kept, int] = {}
        rng = random.Random(seed)
        for n in range(len(self.operations) + 1):
            durable, open_ = self._durable(n)
            for some in _leftovers(open_, [i for i in open_ if isinstance(self.operations[i], Name)], rng):
                found.setdefault(frozenset({*((i, "whole") for i in durable), *some}), n)
        return found

    def durable(self) -> Kept:
        """Return what is left at the end if nothing is but what was synced."""
        return frozenset((i, "whole") for i in self._durable(len(self.operations))[0])

    def _durable(self, n: int) -> tuple[list[int], list[int]]:
        """Numbers of the operations before a cut: those that were synced, those that were not."""
        synced: set[int] = set()
        durable, open_ = list[int](), list[int]()
        for i in reversed(range(n)):
            one = self.operations[i]
            if isinstance(one, Sync):
                synced.add(one.inode)
            else:
                (durable if _of(one) in synced else open_).append(i)
        return durable[::-1], open_[::-1]

    def image(self, kept: Kept) -> Image:
        """Path to content (None for a folder) of what is left if these operations were done."""
        names = {inode: dict(inner) for inode, inner in self._first.items()}
        content = collections.defaultdict(bytes, self._content)
        for i, mode in sorted(kept):
            one = self.operations[i]
            if isinstance(one, Write):
                content[one.inode] = _written(content[one.inode], one, mode)
            elif isinstance(one, Cut):
                content[one.inode] = content[one.inode][: one.length].ljust(one.length, b"\0")
            elif isinstance(one, Name):
                _rename(names, one)
        return dict(self._walk(self.home, "", names, content))

    def _walk(
        self, inode: int, path: str, names: dict[int, dict[str, int]], content: typing.Mapping[int, bytes]
    ) -> typing.Iterator[tuple[str, bytes | pathlib.PurePath | None]]:
        if inode in self._targets:
            yield path, self._targets[inode]
        elif inode not in names:
            yield path, content[inode]
        else:
            yield path, None
            for name, inner in names[inode].items():
                yield from self._walk(inner, f"{path}/{name}", names, content)

    def without_syncs(self, of: str) -> int:
        """Forget syncs of paths that match, as a program would that made all the other calls; return how many."""
        n = len(self.operations)
        self.operations = [one for one in self.operations if not (isinstance(one, Sync) and re.fullmatch(of, one.path))]
        return n - len(self.operations)


def write_image(image: Image, folder: pathlib.Path) -> pathlib.Path:
    """Make a folder that looks like this."""
    for path, content in image.items():
        here = folder / path.lstrip("/")
        if content is None:
            here.mkdir()
        elif isinstance(content, bytes):
            here.write_bytes(content)
        else:
            here.symlink_to(content)
    return folder


def _leftovers(open_: list[int], names: list[int], rng: random.Random) -> typing.Iterator[set[tuple[int, Mode]]]:
    """What may be left of operations that nobody synced."""
    data = [i for i in open_ if i not in names]
    for i in range(len(open_) + 1):  # the order was kept, up to some operation
        yield _whole(open_[:i])
    done = _whole(names)
    yield done
    yield _whole(data)
    yield done | {(i, "half") for i in data}
    yield done | {(i, "zeros") for i in data}
    for i in open_:  # it was not: one came first, or last
        yield _whole([i])
        yield _whole(open_) - {(i, "whole")}
    for i in data:
        yield done | {(i, "whole")}
        yield (_whole(open_) - {(i, "whole")}) | {(i, "half")}
    for _ in range(_ANY_ORDER):
        yield _whole([i for i in open_ if rng.random() < 0.5])


def _whole(numbers: typing.Iterable[int]) -> set[tuple[int, Mode]]:
    return {(i, "whole") for i in numbers}


def _of(one: Operation) -> int:
    return one.folder if isinstance(one, Name) else one.inode


def _written(before: bytes, one: Write, mode: Mode) -> bytes:
    data = {"whole": one.data, "half": one.data[: len(one.data) // 2], "zeros": bytes(len(one.data))}[mode]
    return before[: one.at].ljust(one.at, b"\0") + data + before[one.at + len(data) :]


def _rename(names: dict[int, dict[str, int]], one: Name) -> None:
    if one.was and names[one.was[0]].get(one.was[1]) == one.inode:
        del names[one.was[0]][one.was[1]]
    if one.inode:
        names[one.folder][one.name] = one.inode
    else:
        names[one.folder].pop(one.name, None)


def _arguments(said: str) -> list[typing.Any]:
    """Arguments of a call: (descriptor, path), bytes, flags, numbers."""
    found: list[typing.Any] = []
    for handle, path, text, flags, number in _ARGUMENT.findall(said):
        if handle:
            found.append((int(handle) if handle != "AT_FDCWD" else -1, pathlib.Path(os.fsdecode(_bytes(path)))))
        elif flags:
            found.append(flags)
        else:
            found.append(int(number) if number else _bytes(text))
    return found


def _paths(given: list[typing.Any]) -> list[pathlib.Path]:
    """Paths among arguments; one after an open folder is below it."""
    found, folder = list[pathlib.Path](), pathlib.Path()
    for one in given:
        if isinstance(one, tuple):
            folder = one[1]
        elif isinstance(one, bytes):
            found.append(folder / os.fsdecode(one))
    return found


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
