"""Turn TOML text and environment variables into checked settings; every error names file, line, key and the fix."""

from __future__ import annotations

import re
import typing

import msgspec

from shared.errors import ConfigError, UsageError, nearest

T = typing.TypeVar("T")
_PATH_STEP = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+|\.\.\.)\]")
_LONGEST = 200
_HEADER = re.compile(r"^\s*\[{1,2}\s*([^\[\]]+?)\s*\]{1,2}\s*(#.*)?$")


def parse_toml(text: str, source: str) -> dict[str, typing.Any]:
    """Read TOML.

    Raises
    ------
    ConfigError
        The text is not TOML; the message has the line.
    """
    if not text:
        return {}  # as on most devices, which need not know TOML then
    import tomllib

    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as err:
        raise ConfigError(f"not valid TOML: {err}", field=source, fix="Mend the line that is named.") from err


def overlay_environment(
    settings: dict[str, typing.Any], environ: typing.Mapping[str, str], prefix: str = "COVEY_"
) -> dict[str, typing.Any]:
    """Lay ``COVEY_SERVE__PORT=8080`` over ``[serve] port``; two underscores go one table down.

    Only variables with two underscores count, so that ``COVEY_PROJECT`` and its like stay free for the command line.
    A value is read as TOML where it is TOML and as plain text otherwise.
    """
    merged = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()}
    for name in sorted(environ):
        path = name.removeprefix(prefix).lower().split("__")
        if not name.startswith(prefix) or len(path) < 2:  # noqa: PLR2004 - a table and a key
            continue
        table = merged
        for step in path[:-1]:
            below = table.get(step)
            table[step] = dict(below) if isinstance(below, dict) else {}
            table = table[step]
        table[path[-1]] = _toml_value(environ[name])
    return merged


def _toml_value(text: str) -> object:
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"] if "\n" not in text else text
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def convert(
    data: object,
    kind: type[T],
    *,
    source: str,
    text: str = "",
    error: type[UsageError] = ConfigError,
) -> T:
    """Check plain data against a msgspec type.

    Parameters
    ----------
    data : object
        What `parse_toml` returned, or a part of it.
    kind : type
        A msgspec Struct with ``forbid_unknown_fields``.
    source, text : str
        The file's name and its text, for the message.
    error : type
        The class to raise.

    Raises
    ------
    UsageError
        Of class `error`: an unknown key (with the nearest known one), a missing key or a wrong type.
    """
    try:
        return msgspec.convert(data, kind, strict=True)
    except msgspec.ValidationError as err:
        message, field = _split(err, data, kind)
        message, fix, key = _explain(message if len(message) <= _LONGEST else f"{message[:_LONGEST]}...", kind)
        where = ".".join(part for part in (field, key) if part)
        line = locate(text, where or field)
        at = f"{source} line {line}" if line else source
        raise error(message, field=f"{at}: {where}" if where else at, fix=fix) from err


def _split(err: msgspec.ValidationError, data: object, kind: type) -> tuple[str, str]:
    """Part a sentence of msgspec's from the path behind it, and name the keys that it writes as ``[...]``."""
    message, _, path = str(err).rpartition(" - at `")  # another path may stand in what a __post_init__ said
    if not message:
        return path, ""
    mark = "[...]" if path.startswith("key` in `") else ""
    *parts, last = (path.rpartition("$")[2].rstrip("`") + mark).split("[...]")
    steps: list[str | int] = []
    for part in parts:
        steps += _steps(part)
        key = next((key for key in _keys(data, steps) if _says(_only(data, steps, key), kind) == str(err)), "...")
        data = _only(data, steps, key) if key != "..." else data
        steps.append(key)
    steps += _steps(last)
    return message, "".join(f"[{step}]" if isinstance(step, int) else f".{step:.60}" for step in steps).lstrip(".")


def _steps(path: str) -> list[str | int]:
    return [int(index) if index else name for name, index in _PATH_STEP.findall(path)]


def _says(data: object, kind: type) -> str:
    try:
        msgspec.convert(data, kind, strict=True)
    except msgspec.ValidationError as err:
        return str(err)
    return ""


def _keys(data: typing.Any, steps: typing.Sequence[str | int]) -> list[str]:  # noqa: ANN401 - whatever TOML holds
    for step in steps:
        data = data[step]
    return list(data) if isinstance(data, dict) else []


def _only(data: typing.Any, steps: typing.Sequence[str | int], key: str) -> typing.Any:  # noqa: ANN401 - as above
    """Return the data with nothing but one key in the mapping at a path."""
    if not steps:
        return {key: data[key]}
    first, *rest = steps
    below = _only(data[first], rest, key)
    if isinstance(first, int):
        return [*data[:first], below, *data[first + 1 :]]
    return data | {first: below}


def _explain(message: str, kind: type) -> tuple[str, str, str]:
    """Return (message, fix, key) for a sentence of msgspec's."""
    unknown = re.search(r"unknown field `([^`]*)`", message)
    if unknown:
        near = nearest(unknown[1], sorted(_known_keys(kind)))
        fix = f"Did you mean {near!r}?" if near else "Take it out."
        return f"unknown key {unknown[1]!r}", fix, unknown[1]
    missing = re.search(r"missing required field `([^`]*)`", message)
    if missing:
        return f"the key {missing[1]!r} is missing", "Add it.", missing[1]
    fix = "Change the value."
    word = re.search(r"[Ii]nvalid enum value '([^']*)'", message)
    if word:
        near = nearest(word[1], sorted(_known_words(kind)))
        fix = f"Did you mean {near!r}?" if near else fix
    return message[:1].lower() + message[1:].rstrip("."), fix, ""


def _known_words(kind: object) -> set[str]:
    """All words that a value may be, in a struct and in those below it: good enough to suggest the nearest."""
    words: set[str] = set()
    for one in _below(kind):
        words |= {word for word in typing.get_args(one) if isinstance(word, str)}
    return words


def _known_keys(kind: object) -> set[str]:
    """All keys of a struct and of the structs below it: good enough to suggest the nearest."""
    structs = [one for one in _below(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    return {field.encode_name for one in structs for field in msgspec.structs.fields(one)}


def _below(kind: object) -> list[object]:
    """Return a type, and all that it is made of."""
    found: list[object] = []
    look = [kind]
    while look:
        one = look.pop()
        if one in found:
            continue
        found.append(one)
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            look += [field.type for field in msgspec.structs.fields(one)]
        look += typing.get_args(one)
    return found


def locate(text: str, path: str) -> int:
    r"""Line (from 1) on which a dotted path such as ``feature[2].cuts`` is set, or of the nearest table; 0 if unknown.

    >>> locate("a = 1\n[[feature]]\nname = 1\n[[feature]]\ncuts = 2\n", "feature[1].cuts")
    5
    """
    steps = [(name, index) for name, index in _PATH_STEP.findall("." + path)]
    names = [name for name, _ in steps if name]
    index = next((int(i) for _, i in steps if i.isdigit()), None)
    best, table = 0, ""
    count: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            table = header[1].replace('"', "").replace(" ", "")
            count[table] = count.get(table, -1) + 1
            if table == ".".join(names[: len(table.split("."))]) and (index is None or count[table] == index):
                best = number
            continue
        key = line.split("=", 1)[0].strip().strip('"')
        full = f"{table}.{key}" if table else key
        here = index is None or table not in count or count[table] == index
        if "=" in line and here and full == ".".join(names[: len(full.split("."))]):
            return number
    return best
