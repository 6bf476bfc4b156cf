"""``covey.toml``: what is wrong is refused, and the message says where it stands and what was meant."""

from __future__ import annotations

import pathlib
import typing

import msgspec
import pytest

from cloud.config import ModelSettings, Settings, find_project, load_project
from shared.errors import ConfigError, NotFoundError
from tests.unit.cloud_ import builders

_TABLES = {
    "project": 'name = "shop"',
    "regions": 'order = ["north"]',
    "serve": "",
    "devices": "",
    "rollout": "",
    "devices.guard": "",
    "rollout.shadow": "",
    "rollout.canary": "",
    "models.sales": 'features = "f"\nlabel = "sold"\ntime = "at"\nestimator = "x.Y"',
    "models.sales.budgets": "",
    "models.sales.finetune": "",
    "models.sales.gate": "",
    "models.sales.lists": "",
    "models.sales.precompute": "",
}


def toml(**lines: str) -> str:
    """A whole ``covey.toml``; keyword `a__b` holds further lines of the table ``a.b``."""
    more = {name.replace("__", "."): text for name, text in lines.items()}
    return "".join(f"[{name}]\n{text}\n{more.get(name, '')}\n" for name, text in _TABLES.items())


def load(folder: pathlib.Path, text: str, **environ: str) -> Settings:
    """Read a project with this ``covey.toml``."""
    (folder / "covey.toml").write_text(text)
    return load_project(folder, environ).settings


