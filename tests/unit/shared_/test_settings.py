"""Settings: default < file < environment; every error names file, line, key and the nearest known key."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import settings
from shared.errors import ConfigError, PlanError


class Serve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Part of a file."""

    host: str = "127.0.0.1"
    port: typing.Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8765


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part that repeats."""

    region: str
    share: float = 0.5


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file."""

    serve: Serve = Serve()
    stage: tuple[Stage, ...] = ()
    models: dict[str, Stage] = {}


def read(text: str, environ: dict[str, str] | None = None) -> File:
    data = settings.overlay_environment(settings.parse_toml(text, "edge.toml"), environ or {})
    return settings.convert(data, File, source="edge.toml", text=text)


def test_the_file_is_over_the_default_and_the_environment_over_the_file() -> None:
    assert read("").serve.port == 8765
    assert read("[serve]\nport = 1").serve.port == 1
    assert read("[serve]\nport = 1", {"COVEY_SERVE__PORT": "2"}).serve.port == 2
    assert read("", {"COVEY_SERVE__PORT": "2", "COVEY_SERVE__HOST": "::1"}).serve == Serve(port=2, host="::1")


def test_only_variables_with_the_prefix_and_two_underscores_count() -> None:
    environ = {
        "COVEY_STORE": "x",
        "SERVE__PORT": "2",
        "COVEY_PORT": "3",
        "covey_serve__port": "4",
        "XCOVEY_SERVE__PORT": "5",
    }
    assert read("", environ) == File()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8080", 8080), ("0.5", 0.5), ("true", True), ('"8080"', "8080"), ("eu-1", "eu-1"), ("", ""), ("08", "08"),
        ("[1, 2]", [1, 2]), ("{a = 1}", {"a": 1}), ("a = 1", "a = 1"), ("1\nb = 2", "1\nb = 2"),
        ("[" * 5000, "[" * 5000),
    ],
)  # fmt: skip
def test_a_variable_is_read_as_toml_where_it_is_toml_and_as_text_otherwise(text: str, value: object) -> None:
    assert settings.overlay_environment({}, {"COVEY_A__B": text}) == {"a": {"b": value}}


def test_the_environment_reaches_down_several_tables_and_leaves_the_file_alone() -> None:
    data: dict[str, typing.Any] = {"a": {"b": {"c": 1, "d": 2}}, "x": 1}
    merged = settings.overlay_environment(data, {"COVEY_A__B__C": "9", "COVEY_X__Y": "z"})
    assert merged == {"a": {"b": {"c": 9, "d": 2}}, "x": {"y": "z"}}
    assert data == {"a": {"b": {"c": 1, "d": 2}}, "x": 1}


