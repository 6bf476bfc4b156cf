"""Deltas: the file comes out byte for byte, or an error does; whatever was done to the bytes on the way."""

from __future__ import annotations

import array
import doctest
import functools
import hashlib
import importlib
import pkgutil
import random
import struct
import typing
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import shared.delta
from shared import codec, delta, precomputed
from shared.delta import blocks, container, int8, planes, runs
from shared.errors import TrustError, WireError

quick = settings(deadline=None, max_examples=60)
METHODS = tuple(delta.METHODS)
LARGE = 1 << 24
Pair = tuple[bytes, bytes]


def network(seed: int, version: str, *, width: int = 24, raw: bool = True, more: np.ndarray | None = None) -> bytes:
    """A small network as an ONNX file, weights as raw data or as packed numbers; `more` is added to the weights."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(width, width)).astype(np.float32)
    values = {"w": (first if more is None else first + more).astype(np.float32), "b": np.zeros((1, width), np.float32)}
    tensors = [
        numpy_helper.from_array(value, name)
        if raw
        else helper.make_tensor(name, TensorProto.FLOAT, value.shape, value.ravel().tolist())
        for name, value in values.items()
    ]
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["inputs", "w", "b"], ["out"])],
        "network",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, width])],
        tensors,
    )
    model = helper.make_model(graph)
    entry = model.metadata_props.add()
    entry.key, entry.value = "covey.version", version
    return bytes(model.SerializeToString(deterministic=True))


def ensemble(n_trees: int, *, first: int = 0, divided_by: int = 0, version: str = "v1") -> bytes:
    """A forest of small trees as an ONNX file; each tree is the same in every forest, but for its weights' divisor."""
    n_nodes = 31
    lists: dict[str, list[typing.Any]] = {name: [] for name in ("treeids", "nodeids", "features", "values", "modes")}
    lists["weights"] = []
    for i, tree in enumerate(range(first, first + n_trees)):
        rng = random.Random(tree)
        lists["treeids"] += [i] * n_nodes
        lists["nodeids"] += range(n_nodes)
        lists["features"] += [rng.randrange(40) for _ in range(n_nodes)]
        lists["values"] += [rng.gauss(0, 1) for _ in range(n_nodes)]
        lists["modes"] += ["BRANCH_LEQ" if rng.random() < 0.5 else "LEAF" for _ in range(n_nodes)]
        lists["weights"] += [rng.random() / (divided_by or n_trees) for _ in range(n_nodes)]
    node = helper.make_node("TreeEnsembleClassifier", ["inputs"], ["out"], domain="ai.onnx.ml", **lists)
    model = helper.make_model(helper.make_graph([node], "forest", [], []))
    entry = model.metadata_props.add()
    entry.key, entry.value = "covey.version", version
    return bytes(model.SerializeToString(deterministic=True))


def table(entries: dict[bytes, tuple[float, float]], model: str = "a") -> bytes:
    return precomputed.build(entries, n_outputs=2, features_sha256="0" * 64, model_sha256=model * 64)


def entries(n: int, seed: int) -> dict[bytes, tuple[float, float]]:
    rng = random.Random(seed)
    return {rng.randbytes(16): (rng.random(), rng.random()) for _ in range(n)}


@functools.cache
def pair(method: str) -> Pair:  # noqa: PLR0911 - one for each method
    """Two files that a method is made for."""
    rng = np.random.default_rng(0)
    if method == "same":
        return b"as it was" * 9, b"as it was" * 9
    if method == "zstd":
        return b"", b"words that come again, " * 40
    if method == "patch":
        trees = random.Random(1).randbytes(3000)
        return trees, trees[500:] + b"new trees"
    if method == "trees":
        return ensemble(40), ensemble(48, version="v1.1")
    if method == "planes":
        return network(1, "v1"), network(1, "v1.1", more=rng.normal(0, 1e-4, (24, 24)))
    if method == "int8":
        return network(1, "v1"), network(1, "v1.10", more=rng.integers(-127, 128, (24, 24)) / 2.0**14)
    old = entries(300, 2)
    kept = list(old.items())[15:]
    return table(old), table(dict(kept) | {kept[3][0]: (0.5, 0.25)} | entries(10, 3), "b")


