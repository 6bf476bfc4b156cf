"""A project's folder: read ``covey.toml`` (default < TOML < COVEY_* environment < flag) and check it."""

from __future__ import annotations

import os
import pathlib
import typing
import urllib.parse

from cloud.config.fleet import Settings
from cloud.config.model import NETWORKS, ListSettings, ModelSettings
from shared import settings
from shared.errors import ConfigError, NotFoundError, UsageError
from shared.features import FeatureSet, load_feature_set
from shared.metrics import get_metric
from shared.summary import MEMORY
from shared.versions import check_name

CONFIG_FILE = "covey.toml"
_TWO = 2


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
        except (OSError, ValueError) as err:
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
    if parsed.rollout.expedited:
        raise ConfigError(
            "no rollout is expedited by default",
            field="rollout.expedited",
            fix="Take it out; somebody says so, with a reason: covey rollout start --expedite --reason TEXT",
        )
    _check_hooks(parsed)
    for name, model in parsed.models.items():
        check_name(name, f"models.{name}")
        where = f"models.{name}"
        if bool(model.estimator) == bool(model.steps):
            raise ConfigError("give an estimator, or steps", field=f"{where}.estimator", fix="One of the two.")
        last = model.estimator or model.steps[-1].estimator
        if model.publish_delta and last.rpartition(".")[2] not in NETWORKS:
            raise ConfigError(
                f"{last!r} has no weights to send as {model.publish_delta}",
                field=f"{where}.publish_delta",
                fix=f"Leave it out, or choose one of {', '.join(NETWORKS)}.",
            )
        _check_answers(model, where)
        repeated = [t.name for i, t in enumerate(model.trigger) if t.name in [u.name for u in model.trigger[:i]]]
        if repeated:
            raise ConfigError(f"two triggers are called {repeated[0]!r}", field=f"{where}.trigger", fix="Rename one.")
        if model.label == model.time:
            raise ConfigError("label and time are the same column", field=f"{where}.label", fix="Name two columns.")
        _check_variants(model, f"{where}.variant")


def _check_hooks(parsed: Settings) -> None:
    names = [one.name for one in parsed.hook]
    for i, one in enumerate(parsed.hook):
        where = f"hook[{i}]"
        if one.name in names[:i]:
            raise ConfigError(f"two hooks are called {one.name!r}", field=f"{where}.name", fix="Rename one.")
        if bool(one.command) == bool(one.url):
            raise ConfigError("give a command, or a url", field=f"{where}.command", fix="One of the two.")
        if one.url and not _is_address(one.url):
            raise ConfigError(f"{one.url!r:.60} is no address", field=f"{where}.url", fix="Begin with https://.")
        if one.command and not one.command[0]:
            raise ConfigError("it has no program", field=f"{where}.command", fix='Name it: command = ["bin/tell"].')
        if one.secret_file and not one.url:
            raise ConfigError("only posts are signed", field=f"{where}.secret_file", fix="Leave it out.")
        if not (one.on or one.before):
            raise ConfigError(
                "it is told of nothing and asked nothing", field=f"{where}.on", fix='Say when: on = ["promoted"].'
            )


def _is_address(url: str) -> bool:
    try:
        parsed = urllib.parse.urlsplit(url)
        return parsed.scheme in ("http", "https") and bool(parsed.hostname) and parsed.port != 0 and url.isprintable()
    except ValueError:
        return False


def _check_variants(model: ModelSettings, where: str) -> None:
    names = ["standard"]
    for variant in model.variant:
        if variant.name in names:
            raise ConfigError(f"{variant.name!r} is taken", field=f"{where}.name", fix="Choose another name.")
        names.append(variant.name)
        if (variant.kind == "student") != bool(variant.estimator):
            raise ConfigError(
                f"kind = {variant.kind!r} and estimator = {variant.estimator!r} do not go together",
                field=f"{where}.estimator",
                fix="A student needs an estimator, any other kind has none.",
            )
    if model.variant and model.answer_order == "precomputed_only":
        raise ConfigError("devices never ask the model of precomputed_only", field=where, fix="Leave the variants out.")


def _check_answers(model: ModelSettings, where: str) -> None:
    """Check that task, metric and classes fit together, and what is posted beside a label."""
    if MEMORY in model.numbers:
        raise ConfigError(
            f"{MEMORY} is what devices measure themselves", field=f"{where}.numbers", fix="Choose another name."
        )
    try:
        get_metric(model.metric_name, model.task)
    except UsageError as err:
        raise ConfigError(err.message, field=f"{where}.metric", fix=err.fix) from err
    classes = model.classes
    if len(set(classes)) != len(classes):
        raise ConfigError("a class stands twice", field=f"{where}.classes", fix="Name each class once.")
    if classes and (model.task == "regression" or (model.task == "binary" and len(classes) != _TWO)):
        raise ConfigError(
            f"{len(classes)} classes do not fit the task {model.task!r}",
            field=f"{where}.classes",
            fix="A binary model has two, a regression has none.",
        )
    _check_lists(model, f"{where}.lists")


def _check_lists(model: ModelSettings, where: str) -> None:
    if not model.lists.item and model.lists != ListSettings():
        raise ConfigError("no column names the items", field=f"{where}.item", fix="Name one, or take the table out.")
    if model.lists.item and model.task == "multiclass":
        raise ConfigError(
            "several classes have no one score to rank by",
            field=f"{where}.item",
            fix="Rank with a model of two classes or of a number.",
        )
    if model.lists.item == model.label:
        raise ConfigError(
            "the label is not known when a list is made", field=f"{where}.item", fix="Name another column."
        )