TEXT = """\
# port = 7 in a comment is nothing
[serve]
host = "x = 1"

[[stage]]
region = "north"
[[stage]]   # the second
region = "south"
  share = 0.25
[models.late]
region = "east"
[models."a-b"]
region = "west"
"""


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ('host = "x = 1"', "hots = 1", "edge.toml line 3: serve.hots: unknown key 'hots'. Did you mean 'host'?"),
        ('host = "x = 1"', "zzz = 1", "edge.toml line 3: serve.zzz: unknown key 'zzz'. Take it out."),
        ('host = "x = 1"', "host = 7", "edge.toml line 3: serve.host: expected `str`, got `int`. Change the value."),
        ('host = "x = 1"', "port = 70000", "edge.toml line 3: serve.port: expected `int` <= 65535. Change the value."),
        (
            'host = "x = 1"',
            "port = true",
            "edge.toml line 3: serve.port: expected `int`, got `bool`. Change the value.",
        ),
        ("[serve]", "[srve]", "edge.toml line 2: srve: unknown key 'srve'. Did you mean 'serve'?"),
        ('region = "south"', "", "edge.toml line 7: stage[1].region: the key 'region' is missing. Add it."),
        ('region = "south"', "region = 1", "edge.toml line 8: stage[1].region: expected `str`, got `int`"),
        ("share = 0.25", 'share = "a"', "edge.toml line 9: stage[1].share: expected `float`, got `str`"),
        ("share = 0.25", "shade = 1", "edge.toml line 9: stage[1].shade: unknown key 'shade'. Did you mean 'share'?"),
    ],
)
def test_an_error_names_file_line_key_and_fix(before: str, after: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(TEXT.replace(before, after))
    assert str(caught.value).startswith(says)


def test_the_text_that_the_errors_are_made_from_is_good() -> None:
    found = read(TEXT)
    assert [stage.region for stage in found.stage] == ["north", "south"]
    assert found.models["a-b"].region == "west"


def test_an_error_that_comes_from_the_environment_names_no_line_of_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        read("", {"COVEY_SERVE__PORT": "many"})
    assert str(caught.value) == "edge.toml: serve.port: expected `int`, got `str`. Change the value."


class Shop(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part below a name that people choose."""

    tills: dict[typing.Annotated[str, msgspec.Meta(pattern=r"^[a-z]+\Z")], tuple[Stage, ...]] = {}
    kind: typing.Literal["small", "large"] = "small"

    def __post_init__(self) -> None:
        if "closed" in self.tills:
            raise ValueError("tills: as is said - at `$.elsewhere`, nobody is at till 'closed'.")


class Town(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file with names in it."""

    shop: dict[str, Shop] = {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[shop.b]\ntills = { own = 3 }", "shop.b.tills.own: expected `array`, got `int`. Change the value."),
        ("[shop.b]\ntills = { own = [{}] }", "shop.b.tills.own[0].region: the key 'region' is missing. Add it."),
        ('[shop.b]\ntills = { own = [{ region = "x", share = "y" }] }', "shop.b.tills.own[0].share: expected `float`"),
        ("[shop.b]\ntills = { OWN = [] }", "shop.b.tills.OWN: expected `str` matching regex"),
        ("[shop]\nb = 3", "shop.b: expected `object`, got `int`. Change the value."),
        ("[shop.b]\ntils = 3", "shop.b.tils: unknown key 'tils'. Did you mean 'tills'?"),
        ('[shop."b.c d"]\nkind = 3', "shop.b.c d.kind: expected `str`, got `int`"),
        ("[shop.b]\ntills = { closed = [] }", "shop.b: tills: as is said - at `$.elsewhere`, nobody is at"),
    ],
)  # fmt: skip
def test_a_name_that_people_chose_is_part_of_the_path(text: str, says: str) -> None:
    text = f"[shop.a]\ntills = {{ own = [] }}\n{text}" if text.startswith("[shop.") else text
    data = settings.parse_toml(text, "town.toml")
    with pytest.raises(ConfigError) as refused:
        settings.convert(data, Town, source="town.toml", text=text)
    assert says in str(refused.value)


def test_a_long_value_is_not_said_again_in_full() -> None:
    text = f'[shop.a]\nkind = "{"x" * 10_000}"'
    with pytest.raises(ConfigError, match=r"line 2: shop\.a\.kind: invalid enum value 'xxx") as refused:
        settings.convert(settings.parse_toml(text, "town.toml"), Town, source="town.toml", text=text)
    assert len(str(refused.value)) < 300


def test_the_caller_chooses_the_class_of_the_error() -> None:
    with pytest.raises(PlanError):
        settings.convert({"x": 1}, File, source="plan", error=PlanError)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("serve.host", 3), ("serve", 2), ("stage[0].region", 6), ("stage[1].region", 8), ("stage[1].share", 9),
        ("stage[1].nothing", 7), ("models.late.region", 11), ("models.a-b.region", 13), ("nothing", 0), ("", 0),
    ],
)  # fmt: skip
def test_a_path_is_found_on_its_line(path: str, line: int) -> None:
    assert settings.locate(TEXT, path) == line


@given(st.text(), st.text())
def test_looking_for_a_line_never_fails(text: str, path: str) -> None:
    assert 0 <= settings.locate(text, path) <= len(text.splitlines())


@given(st.text())
def test_any_text_is_toml_or_a_config_error(text: str) -> None:
    try:
        assert isinstance(settings.parse_toml(text, "f"), dict)
    except ConfigError as err:
        assert err.field == "f"  # noqa: PT017 - either is right
