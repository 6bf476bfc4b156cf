"""Which role speaks of a target: the order of the search, its ends and its limits."""

from __future__ import annotations

import hashlib
import typing
import urllib.parse

import pytest
from tuf.api.metadata import DelegatedRole, Delegations

from edge_agent.link import Link
from edge_agent.update.trust import Repository, Where
from shared.errors import TrustError
from tests import tuf_line
from tests.tuf_line import Client, Line
from tests.tuf_repository import TOP, TufRepository

line, repo, client = tuf_line.line, tuf_line.repo, tuf_line.client
ANY = ("*", "*/*")


class Edge(typing.NamedTuple):
    """One delegation."""

    parent: str
    child: str
    paths: tuple[str, ...] = ANY
    terminating: bool = False


def build(repo: TufRepository, edges: typing.Iterable[Edge]) -> None:
    """Delegate and sign."""
    for edge in edges:
        repo.delegate(edge.parent, edge.child, *edge.paths, terminating=edge.terminating)
    repo.release(*(role for role in repo.signed if role not in {"root", "timestamp", "snapshot"}))


def visited(line: Line) -> list[str]:
    """Delegated roles that were asked for, in their order."""
    asked = [path.removeprefix("metadata/") for path in line.asked if path.startswith("metadata/")]
    line.take_asked()
    names = [urllib.parse.unquote(path).removesuffix(".json").partition(".")[2] for path in asked]
    return [name for name in names if name and name not in TOP]


T = "targets"
GRAPHS = {
    "nobody": ([], ""),
    "one": ([Edge(T, "a")], "a"),
    "brothers in their order": ([Edge(T, "b"), Edge(T, "a"), Edge(T, "c")], "bac"),
    "children before brothers": ([Edge(T, "a"), Edge(T, "b"), Edge("a", "c"), Edge("c", "d")], "acdb"),
    "a wide tree": (
        [Edge(T, "a"), Edge(T, "b"), Edge("a", "c"), Edge("a", "d"), Edge("b", "e"), Edge("d", "f")],
        "acdfbe",
    ),
    "after the terminating one nobody": ([Edge(T, "a"), Edge(T, "b", terminating=True), Edge(T, "c")], "ab"),
    "the children of the terminating one": (
        [Edge(T, "a", terminating=True), Edge(T, "b"), Edge("a", "c"), Edge("a", "d")],
        "acd",
    ),
    "a terminating grandchild ends it for all": (
        [Edge(T, "a"), Edge(T, "b"), Edge("a", "c", terminating=True), Edge("a", "d")],
        "ac",
    ),
    "a terminating one for other paths ends nothing": (
        [Edge(T, "a", ("x/*",), terminating=True), Edge(T, "b")],
        "b",
    ),
    "who is not trusted for the path is not asked": ([Edge(T, "a", ("other*",)), Edge(T, "b")], "b"),
    "nor are his children": ([Edge(T, "a", ("other*",)), Edge("a", "b"), Edge(T, "c")], "c"),
    "a circle": ([Edge(T, "a"), Edge("a", "b"), Edge("b", "a"), Edge(T, "c")], "abc"),
    "who names himself": ([Edge(T, "a"), Edge("a", "a"), Edge("a", "b")], "ab"),
    "who is named twice is asked once": ([Edge(T, "a"), Edge(T, "b"), Edge("a", "c"), Edge("b", "c")], "acb"),
    "no paths at all": ([Edge(T, "a", ()), Edge(T, "b")], "b"),
}


@pytest.mark.parametrize(("edges", "order"), GRAPHS.values(), ids=list(GRAPHS))
def test_roles_are_asked_in_order_of_their_appearance_depth_first(
    client: Client, line: Line, repo: TufRepository, edges: list[Edge], order: str
) -> None:
    build(repo, edges)
    assert client.download("wanted") == 1
    assert "".join(visited(line)) == order
    assert set(client.trusts()) == {*TOP, *order}


def test_the_first_who_names_a_target_is_believed(client: Client, line: Line, repo: TufRepository) -> None:
    build(repo, [Edge(T, "a"), Edge(T, "b"), Edge("a", "c")])
    repo.add_target("wanted", b"of b", "b")
    repo.add_target("wanted", b"of c", "c")
    repo.release("b", "c")
    assert client.download("wanted") == 0
    assert (visited(line), client.downloaded()) == (["a", "c"], [b"of c"])
    repo.add_target("wanted", b"of all", "targets")
    repo.release("targets")
    assert client.download("wanted") == 0
    assert client.downloaded() == [b"of all"]