def made(method: str) -> bytes:
    encoded = delta.encode(method, *pair(method))
    assert encoded is not None
    return encoded


def again(data: bytes, **changes: typing.Any) -> bytes:
    """The same delta with other fields, its checksum made right again."""
    return container.pack_record(msgspec.structs.replace(delta.parse(data, limit_bytes=LARGE), **changes))


# ---- the file comes out


@pytest.mark.parametrize("method", METHODS)
def test_a_file_made_from_a_delta_is_the_file(method: str) -> None:
    old, new = pair(method)
    assert delta.apply(made(method), old, limit_bytes=len(new)) == new


@pytest.mark.parametrize("method", METHODS)
def test_the_best_delta_of_a_pair_is_by_the_method_made_for_it_and_no_larger_than_any(method: str) -> None:
    old, new = pair(method)
    best = delta.best(old, new)
    assert delta.parse(best, limit_bytes=len(new)).method == method
    assert len(best) == min(len(made) for m in METHODS if (made := delta.encode(m, old, new)) is not None)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_pair_gives_the_same_delta(method: str) -> None:
    assert made(method) == made(method)


@quick
@given(old=st.binary(max_size=300), new=st.binary(max_size=300), method=st.sampled_from(METHODS))
def test_any_two_files_go_through_any_method_that_takes_them(old: bytes, new: bytes, method: str) -> None:
    encoded = delta.encode(method, old, new)
    if encoded is not None:
        assert delta.apply(encoded, old, limit_bytes=len(new)) == new
    assert delta.apply(delta.best(old, new), old, limit_bytes=len(new)) == new


keys = st.sets(st.integers(0, 40), max_size=30)


@quick
@given(before=keys, after=keys, changed=keys, seed=st.integers(0, 9))
def test_tables_with_any_keys_added_removed_and_changed_are_merged(
    before: set[int], after: set[int], changed: set[int], seed: int
) -> None:
    known = entries(41, seed)
    names = list(known)
    old = table({names[i]: known[names[i]] for i in before})
    new = table({names[i]: (0.0, 1.0) if i in changed else known[names[i]] for i in after})
    encoded = delta.encode("records", old, new)
    assert encoded is not None
    assert delta.apply(encoded, old, limit_bytes=len(new)) == new


@quick
@given(
    old=st.lists(st.floats(width=32), min_size=1, max_size=40),
    changes=st.lists(st.floats(width=32, allow_nan=False), min_size=40, max_size=40),
)
def test_any_weights_bring_either_an_exact_int8_delta_or_none(old: list[float], changes: list[float]) -> None:
    one = struct.pack(f"<{len(old)}f", *old)
    with np.errstate(all="ignore"):
        two = (np.array(old, np.float32) + np.array(changes[: len(old)], np.float32)).tobytes()
    encoded = delta.encode("int8", one, two)
    if encoded is not None:
        assert delta.apply(encoded, one, limit_bytes=len(two)) == two


@quick
@given(st.lists(st.tuples(st.floats(-4, 4, width=32), st.floats(-0.5, 0.5)), min_size=1, max_size=50))
def test_weights_moved_by_whole_steps_are_near_and_can_be_sent_as_steps(weights: list[tuple[float, float]]) -> None:
    old = [weight for weight, _ in weights]
    wanted = [weight + change for weight, change in weights]
    stepped = int8.near(old, wanted)
    largest = max(abs(change) for _, change in weights)
    assert all(abs(a - b) <= largest / 127 + 1e-6 for a, b in zip(stepped, wanted, strict=True))
    one, two = (struct.pack(f"<{len(old)}f", *numbers) for numbers in (old, stepped))
    # A change smaller than what float32 can say of the weight next to it may be sent in other steps, or not at all.
    encoded = delta.encode("int8", one, two)
    if encoded is not None:
        assert delta.apply(encoded, one, limit_bytes=len(two)) == two
    elif largest > 1e-3:
        pytest.fail(f"{weights} can not be sent")


