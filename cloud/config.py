"""A project's folder and its ``covey.toml``: default < TOML < COVEY_* environment < flag."""

from __future__ import annotations

import os
import pathlib
import typing

import msgspec

from shared import settings
from shared.bundle import AnswerOrder
from shared.errors import ConfigError, NotFoundError, UsageError
from shared.features import FeatureSet, load_feature_set
from shared.metrics import Task, get_metric
from shared.versions import check_name

CONFIG_FILE = "covey.toml"
Positive = typing.Annotated[float, msgspec.Meta(gt=0)]
NotNegative = typing.Annotated[float, msgspec.Meta(ge=0)]
Ratio = typing.Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = typing.Annotated[int, msgspec.Meta(ge=0)]
AtLeastOne = typing.Annotated[int, msgspec.Meta(ge=1)]
Params = dict[str, typing.Any]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of ``covey.toml``: unknown keys fail."""


class ProjectSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[project]``."""

    name: str


class ServeSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[serve]``: where the cloud answers and how often it looks.

    Parameters
    ----------
    online_window_s : float
        A device that was heard from within so long counts as online.
    tick_interval_s : float
        How often triggers and rollouts are looked at.
    threads : int
        Requests answered at the same time.
    pages : str
        Who may see the pages and their JSON: ``local``, people on this machine, or ``all`` who reach it.
    """

    host: str = "127.0.0.1"
    port: typing.Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    online_window_s: Positive = 900.0
    tick_interval_s: Positive = 5.0
    threads: AtLeastOne = 4
    pages: typing.Literal["local", "all"] = "local"


class RegionSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[regions]``: their names, in the order in which a rollout opens them."""

    order: tuple[str, ...]


class DeviceSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[devices]``: what every channel tells its devices."""

    poll_interval_s: typing.Annotated[float, msgspec.Meta(ge=0.05, le=7 * 86_400)] = 60.0
    poll_jitter_ratio: Ratio = 0.2
    heartbeat_s: NotNegative = 300.0
    probation_s: NotNegative = 60.0
    replay: bool = False


class ShadowSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout.shadow]``: the candidate is scored on the whole fleet, and never answers."""

    min_days: Count = 7
    min_outcomes: Count = 1600


class CanarySettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout.canary]``: the candidate answers a share of requests, region by region."""

    request_share: Ratio = 0.5
    device_share: Ratio = 1.0
    min_days: Count = 3
    min_outcomes: Count = 300
    keep_pairs: bool = True


class RolloutSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[rollout]``: the plan of every rollout that names no other.

    Parameters
    ----------
    verified_share : float
        Share of the online devices in a stage that must run the new generation, checked, before the next opens.
    error_ratio, error_min_executed : float, int
        A stage fails when so large a share of the devices that tried failed or timed out, once so many tried.
    install_timeout_s : float
        A device that is online and has not verified after so long counts as failed.
    max_days : int
        After so many days of event time without a verdict the rollout is aborted.
    undo_window_days : int
        How long after promotion an undo is one order.
    """

    verified_share: Ratio = 0.95
    error_ratio: Ratio = 0.2
    error_min_executed: AtLeastOne = 3
    install_timeout_s: Positive = 3600.0
    request_error_margin: Ratio = 0.01
    alpha: typing.Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    alpha_promote: typing.Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.01
    min_devices: Count = 20
    max_days: AtLeastOne = 60
    undo_window_days: AtLeastOne = 30
    shadow: ShadowSettings = ShadowSettings()
    canary: CanarySettings = CanarySettings()


class StepSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of a Pipeline: a dotted class name and its parameters."""

    estimator: str
    params: Params = {}


class FinetuneSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME.finetune]``: stateful training.

    Parameters
    ----------
    epochs : int
        Passes over the new rows.
    replay_ratio : float
        Old rows mixed in for each new one, against forgetting.
    batch_size : int
        Rows in a call of partial_fit.
    """

    epochs: AtLeastOne = 1
    replay_ratio: NotNegative = 1.0
    batch_size: AtLeastOne = 200


class GateSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME.gate]``: what a model must pass before it is signed.

    Parameters
    ----------
    worse_by : float
        How much worse than the incumbent it may be on the hold-out, in units of the metric.
    forget_by, anchor_rows : float, int
        How much worse than the incumbent it may be on anchors: so many older rows of the model's own data, spread over
        all of their time.
    parity_rows, parity_tolerance, parity_mismatch_ratio : int, float, float
        The exported model must say what the trained one says: so many rows, so close, so many exceptions.
    """

    worse_by: NotNegative = 0.01
    forget_by: NotNegative = 0.01
    anchor_rows: AtLeastOne = 5000
    parity_rows: typing.Annotated[int, msgspec.Meta(ge=10_000)] = 10_000
    parity_tolerance: Positive = 1e-5
    parity_mismatch_ratio: Ratio = 0.0


class PrecomputeSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME.precompute]``: answers made in the cloud.

    Parameters
    ----------
    budget_bytes : int
        Size of the table; 0 makes none.
    teacher, teacher_params : str, dict
        An estimator that stays in the cloud and gives the table's answers in place of the exported model.
    """

    budget_bytes: Count = 1 << 20
    teacher: str = ""
    teacher_params: Params = {}


class TriggerSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[models.NAME.trigger]]``: when to train again by itself.

    Parameters
    ----------
    kind : str
        ``performance`` looks at `metric` of the incumbent over `window_days` of mature outcomes; ``time`` at the days
        since the last training; ``volume`` at the rows since then.
    above : float
        The trigger fires above this.
    min_outcomes, cooldown_days : int
        Too little evidence, or too soon after it last fired: it does not.
    """

    name: str
    kind: typing.Literal["performance", "time", "volume"]
    above: float
    metric: typing.Literal["excess_log_loss", "metric"] = "excess_log_loss"
    window_days: AtLeastOne = 14
    min_outcomes: Count = 500
    cooldown_days: Count = 7
    action: typing.Literal["finetune", "train"] = "finetune"
    rollout: bool = True


class ModelSettings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME]``.

    Parameters
    ----------
    features : str
        Path of the feature set, from the project's folder.
    label, time : str
        Columns of the data.
    key : tuple of str
        Columns that together name a row; two rows with the same key are an error.
    classes : tuple
        Labels in order; the second is the one a binary score speaks of. Learned from the data when empty.
    estimator, params, steps : str, dict, tuple
        A scikit-learn class by its dotted name, or the steps of a Pipeline.
    holdout_days : int
        The newest days of the data, kept for the gate.
    margin : float
        How much worse a candidate may be on the devices, in units of the metric.
    metric_scale : float
        Typical size of the metric; for regressions, so that sums keep their precision.
    """

    features: str
    label: str
    time: str
    task: Task = "binary"
    data: str = ""
    key: tuple[str, ...] = ()
    classes: tuple[str | int | bool, ...] = ()
    estimator: str = ""
    params: Params = {}
    steps: tuple[StepSettings, ...] = ()
    holdout_days: AtLeastOne = 7
    metric: str = ""
    metric_scale: Positive = 1.0
    margin: Positive = 0.02
    threshold: Ratio = 0.5
    label_window_days: Positive = 1.0
    answer_order: AnswerOrder = "precomputed_first"
    default: tuple[float, ...] = ()
    seed: Count = 0
    finetune: FinetuneSettings = FinetuneSettings()
    gate: GateSettings = GateSettings()
    precompute: PrecomputeSettings = PrecomputeSettings()
    trigger: tuple[TriggerSettings, ...] = ()

    @property
    def metric_name(self) -> str:
        """The metric, with the task's usual one as default."""
        return self.metric or ("squared_error" if self.task == "regression" else "log_loss")