def test_a_role_is_not_believed_outside_its_paths(client: Client, repo: TufRepository) -> None:
    build(repo, [Edge(T, "a", ("mine/*",))])
    repo.add_target("yours/x", b"1", "a")
    repo.add_target("mine/x", b"2", "a")
    repo.release("a")
    assert client.download("yours/x") == 1
    assert client.download("mine/x") == 0
    assert client.downloaded() == [b"2"]


def test_nor_may_it_give_away_what_it_has_not(client: Client, repo: TufRepository) -> None:
    """Every delegation on the way has to allow the path."""
    build(repo, [Edge(T, "a", ("mine/*",)), Edge("a", "b", ("*/*",))])
    repo.add_target("yours/x", b"1", "b")
    repo.release("b")
    assert client.download("yours/x") == 1


def test_a_role_that_is_no_longer_named_says_nothing(client: Client, repo: TufRepository) -> None:
    build(repo, [Edge(T, "a")])
    repo.add_target("wanted", b"1", "a")
    repo.release("a")
    assert client.download("wanted") == 0
    repo.signed["targets"].delegations = None
    repo.release("targets")
    assert client.download("wanted") == 1


def test_a_role_is_verified_for_each_who_names_it(client: Client, line: Line, repo: TufRepository) -> None:
    """`a` and `b` name `c` with different keys; what is good for the one is not for the other."""
    build(repo, [Edge(T, "a", ("x*",)), Edge(T, "b", ("y*",)), Edge("a", "c"), Edge("b", "c")])
    repo.add_target("x1", b"1", "c")
    repo.add_target("y1", b"1", "c")
    repo.signed["b"].delegations.roles["c"].keyids = list(repo.signed["root"].roles["targets"].keyids)
    repo.release("b", "c")
    assert client.download("x1") == 0
    assert client.download("y1") == 1
    # The same within one update.
    link = Link(line.url)
    repository = Repository(client.metadata, None, Where(f"{line.url}/metadata/", f"{line.url}/targets/"), link.stream)
    repository.refresh()
    assert repository.target("x1", cache=client.targets / "x1") == b"1"
    with pytest.raises(TrustError, match="c was signed by 0/1 keys"):
        repository.target("y1", cache=client.targets / "y1")
    link.close()


@pytest.mark.parametrize("spoil", ["missing", "unsigned", "not in the snapshot"])
def test_a_role_that_can_not_be_had_ends_the_search(client: Client, repo: TufRepository, spoil: str) -> None:
    """Who came later might say something else than the one who can not be heard (5.6.7)."""
    build(repo, [Edge(T, "a"), Edge(T, "b")])
    repo.add_target("wanted", b"1", "b")
    repo.release("b")
    if spoil == "missing":
        del repo.files[repo.path("a")]
    elif spoil == "unsigned":
        repo.sign("a", [])
    else:
        del repo.signed["snapshot"].meta["a.json"]
        repo.release()
    assert client.download("wanted") == 1
    assert client.downloaded() == []


@pytest.mark.parametrize("deep", [False, True])
def test_the_number_of_roles_that_are_asked_is_limited(
    client: Client, line: Line, repo: TufRepository, *, deep: bool
) -> None:
    names = [f"r{n:03}" for n in range(60)]
    parents = [T, *names] if deep else [T] * len(names)
    build(repo, [Edge(parent, name) for parent, name in zip(parents, names, strict=False)])
    repo.add_target("wanted", b"1", names[-1])
    repo.release(names[-1])
    assert client.download("wanted") == 1
    assert visited(line) == names[:32]


# ---- path patterns

PATTERNS = [
    ("*", "a", True),
    ("*", "a/b", False),
    ("a/*", "a/b", True),
    ("a/*", "a/b/c", False),
    ("*/*", "a/b", True),
    ("*/*/*", "a/b/c", True),
    ("*.tgz", "foo.tgz", True),
    ("*.tgz", "targets/foo.tgz", False),
    ("targets/*.tgz", "targets/foo.tgz", True),
    ("targets/*.tgz", "targets/foo.txt", False),
    ("foo-version-?.tgz", "foo-version-2.tgz", True),
    ("foo-version-?.tgz", "foo-version-alpha.tgz", False),
    ("foo.tgz", "foo.tgz", True),
    ("foo.tgz", "FOO.tgz", False),
    ("foo.tgz", "foo.tgz.bak", False),
    ("a/", "a/b", False),
    ("a", "a/b", False),
]