@pytest.mark.parametrize("raw", [True, False])
def test_weights_are_found_behind_headers_of_other_lengths(raw: bool) -> None:
    old, new = network(1, "v1", raw=raw), network(2, "v1.1.1", raw=raw)
    found = blocks.find(old, new)
    assert len(old) != len(new)
    assert [block.length for block in found] == [24 * 24 * 4, 24 * 4]
    assert old[found[0].source_at :][:4] == np.random.default_rng(1).normal(size=1).astype(np.float32).tobytes()


def test_files_without_anything_in_common_in_form_are_left_to_other_methods() -> None:
    assert blocks.find(network(1, "v1"), network(1, "v1", width=25)) == []
    assert delta.encode("planes", b"a table", b"and a longer one") is None
    assert delta.encode("records", *pair("patch")) is None
    three = precomputed.build({bytes(16): (1.0,)}, n_outputs=1, features_sha256="0" * 64, model_sha256="0" * 64)
    assert delta.encode("records", pair("records")[0], three) is None
    assert delta.encode("patch", b"", b"new") is None


def test_a_table_with_keys_out_of_order_is_not_sent_as_a_merge_that_would_mend_it() -> None:
    old, new = pair("records")
    view = bytearray(new)
    at = len(new) - 8 * 295
    view[at - 32 : at] = view[at - 16 : at] + view[at - 32 : at - 16]
    encoded = delta.encode("records", old, bytes(view))
    if encoded is not None:
        assert delta.apply(encoded, old, limit_bytes=len(new)) == bytes(view)


def test_small_changes_make_small_deltas() -> None:
    for method, ratio in (("patch", 0.1), ("trees", 0.4), ("planes", 0.75), ("int8", 0.4), ("records", 0.2)):
        old, new = pair(method)
        assert len(made(method)) < ratio * len(typing.cast("bytes", delta.encode("zstd", old, new))), method


# ---- or an error does


@pytest.mark.parametrize("method", METHODS)
def test_any_flipped_byte_is_an_error(method: str) -> None:
    old, new = pair(method)
    data = made(method)
    rng = random.Random(method)
    spots = range(len(data)) if len(data) < 600 else [*range(220), *rng.sample(range(220, len(data)), 200)]
    for spot in spots:
        for mask in (1, 0x80, rng.randrange(1, 256)):
            bad = bytearray(data)
            bad[spot] ^= mask
            with pytest.raises((WireError, TrustError)):
                delta.apply(bytes(bad), old, limit_bytes=len(new))


@pytest.mark.parametrize("method", METHODS)
def test_a_flipped_byte_of_a_body_whose_checksum_was_made_right_never_gives_wrong_bytes(method: str) -> None:
    old, new = pair(method)
    body = delta.parse(made(method), limit_bytes=LARGE).body
    rng = random.Random(method)
    for spot in rng.sample(range(len(body)), min(len(body), 150)):
        bad = bytearray(body)
        bad[spot] ^= rng.randrange(1, 256)
        try:
            assert delta.apply(again(made(method), body=bytes(bad)), old, limit_bytes=len(new)) == new
        except (WireError, TrustError):
            continue


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("same", "zstd", "patch", "trees")])
def test_nonsense_inside_of_a_sound_frame_never_gives_wrong_bytes(method: str) -> None:
    """What is decompressed is no more to be trusted than the frame was."""
    old, new = pair(method)
    prefix = blocks.ends(old) if method != "records" else b""
    inner = codec.decompress(delta.parse(made(method), limit_bytes=LARGE).body, limit_bytes=LARGE, prefix=prefix)
    rng = random.Random(method)
    for spot in [*range(min(len(inner), 160)), *rng.sample(range(len(inner)), 100)]:
        for value in (0, 0xFF, inner[spot] ^ 1):
            bad = bytearray(inner)
            bad[spot] = value
            for tampered in (bytes(bad), inner[:spot], inner[:spot] + b"\xff" * 9 + inner[spot:]):
                data = again(made(method), body=codec.compress(tampered, prefix=prefix))
                try:
                    assert delta.apply(data, old, limit_bytes=len(new)) == new
                except (WireError, TrustError):
                    continue