def refusal(folder: pathlib.Path, text: str, **environ: str) -> str:
    """What is said about a ``covey.toml`` that makes no sense."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, **environ)
    return str(caught.value)


def keys(kind: type[msgspec.Struct] = Settings, path: str = "") -> typing.Iterator[tuple[str, str]]:
    """Every (table, key) of the settings that stands in a table of `_TABLES`."""
    for field in msgspec.structs.fields(kind):
        below = field.type
        where = f"{path}.{field.name}".lstrip(".")
        if where == "models":
            below, where = ModelSettings, "models.sales"
        if isinstance(below, type) and issubclass(below, msgspec.Struct):
            yield from keys(below, where)
        elif path in _TABLES:
            yield path, field.name


ALL_KEYS = sorted(set(keys()))


def test_the_tables_of_this_test_are_all_tables_there_are() -> None:
    assert {table for table, _ in ALL_KEYS} == set(_TABLES)
    assert len(ALL_KEYS) > 50


@pytest.mark.parametrize(("table", "key"), ALL_KEYS)
def test_a_misspelt_key_is_refused_with_its_line_and_the_key_that_was_meant(
    tmp_path: pathlib.Path, table: str, key: str
) -> None:
    wrong = f"{key[:-1]}x{key[-1:]}"
    text = toml(**{table.replace(".", "__"): f"{wrong} = 1"})
    said = refusal(tmp_path, text)
    line = text.splitlines().index(f"{wrong} = 1") + 1
    assert said.startswith(f"covey.toml line {line}: {table}.{wrong}: unknown key {wrong!r}"), said
    assert "Did you mean" in said


@pytest.mark.parametrize(("table", "key"), ALL_KEYS)
def test_a_value_of_the_wrong_type_is_refused_with_its_line(tmp_path: pathlib.Path, table: str, key: str) -> None:
    text = toml(**{table.replace(".", "__"): f"{key} = 1979-05-27"})
    own = [line for line in _TABLES[table].splitlines() if line.startswith(f"{key} = ")]
    text = "\n".join(line for line in text.splitlines() if line not in own)
    said = refusal(tmp_path, text)
    assert f"{table}.{key}" in said
    line = text.splitlines().index(f"{key} = 1979-05-27") + 1
    assert said.startswith(f"covey.toml line {line}: "), said


@pytest.mark.parametrize(
    ("table", "key"),
    [("project", "name"), ("regions", "order"), *(("models.sales", key) for key in ("features", "label", "time"))],
)
def test_a_missing_key_is_named(tmp_path: pathlib.Path, table: str, key: str) -> None:
    lines = toml().splitlines()
    start = lines.index(f"[{table}]")
    at = next(i for i in range(start, len(lines)) if lines[i].startswith(f"{key} = "))
    said = refusal(tmp_path, "\n".join([*lines[:at], *lines[at + 1 :]]))
    assert f"{table}.{key}: the key {key!r} is missing" in said


@pytest.mark.parametrize("table", ["project", "regions"])
def test_a_missing_table_is_named(tmp_path: pathlib.Path, table: str) -> None:
    text = toml().replace(f"[{table}]\n{_TABLES[table]}\n", "")
    assert f"the key {table!r} is missing" in refusal(tmp_path, text)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "-0.5", "1e400"])
@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("serve", "online_window_s"),
        ("serve", "tick_interval_s"),
        ("devices", "heartbeat_s"),
        ("devices", "probation_s"),
        ("devices", "poll_interval_s"),
        ("devices", "poll_jitter_ratio"),
        ("rollout", "install_timeout_s"),
        ("rollout", "verified_share"),
        ("rollout", "error_ratio"),
        ("rollout", "alpha"),
        ("rollout", "alpha_promote"),
        ("rollout", "request_error_margin"),
        ("rollout.canary", "request_share"),
        ("rollout.canary", "device_share"),
        ("models.sales", "margin"),
        ("models.sales", "metric_scale"),
        ("models.sales", "threshold"),
        ("models.sales", "label_window_days"),
        ("models.sales.gate", "worse_by"),
        ("models.sales.gate", "forget_by"),
        ("models.sales.gate", "parity_tolerance"),
        ("models.sales.gate", "parity_mismatch_ratio"),
        ("models.sales.finetune", "replay_ratio"),
    ],
)
def test_a_threshold_that_is_no_usable_number_is_refused_and_never_fails_open(
    tmp_path: pathlib.Path, table: str, key: str, value: str
) -> None:
    said = refusal(tmp_path, toml(**{table.replace(".", "__"): f"{key} = {value}"}))
    assert f"{table}.{key}" in said


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_trigger_that_could_never_or_always_fire_is_refused(tmp_path: pathlib.Path, value: str) -> None:
    trigger = f'[[models.sales.trigger]]\nname = "t"\nkind = "time"\nabove = {value}\n'
    assert "models.sales.trigger[0].above" in refusal(tmp_path, toml() + trigger)


@pytest.mark.parametrize("key", ["heartbeat_s", "probation_s"])
def test_a_time_that_no_channel_can_say_is_refused(tmp_path: pathlib.Path, key: str) -> None:
    assert f"devices.{key}" in refusal(tmp_path, toml(devices=f"{key} = 1e10"))


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("serve", "tick_interval_s", "1e15"),  # no clock can wait for so long
        ("serve", "threads", 10**30),
        ("devices.guard", "min_requests", 10**16),
        ("rollout", "max_days", 2**64),
        ("rollout.canary", "min_outcomes", "9" * 400),
        ("models.sales", "seed", 2**63),
    ],
)
def test_a_number_that_is_larger_than_any_use_is_refused(
    tmp_path: pathlib.Path, table: str, key: str, value: object
) -> None:
    assert f"{table}.{key}" in refusal(tmp_path, toml(**{table.replace(".", "__"): f"{key} = {value}"}))


def test_a_variant_is_named_in_one_line(tmp_path: pathlib.Path) -> None:
    variant = '[[models.sales.variant]]\nname = "small\\n"\nkind = "int8"\n'
    assert "models.sales.variant[0].name" in refusal(tmp_path, toml() + variant)


def test_each_trigger_says_in_which_of_several_the_key_is_wrong(tmp_path: pathlib.Path) -> None:
    good = '[[models.sales.trigger]]\nname = "{}"\nkind = "time"\nabove = 30\n'
    text = toml() + good.format("a") + good.format("b") + "abov = 1\n"
    said = refusal(tmp_path, text)
    assert "unknown key 'abov'. Did you mean 'above'?" in said
    assert f"line {len(text.splitlines())}: " in said


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ({"regions": "", "models__sales": 'steps = [{estimator = "a.B"}]'}, "sales.estimator: give an estimator"),
        ({"models__sales": 'metric = "squared_error"'}, "'squared_error' is not a metric of the task 'binary'"),
        ({"models__sales": 'task = "regression"\nmetric = "accuracy"'}, "is not a metric of the task 'regression'"),
        ({"models__sales": 'task = "ranking"'}, "models.sales.task"),
        ({"models__sales": "default = [nan, 1.0]"}, "models.sales.default"),
        ({"serve": 'pages = "everyone"'}, "serve.pages"),
        ({"serve": "port = 65536"}, "serve.port"),
        ({"serve": "threads = 0"}, "serve.threads"),
        ({"devices": "poll_interval_s = 0.01"}, "devices.poll_interval_s"),
        ({"models__sales__gate": "parity_rows = 9999"}, "models.sales.gate.parity_rows"),
        ({"models__sales__precompute": "budget_bytes = -1"}, "models.sales.precompute.budget_bytes"),
    ],
)  # fmt: skip
def test_what_types_can_not_say_is_checked_too(tmp_path: pathlib.Path, lines: dict[str, str], part: str) -> None:
    assert part in refusal(tmp_path, toml(**lines))


@pytest.mark.parametrize(
    ("order", "part"),
    [("[]", "no regions"), ('["a", "a"]', "'a' stands twice"), ('["A b"]', "'A b' is not a name"),
     ('["../x"]', "is not a name"), ('["a/b"]', "is not a name"), ('[""]', "is not a name")],
)  # fmt: skip
def test_regions_are_names_and_each_stands_once(tmp_path: pathlib.Path, order: str, part: str) -> None:
    said = refusal(tmp_path, toml().replace('order = ["north"]', f"order = {order}"))
    assert "regions.order" in said
    assert part in said
    assert "line 5" in said


@pytest.mark.parametrize("name", ["Sales", "a b", "../../etc", ".", "a" * 64, "ü"])
def test_a_model_whose_name_would_make_a_bad_path_is_refused(tmp_path: pathlib.Path, name: str) -> None:
    text = toml().replace("models.sales", f'models."{name}"')
    assert "is not a name" in refusal(tmp_path, text)


def test_label_and_time_must_be_two_columns(tmp_path: pathlib.Path) -> None:
    assert "label and time are the same" in refusal(tmp_path, toml().replace('time = "at"', 'time = "sold"'))


@pytest.mark.parametrize("classes", ["[1]", "[0, 1, 2]", "[1, 1]", "[1, true]"])
def test_a_binary_model_has_two_different_classes(tmp_path: pathlib.Path, classes: str) -> None:
    assert "models.sales.classes" in refusal(tmp_path, toml(models__sales=f"classes = {classes}"))


def test_two_triggers_of_one_name_are_refused(tmp_path: pathlib.Path) -> None:
    trigger = '[[models.sales.trigger]]\nname = "t"\nkind = "time"\nabove = 1\n'
    assert "two triggers are called 't'" in refusal(tmp_path, toml() + trigger + trigger)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[project", b"a = 1\na = 2", b"\x00", b'x = "' + b"\\u0000"])
def test_text_that_is_not_toml_is_refused_with_the_file(tmp_path: pathlib.Path, data: bytes) -> None:
    (tmp_path / "covey.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"covey\.toml"):
        load_project(tmp_path, {})


def test_the_environment_lies_over_the_file(tmp_path: pathlib.Path) -> None:
    read = load(
        tmp_path, toml(serve="port = 1"), COVEY_SERVE__PORT="81", COVEY_REGIONS__ORDER='["x", "y"]', COVEY_X="1"
    )
    assert read.serve.port == 81
    assert read.regions.order == ("x", "y")


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [("COVEY_SERVE__PORT", "many", "serve.port"), ("COVEY_SERVE__PORTT", "1", "Did you mean 'port'?"),
     ("COVEY_SERVER__PORT", "1", "unknown key 'server'"), ("COVEY_REGIONS__ORDER", "[]", "no regions")],
)  # fmt: skip
def test_what_is_wrong_in_the_environment_is_refused(tmp_path: pathlib.Path, name: str, value: str, part: str) -> None:
    assert part in refusal(tmp_path, toml(), **{name: value})


def test_defaults_are_what_the_design_says(tmp_path: pathlib.Path) -> None:
    read = load(tmp_path, toml())
    assert (read.rollout.alpha, read.rollout.alpha_promote, read.rollout.min_devices) == (0.05, 0.01, 20)
    assert (read.rollout.shadow.min_days, read.rollout.canary.min_days) == (7, 3)
    assert read.serve.host == "127.0.0.1"
    assert read.models["sales"].metric_name == "log_loss"


def test_a_folder_without_a_project_says_how_to_make_one(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NotFoundError, match="covey init"):
        load_project(tmp_path, {})
    with pytest.raises(NotFoundError, match="covey init"):
        find_project(tmp_path)


def test_the_nearest_project_upwards_is_found(tmp_path: pathlib.Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "covey.toml").touch()
    (tmp_path / "a" / "covey.toml").touch()
    assert find_project(below) == tmp_path / "a"


def test_a_model_is_found_by_name_or_alone(tmp_path: pathlib.Path) -> None:
    project = builders.make_project(tmp_path / "p")
    assert project.model(None)[0] == project.model("sales")[0] == "sales"
    with pytest.raises(NotFoundError, match="Known are: sales"):
        project.model("sale")


@pytest.mark.parametrize("path", ["nowhere.toml", ".", "a\0b", "covey.toml/x"])
def test_a_feature_set_that_can_not_be_read_is_named(tmp_path: pathlib.Path, path: str) -> None:
    project = builders.make_project(tmp_path / "p")
    with pytest.raises(ConfigError, match="can not be read"):
        project.feature_set(path)


_NUMBER = "[models.sales.numbers.{}]\n{}"


def test_a_number_has_a_margin_and_the_rest_by_default(tmp_path: pathlib.Path) -> None:
    settings = load(tmp_path, toml() + _NUMBER.format("revenue", "margin = 0.5"))
    number = settings.models["sales"].numbers["revenue"]
    assert (number.direction, number.scale, number.margin, number.per, number.guardrail) == (
        "higher", 1.0, 0.5, "answer", "prove",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("revenue", "", "margin"),
        ("revenue", "margin = 0", "margin"),
        ("revenue", 'margin = 1\ndirection = "up"', "direction"),
        ("revenue", "margin = 1\nscale = 0", "scale"),
        ("Revenue", "margin = 1", "numbers"),
        ("memory_bytes", "margin = 1", "devices measure themselves"),
    ],
)
def test_a_number_that_could_not_be_judged_is_refused(tmp_path: pathlib.Path, name: str, text: str, part: str) -> None:
    assert part in refusal(tmp_path, toml() + _NUMBER.format(name, text))


@pytest.mark.parametrize(
    ("model", "lists", "part"),
    [
        ("", "length = 5", "models.sales.lists.item: no column names the items"),
        ('task = "multiclass"', 'item = "film"', "models.sales.lists.item: several classes have no one score"),
        ("", 'item = "sold"', "models.sales.lists.item: the label is not known when a list is made"),
        ("", 'item = "film"\nlength = 0', "models.sales.lists.length"),
        ("", 'item = "film"\nlength = 2049', "models.sales.lists.length"),
        ("", 'item = "film"\nmax_items = 16777217', "models.sales.lists.max_items"),
        ("", 'item = "film"\nbudget_bytes = -1', "models.sales.lists.budget_bytes"),
        ("", 'item = "film"\ncolumn = ["price"]', "models.sales.lists.column"),
    ],
)
def test_lists_that_can_not_be_made_are_refused(tmp_path: pathlib.Path, model: str, lists: str, part: str) -> None:
    text = toml(models__sales=model, models__sales__lists=lists)
    assert part in refusal(tmp_path, text)
