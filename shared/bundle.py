"""The bundle manifest: every file of one model version with its hash, and what a device needs to know to use it."""

from __future__ import annotations

import hashlib
import re
import typing

import msgspec

from shared import codec
from shared.errors import UsageError, WireError
from shared.metrics import Task, get_metric
from shared.summary import MEMORY
from shared.versions import check_name, parse_version

Sha256 = typing.Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Positive = typing.Annotated[float, msgspec.Meta(gt=0)]
Scale = typing.Annotated[float, msgspec.Meta(ge=1e-12, le=1e12)]
NumberName = typing.Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,31}\Z")]
AnswerOrder = typing.Literal["precomputed_first", "model_first", "precomputed_only"]
MODEL_FILE = "model.onnx"
FEATURES_FILE = "features.json"
TABLE_FILE = "precomputed.bin"
COARSE_FILE = "coarse.bin"
LISTS_FILE = "lists.bin"
ITEMS_FILE = "items.json"
GOLDEN_FILE = "golden.json"
CARD_FILE = "card.json"
MANIFEST_FILE = "manifest.json"
REQUIRED = (FEATURES_FILE, GOLDEN_FILE, CARD_FILE)
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILE_BYTES = 4 << 30
MAX_ITEMS = 1 << 24  # a float32 holds whole numbers up to here exactly
MAX_LIST = 2048
_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class DeltaRef(msgspec.Struct, frozen=True, kw_only=True):
    """A shorter way to a file, stored under ``blobs/<sha256>`` too.

    Parameters
    ----------
    method : str
        One of ``shared.delta.METHODS``, or one that a device does not know and passes over.
    source : str
        SHA-256 of the file that it makes the other from; empty if it needs none.
    """

    method: typing.Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
    source: typing.Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""
    sha256: Sha256
    length: typing.Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]


