"""Labels that an application posts: the number that a model's metric takes."""

from __future__ import annotations

import typing

import msgspec

from shared import codec
from shared.bundle import Manifest
from shared.errors import DataError, shown

NO_LABEL: typing.Final = msgspec.UNSET


def label_of(label: object, manifest: Manifest) -> float:
    """Return the place of a label among the classes, or the value of a regression.

    Raises
    ------
    DataError
        There is none, or the model does not know it.
    """
    if label is NO_LABEL:
        raise DataError("neither a label nor numbers", field="label", fix="Send the true value.")
    if manifest.task == "regression":
        if isinstance(label, bool) or not isinstance(label, int | float) or not abs(label) <= codec.MAX_FLOAT32:
            raise DataError(f"{shown(label)} is not a number", field="label", fix="Send the true value.")
        return float(label)
    for i, known in enumerate(manifest.classes if callable(type(label).__hash__) else ()):
        if label == known:
            return float(i)
    raise DataError(
        f"{shown(label)} is not a class", field="label", fix=f"Classes are {list(manifest.classes)!r:.200}."
    )