class Settings(_Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of ``covey.toml``."""

    project: ProjectSettings
    regions: RegionSettings
    models: dict[str, ModelSettings] = {}
    serve: ServeSettings = ServeSettings()
    devices: DeviceSettings = DeviceSettings()
    rollout: RolloutSettings = RolloutSettings()


class Project:
    """A project's folder.

    Parameters
    ----------
    folder : Path
        Holds ``covey.toml``.
    settings : Settings
        Its content, checked.
    """

    def __init__(self, folder: pathlib.Path, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self.keys = folder / "keys"
        self.var = folder / "var"
        self.database = self.var / "covey.db"
        self.blobs = self.var / "blobs"
        self.parts = self.var / "parts"
        self.repository = self.var / "repo"

    def model(self, name: str | None) -> tuple[str, ModelSettings]:
        """Return a model's name and settings; with a single model the name may be left out."""
        models = self.settings.models
        if name is None and len(models) == 1:
            return next(iter(models.items()))
        if name is None or name not in models:
            raise NotFoundError(
                f"no model {name!r}" if name else "there are several models or none",
                field="model",
                fix=f"Known are: {', '.join(models) or 'none; add [models.NAME] to covey.toml'}.",
            )
        return name, models[name]

    def feature_set(self, path: str) -> FeatureSet:
        """Read a feature set of this project."""
        file = self.folder / path
        try:
            text = file.read_text()
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"can not be read: {err}", field=str(file), fix="Mend the path.") from err
        return load_feature_set(text, path)


def load_project(folder: pathlib.Path, environ: typing.Mapping[str, str] = os.environ) -> Project:
    """Read a project.

    Raises
    ------
    NotFoundError
        There is no ``covey.toml``.
    ConfigError
        With file, line, key and fix.
    """
    path = folder / CONFIG_FILE
    try:
        text = path.read_text()
    except FileNotFoundError as err:
        raise NotFoundError(f"{folder} has no {CONFIG_FILE}", fix="Make a project: covey init NAME") from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"can not be read: {err}", field=str(path)) from err
    data = settings.overlay_environment(settings.parse_toml(text, CONFIG_FILE), environ)
    parsed = settings.convert(data, Settings, source=CONFIG_FILE, text=text)
    try:
        _check(parsed)
    except UsageError as err:
        line = settings.locate(text, err.field)
        where = f"{CONFIG_FILE} line {line}: {err.field}" if line else f"{CONFIG_FILE}: {err.field}"
        raise ConfigError(err.message, field=where, fix=err.fix) from err
    return Project(folder, parsed)


def find_project(start: pathlib.Path) -> pathlib.Path:
    """Return the nearest folder, upwards, that has a ``covey.toml``."""
    for folder in (start, *start.parents):
        if (folder / CONFIG_FILE).exists():
            return folder
    raise NotFoundError(
        f"no {CONFIG_FILE} in {start} or above",
        fix="Go to a project, name it with --project, or make one: covey init NAME",
    )


def _check(parsed: Settings) -> None:
    """Check what types can not say."""
    order = parsed.regions.order
    if not order:
        raise ConfigError("no regions", field="regions.order", fix='Name at least one, such as ["all"].')
    for i, region in enumerate(order):
        check_name(region, "regions.order")
        if region in order[:i]:
            raise ConfigError(f"{region!r} stands twice", field="regions.order", fix="Name each region once.")
    for name, model in parsed.models.items():
        check_name(name, f"models.{name}")
        where = f"models.{name}"
        if bool(model.estimator) == bool(model.steps):
            raise ConfigError("give an estimator, or steps", field=f"{where}.estimator", fix="One of the two.")
        get_metric(model.metric_name, model.task)
        repeated = [t.name for i, t in enumerate(model.trigger) if t.name in [u.name for u in model.trigger[:i]]]
        if repeated:
            raise ConfigError(f"two triggers are called {repeated[0]!r}", field=f"{where}.trigger", fix="Rename one.")
        if model.label == model.time:
            raise ConfigError("label and time are the same column", field=f"{where}.label", fix="Name two columns.")