@quick
@given(
    entry=st.tuples(
        st.integers(-1, 4),
        st.integers(-1, 2000),
        st.one_of(st.integers(-1, 3000), st.just(1 << 63)),
        st.booleans(),
        st.one_of(st.just(0.0), st.floats()),
        st.lists(st.binary(max_size=20), max_size=3),
    ),
    at=st.integers(0, 7),
)
def test_nonsense_about_runs_never_gives_wrong_bytes(entry: tuple[typing.Any, ...], at: int) -> None:
    old, new = pair("trees")
    body = delta.parse(made("trees"), limit_bytes=LARGE).body
    (n,) = struct.unpack_from("<I", body)
    entries = msgspec.msgpack.decode(codec.decompress(body[4 : 4 + n], limit_bytes=LARGE))
    entries[at : at + 1] = [entry]
    head = codec.compress(msgspec.msgpack.encode(entries))
    data = again(made("trees"), body=struct.pack("<I", len(head)) + head + body[4 + n :])
    try:
        assert delta.apply(data, old, limit_bytes=len(new)) == new
    except (WireError, TrustError):
        return


@quick
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from(
                [b"\x3d\x00\x01\x02\x03", b"\x40\x07", b"\x40\x80\x01", b"\x40\xff\x80\x00", b"\x4a\x02ab", b"\x4a\x00"]
            ).flatmap(lambda item: st.integers(60, 70).map(lambda n: item * n)),
        ),
        max_size=8,
    )
)
def test_any_bytes_are_taken_apart_and_put_together_again(parts: list[bytes]) -> None:
    data = b"".join(parts)
    found, rest = runs.parse(data)
    assert runs.build(found, rest, len(data)) == data


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=20), st.booleans(), st.sampled_from([runs.FLOATS, runs.INTS]))
def test_columns_of_any_numbers_are_read_as_they_were_written(numbers: list[int], as_steps: bool, kind: int) -> None:
    column = runs.column(kind, array.array("I", numbers), as_steps=as_steps)
    assert runs.read_column(kind, column, as_steps=as_steps).tolist() == numbers


def test_weights_that_all_shrink_alike_cost_almost_nothing() -> None:
    old, new = ensemble(40), ensemble(40, divided_by=48, version="v1.1")
    sizes = {method: len(delta.encode(method, old, new) or b"") for method in ("patch", "trees")}
    assert sizes["trees"] < 0.25 * sizes["patch"]


def test_a_forest_that_rolls_on_is_smaller_in_columns() -> None:
    old, new = ensemble(40), ensemble(40, first=4, version="v1.1")
    sizes = {method: len(delta.encode(method, old, new) or b"") for method in ("patch", "trees")}
    assert sizes["trees"] < sizes["patch"]


