"""Encode one row: raw values to codes, codes to the key of the precomputed table and to the model's input."""

from __future__ import annotations

import array
import hashlib
import struct
import typing

from shared.errors import DataError, nearest
from shared.features.coding import make_coder
from shared.features.compiled import Codes, compile_coder, compile_packer
from shared.features.definition import FeatureSet
from shared.features.kinds import Numeric

KEY_BYTES = 16
_SHOWN = 60


def check_columns(row: typing.Mapping[str, object], known: frozenset[str]) -> None:
    """Refuse a row with a column that nobody reads, since it is most likely a misspelt one.

    Raises
    ------
    DataError
        The field is the unknown column; the fix names the nearest known one.
    """
    if row.keys() <= known:
        return
    column = min(map(str, row.keys() - known))[:_SHOWN]
    near = nearest(column, sorted(known))
    fix = f"Did you mean {near!r}?" if near else f"Known are {', '.join(sorted(known)[:12])}."
    raise DataError("no feature reads this", field=column, fix=fix)


class Encoder:
    """The compiled form of a frozen feature set.

    Parameters
    ----------
    feature_set : FeatureSet
        Must know its categories.

    Attributes
    ----------
    key : callable
        Codes to the 128-bit key of the row.
    code : callable
        `encode` as serving uses it, several times as fast: numbers in its codes are rounded only where they are packed.
    packed : callable
        Codes to the model's input as bytes, `width` float32 numbers.
    """

    def __init__(self, feature_set: FeatureSet) -> None:
        if not feature_set.is_frozen:
            raise ValueError("the feature set has categories still to be learned")
        self.feature_set = feature_set
        self.width = feature_set.width
        self._coders = [(f.column, make_coder(f)) for f in feature_set.feature]
        self.columns = frozenset(feature_set.columns) | frozenset(feature_set.keep)
        numeric = [isinstance(f, Numeric) for f in feature_set.feature]
        self._pack = struct.Struct("<" + "".join("f" if number else "H" for number in numeric)).pack
        self._numeric = numeric
        # The key belongs to one encoding: the same codes under another feature set give another key.
        self._hash = hashlib.blake2b(digest_size=KEY_BYTES, key=bytes.fromhex(feature_set.digest)[:32])
        self.key = self._keyer()
        self.code = compile_coder(feature_set)
        self.packed = compile_packer(feature_set)

    def encode(self, row: typing.Mapping[str, object]) -> Codes:
        """Code a row of raw values; an absent column counts as missing, columns that no feature reads are passed over.

        Raises
        ------
        DataError
            A value is wrong; the field is the column's name.
        """
        get = row.get
        return tuple([code(get(column)) for column, code in self._coders])

    def _keyer(self) -> typing.Callable[[Codes], bytes]:
        copy, pack = self._hash.copy, self._pack

        def key(codes: Codes) -> bytes:
            state = copy()
            state.update(pack(*codes))
            return state.digest()

        return key

    def coarse_key(self, names: typing.Sequence[str]) -> typing.Callable[[Codes], bytes]:
        """Return what gives the 128-bit key of a coded row that is looked at with some of its features only.

        Parameters
        ----------
        names : sequence of str
            Features, by name; other names give other keys, even where the codes are the same.

        Raises
        ------
        DataError
            No feature has one of the names.
        """
        places = {feature.name: i for i, feature in enumerate(self.feature_set.feature)}
        for name in names:
            if name not in places:
                near = nearest(name, places)
                fix = f"Did you mean {near!r}?" if near else f"Features are {', '.join(places)}."
                raise DataError(f"no feature is called {name!r:.80}", field="coarse", fix=fix)
        picked = [places[name] for name in names]
        pack = struct.Struct("<" + "".join("f" if self._numeric[i] else "H" for i in picked)).pack
        base = self._hash.copy()
        base.update(("\0".join(names) + "\0").encode())

        def key(codes: Codes) -> bytes:
            state = base.copy()
            state.update(pack(*[codes[i] for i in picked]))
            return state.digest()

        return key

    def codes_of(self, row: typing.Iterable[float]) -> Codes:
        """Return codes that went through a matrix of floats: what is not a number is a whole number again."""
        return tuple([code if number else int(code) for code, number in zip(row, self._numeric, strict=True)])

    def vector(self, codes: Codes) -> array.array[float]:
        """Return the model's input, `width` float32 numbers."""
        return array.array("f", self.packed(codes))