def test_path_patterns_match_as_the_specification_says(client: Client, line: Line, repo: TufRepository) -> None:
    for n, (pattern, _, _) in enumerate(PATTERNS):
        repo.delegate("targets", f"p{n:02}", pattern)
    names = [f"p{n:02}" for n in range(len(PATTERNS))]
    repo.release("targets", *names)
    for pattern, path, matches in PATTERNS:
        (client.metadata / "targets.json").unlink(missing_ok=True)
        for name in names:
            (client.metadata / f"{name}.json").unlink(missing_ok=True)
        assert client.download(path) == 1
        asked = visited(line)
        assert (f"p{PATTERNS.index((pattern, path, matches)):02}" in asked) is matches, (pattern, path)


# ---- prefixes of hashes


def test_prefixes_of_the_hash_of_a_path_choose_the_role(client: Client, line: Line, repo: TufRepository) -> None:
    digest = hashlib.sha256(b"wanted/x").hexdigest()
    other = "0" if digest[0] != "0" else "1"
    repo.delegate("targets", "a", prefixes=[other])
    repo.delegate("targets", "b", prefixes=[other, digest[:3]])
    repo.delegate("targets", "c", prefixes=[digest])
    repo.add_target("wanted/x", b"1", "c")
    repo.release("targets", "a", "b", "c")
    assert client.download("wanted/x") == 0
    assert visited(line) == ["b", "c"]


@pytest.mark.parametrize("bit_length", [1, 4, 9])
def test_bins_that_are_named_by_a_number_of_bits(
    client: Client, line: Line, repo: TufRepository, bit_length: int
) -> None:
    names = repo.delegate_bins(bit_length, "bin")
    paths = [f"some/{n}" for n in range(3)]
    bins = []
    for path in paths:
        first_bits = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4]) >> (32 - bit_length)
        bins.append(names[first_bits])
        repo.add_target(path, path.encode(), bins[-1])
    repo.release("targets", *names)
    for path in paths:
        assert client.download(path) == 0
    assert client.download("some/other") == 1
    assert visited(line)[: len(set(bins))] == list(dict.fromkeys(bins))
    assert sorted(client.downloaded()) == sorted(path.encode() for path in paths)


def test_a_target_in_another_bin_than_its_own_is_not_found(client: Client, repo: TufRepository) -> None:
    names = repo.delegate_bins(1, "bin")
    own = hashlib.sha256(b"wanted").digest()[0] >> 7
    repo.add_target("wanted", b"1", names[1 - own])
    repo.release("targets", *names)
    assert client.download("wanted") == 1


# ---- names


@pytest.mark.parametrize("name", ["?", "#", "/absolute", "../outside", "a b", "100%", "ü", "a" * 100, ".", ".."])
def test_an_odd_name_of_a_role_stays_a_name(client: Client, line: Line, repo: TufRepository, name: str) -> None:
    build(repo, [Edge(T, name)])
    repo.add_target("wanted", b"1", name)
    repo.release(name)
    before = {path for path in client.folder.parent.rglob("*") if client.metadata not in path.parents}
    assert client.download("wanted") == 0
    assert f"3.{urllib.parse.quote(name, safe='')}.json" in line.take_asked()
    assert client.trusts() == dict.fromkeys((*TOP, name), 2) | {"root": 1, "snapshot": 3, "timestamp": 3, name: 3}
    after = {path for path in client.folder.parent.rglob("*") if client.metadata not in path.parents}
    assert after - before == {*client.targets.iterdir(), client.floors}


@pytest.mark.parametrize("name", TOP)
def test_a_delegated_role_does_not_take_the_name_of_a_top_level_one(
    client: Client, repo: TufRepository, name: str
) -> None:
    assert client.refresh() == 0
    before = {role: client.bytes_of(role) for role in TOP}
    role = DelegatedRole("placeholder", [], 1, terminating=False, paths=["*"])
    repo.signed["targets"].delegations = Delegations({}, {"placeholder": role})
    repo.release("targets")
    data = repo.files[repo.path("targets")].replace(b"placeholder", name.encode())
    repo.files[repo.path("targets")] = data
    assert client.download("wanted") == 1
    assert client.bytes_of("root") == before["root"]
    assert client.bytes_of("targets") == before["targets"]