@pytest.mark.parametrize("method", METHODS)
def test_a_truncated_delta_is_an_error(method: str) -> None:
    old, new = pair(method)
    data = made(method)
    for end in [*range(0, len(data), max(1, len(data) // 100)), len(data) - 1]:
        with pytest.raises(WireError):
            delta.apply(data[:end], old, limit_bytes=len(new))
        body = delta.parse(data, limit_bytes=LARGE).body
        if body:
            with pytest.raises((WireError, TrustError)):
                delta.apply(again(data, body=body[: end * len(body) // len(data)]), old, limit_bytes=len(new))
    with pytest.raises(WireError):
        delta.apply(data + b"\0", old, limit_bytes=len(new))


@quick
@given(data=st.binary(max_size=400), method=st.sampled_from(METHODS))
def test_garbage_is_an_error(data: bytes, method: str) -> None:
    old, new = pair(method)
    for tried in (data, again(made(method), body=data)):
        try:
            assert delta.apply(tried, old, limit_bytes=len(new)) == new
        except (WireError, TrustError):
            continue


@pytest.mark.parametrize("method", METHODS)
def test_another_source_is_refused_before_anything_is_made(method: str) -> None:
    old, new = pair(method)
    if method == "zstd":
        assert delta.apply(made(method), b"whatever is here", limit_bytes=len(new)) == new
        return
    for other in (b"", old[:-1], old[:-1] + bytes([old[-1] ^ 1]), new + b"\0"):
        with pytest.raises(TrustError, match="made for another file"):
            delta.apply(made(method), other, limit_bytes=len(new))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lie", [-1, 1, 1 << 20])
def test_a_lie_about_the_length_is_found(method: str, lie: int) -> None:
    old, new = pair(method)
    with pytest.raises((WireError, TrustError)):
        delta.apply(again(made(method), length=len(new) + lie), old, limit_bytes=LARGE)
    with pytest.raises((WireError, TrustError)):
        delta.apply(again(made(method), source_length=len(old) + lie if old else 5), old, limit_bytes=LARGE)
    with pytest.raises(WireError, match=r"makes .* bytes, at most"):
        delta.apply(made(method), old, limit_bytes=len(new) - 1)


@pytest.mark.parametrize("method", METHODS)
def test_another_result_than_the_promised_one_is_never_handed_out(method: str) -> None:
    old, new = pair(method)
    with pytest.raises(TrustError, match="does not make the file"):
        delta.apply(again(made(method), sha256=hashlib.sha256(b"another").digest()), old, limit_bytes=len(new))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "same"])
def test_a_bomb_ends_at_the_length_that_was_promised(method: str) -> None:
    """256 MiB of zeros in a few kilobytes, for a file of a few hundred bytes."""
    old, _ = pair(method)
    bomb = codec.compress(bytes(1 << 28), level=1)
    assert len(bomb) < 30_000
    with pytest.raises(WireError):
        delta.apply(again(made(method), body=bomb), old, limit_bytes=LARGE)


def test_a_frame_that_asks_for_a_larger_window_than_its_file_needs_is_refused() -> None:
    new = bytes(1000)
    zstd = codec._zstd()
    wide = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    body = wide.compress(new[:500], mode=wide.FLUSH_BLOCK) + wide.compress(new[500:], mode=wide.FLUSH_FRAME)
    with pytest.raises(WireError, match="not a zstd frame"):
        delta.apply(container.pack("zstd", b"", new, body), b"", limit_bytes=1000)


def test_a_method_or_a_version_that_is_not_known_is_refused() -> None:
    with pytest.raises(WireError, match="the method 'magic' is not one of same, zstd"):
        delta.apply(again(made("patch"), method="magic"), pair("patch")[0], limit_bytes=LARGE)
    with pytest.raises(WireError):
        delta.apply(again(made("patch"), method="../zstd"), pair("patch")[0], limit_bytes=LARGE)
    later = made("patch")[:-4].replace(b"covey.delta/1", b"covey.delta/2")
    with pytest.raises(WireError, match=r"reads covey\.delta major 1, got '2'"):
        delta.parse(later + zlib.crc32(later).to_bytes(4, "little"), limit_bytes=LARGE)


def test_a_delta_far_longer_than_what_it_makes_is_not_even_read() -> None:
    with pytest.raises(WireError, match="at most"):
        delta.parse(container.pack("zstd", b"", b"short", bytes(5000)), limit_bytes=5)


@pytest.mark.parametrize("length", range(12))
def test_planes_are_put_back_together_at_any_length(length: int) -> None:
    data = bytes(range(length))
    assert planes.join(planes.split(data)) == data


@pytest.mark.parametrize("name", sorted(m.name for m in pkgutil.iter_modules(shared.delta.__path__)))
def test_the_examples_in_the_docstrings_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"shared.delta.{name}")).failed == 0