class File(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of the bundle, stored under ``blobs/<sha256>``; the whole file can always be fetched."""

    name: str
    sha256: Sha256
    length: typing.Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)]
    deltas: tuple[DeltaRef, ...] = ()


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    """What the model may cost on a device; the self-test and the serving process enforce it."""

    memory_bytes: typing.Annotated[int, msgspec.Meta(gt=0)] = 1 << 30
    load_s: Positive = 60.0
    predict_s: Positive = 1.0


class Number(msgspec.Struct, frozen=True, kw_only=True):
    """A number that applications may post with an outcome; what is posted may be 1,000 times `scale` at the most."""

    name: NumberName
    scale: Scale = 1.0


class Lists(msgspec.Struct, frozen=True, kw_only=True):
    """Ranked lists that were made beforehand, in ``lists.bin``, of the items in ``items.json``.

    Parameters
    ----------
    length, n_items : int
        Items of a list, and of the catalogue.
    item : str
        The raw column that names an item.
    columns : tuple of str
        Further raw columns that are the item's own: their values lie in the catalogue.
    context : tuple of str
        The raw columns that are left for the request to send.
    """

    length: typing.Annotated[int, msgspec.Meta(ge=1, le=MAX_LIST)]
    n_items: typing.Annotated[int, msgspec.Meta(ge=1, le=MAX_ITEMS)]
    item: str
    columns: tuple[str, ...] = ()
    context: tuple[str, ...]


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """Where the version comes from."""

    kind: typing.Literal["stateless", "stateful"]
    parent: str = ""
    data_version: str = ""


class Golden(codec.Record, frozen=True, kw_only=True):
    """Raw rows and the outputs that a sound device must reproduce from them."""

    SCHEMA: typing.ClassVar[str] = "covey.golden/1"
    rows: tuple[dict[str, str | int | float | bool | None], ...]
    outputs: tuple[tuple[float, ...], ...]
    tolerance: Positive = 1e-5


class Manifest(codec.Record, frozen=True, kw_only=True):
    """What a bundle is.

    Parameters
    ----------
    task, metric : str
        What it answers and how answers are judged; `metric_scale` divides values before they are summed.
    classes : tuple
        Labels in the order of the outputs; empty for a regression.
    threshold : float
        For two classes: label 1 from this probability on.
    answer_order, default
        Which answer comes first, and what is answered when nothing else can be.
    operators : tuple
        ONNX operators that the model may use on top of ``shared.admission.OPERATORS``.
    coarse : tuple
        Features that the keys of the fallback table are made of, if there is one.
    lists : Lists, optional
        The ranked lists that the bundle brings, if it does.
    numbers : tuple
        What may be posted with an outcome beside its label.
    """

    SCHEMA: typing.ClassVar[str] = "covey.bundle/1"
    model: str
    version: str
    variant: str = "standard"
    task: Task
    metric: str
    metric_scale: Scale = 1.0
    classes: tuple[str | int | bool, ...] = ()
    threshold: float = 0.5
    n_outputs: typing.Annotated[int, msgspec.Meta(ge=1, le=4096)]
    features_sha256: Sha256
    files: tuple[File, ...]
    operators: tuple[str, ...] = ()
    answer_order: AnswerOrder = "precomputed_first"
    default: tuple[float, ...] = ()
    coarse: tuple[str, ...] = ()
    lists: Lists | None = None
    label_window_s: typing.Annotated[float, msgspec.Meta(ge=0)] = 86_400.0
    numbers: typing.Annotated[tuple[Number, ...], msgspec.Meta(max_length=32)] = ()
    budgets: Budgets = Budgets()
    lineage: Lineage
    created_at: str = ""

    def file(self, name: str) -> File | None:
        """Look a file up by name."""
        return next((file for file in self.files if file.name == name), None)

    @property
    def target_path(self) -> str:
        """Path of the manifest among the signed targets."""
        return target_path(self.model, self.version, self.variant)

    def to_bytes(self) -> bytes:
        """Write the manifest."""
        return codec.to_json(self)


def target_path(model: str, version: str, variant: str = "standard") -> str:
    """Path of a manifest among the signed targets."""
    return f"bundles/{model}/{version}/{variant}.json"


def digest_of(data: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(data).hexdigest()


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest and check everything about it that needs no file.

    Raises
    ------
    WireError
        The message names the field.
    """
    manifest = codec.from_json(data, Manifest, limit_bytes=MAX_MANIFEST_BYTES)
    try:
        check_name(manifest.model, "model")
        check_name(manifest.variant, "variant")
        parse_version(manifest.version)
        get_metric(manifest.metric, manifest.task)
    except UsageError as err:
        raise WireError(err.message, field=f"manifest {err.field}", fix=err.fix) from err
    names = [file.name for file in manifest.files]
    for i, name in enumerate(names):
        if not _FILE_NAME.fullmatch(name) or name in (MANIFEST_FILE, *names[:i]):
            raise WireError(f"{name[:80]!r} is twice there or no file name", field=f"manifest files[{i}].name")
    lacking = [name for name in REQUIRED if name not in names]
    if lacking:
        raise WireError(f"{lacking[0]} is missing", field="manifest files")
    if MODEL_FILE not in names and not (TABLE_FILE in names and manifest.answer_order == "precomputed_only"):
        raise WireError(f"{MODEL_FILE} is missing", field="manifest files")
    if (COARSE_FILE in names) != bool(manifest.coarse):
        raise WireError(f"it goes with {COARSE_FILE}, and one of them is missing", field="manifest coarse")
    _check_outputs(manifest)
    _check_lists(manifest)
    numbers = [number.name for number in manifest.numbers]
    if len({*numbers, MEMORY}) <= len(numbers):
        raise WireError(f"a number stands twice, or is {MEMORY}", field="manifest numbers")
    return manifest


def _check_lists(manifest: Manifest) -> None:
    lists, names = manifest.lists, {file.name for file in manifest.files}
    for name in (LISTS_FILE, ITEMS_FILE):
        if (name in names) != (lists is not None):
            raise WireError(f"it goes with {name}, and one of them is missing", field="manifest lists")
    if lists is None:
        return
    if manifest.task == "multiclass":
        raise WireError("several classes have no one score to rank by", field="manifest lists")
    if lists.length > lists.n_items:
        raise WireError(f"{lists.length} places for {lists.n_items} items", field="manifest lists.length")
    columns = (lists.item, *lists.columns, *lists.context)
    if len(set(columns)) != len(columns):
        raise WireError("a column is there twice", field="manifest lists")


def _check_outputs(manifest: Manifest) -> None:
    if manifest.task == "regression" and manifest.n_outputs != 1:
        raise WireError(f"a regression has one output, not {manifest.n_outputs}", field="manifest n_outputs")
    if manifest.task == "binary" and (len(manifest.classes), manifest.n_outputs) != (2, 2):
        raise WireError("two classes need two outputs", field="manifest classes")
    if manifest.task == "multiclass" and len(manifest.classes) != manifest.n_outputs:
        raise WireError(f"{len(manifest.classes)} classes, {manifest.n_outputs} outputs", field="manifest classes")
    for i, label in enumerate(manifest.classes):
        if label in manifest.classes[:i]:
            raise WireError(f"{label!r:.40} is there twice", field="manifest classes")
    if manifest.default and len(manifest.default) != manifest.n_outputs:
        raise WireError(f"{len(manifest.default)} numbers, not {manifest.n_outputs}", field="manifest default")
    for number in manifest.default:
        if abs(number) > codec.MAX_FLOAT32:
            raise WireError(f"{number:g} does not fit into a float32", field="manifest default")
