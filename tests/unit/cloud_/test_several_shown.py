"""What people are shown of several candidates: pages, commands, and data for programs."""

from __future__ import annotations

import json
import typing

import flask.testing
import pytest

from cloud.cli.draw import rollout_lines
from cloud.cli.main import main
from cloud.enrol import create_session_key
from cloud.rollout import course, history, overview, story
from cloud.rollout.events import events
from cloud.web.app import create_app
from shared.errors import NotFoundError
from tests.unit.cloud_.simulated import MODEL, ORDER, Fleet

Make = typing.Callable[..., Fleet]
Row = dict[str, typing.Any]
Call = typing.Callable[..., tuple[int, str, str]]
CANARIES = "".join(f"canary {region}\n" for region in ORDER)


@pytest.fixture
def fleet(make_fleet: Make) -> Fleet:
    return make_fleet(n=2, canary="request_share = 0.2", rollout="max_days = 40")


@pytest.fixture
def under_way(fleet: Fleet) -> int:
    """Of three candidates one was dropped, one leads and one follows."""
    number = fleet.trial(also=2)
    fleet.gains = {"v2": 0.02, "v3": -1.0, "v4": 0.05}
    fleet.until(lambda: fleet.answering() == ["west"])
    fleet.days(1)
    return number


def client_of(fleet: Fleet) -> flask.testing.FlaskClient:
    """Serve the pages of a simulated project."""
    fleet.project.keys.mkdir(exist_ok=True)
    create_session_key(fleet.project.keys)
    return create_app(fleet.project, fleet.store).test_client()


def view_of(fleet: Fleet, number: int) -> Row:
    return course.course(fleet.project, fleet.store, number)


def test_each_candidate_has_a_line_with_its_band_and_the_reason_why_it_is_where_it_is(
    fleet: Fleet, under_way: int
) -> None:
    first, *rest = rollout_lines(overview.rollout(fleet.project, fleet.store, under_way))
    assert first.startswith("late  v1 -> v2, v4   running")
    lines = [line for line in rest if line.startswith("  arm ")]
    assert [line.split()[:4] for line in lines] == [
        ["arm", "1", "v2", "running"],
        ["arm", "2", "v3", "dropped"],
        ["arm", "3", "v4", "running"],
    ]
    assert "shadow: log_loss: roll back" in lines[1]
    assert "of 2 days" in lines[2]
    assert lines[0].split()[4] < "+0.03" < lines[2].split()[4] < "+0.08"


def test_programs_get_the_candidates_with_numbers(fleet: Fleet, under_way: int) -> None:
    view = view_of(fleet, under_way)
    assert json.loads(json.dumps(view)) == view
    by = {one["version"]: one for one in view["candidates"]}
    assert [by[v]["state"] for v in ("v2", "v3", "v4")] == ["running", "dropped", "running"]
    assert by["v4"]["low"] < by["v4"]["gain"] < by["v4"]["high"]
    assert by["v3"]["high"] < 0
    assert view["leader"] == {"arm": 3, "version": "v4"}
    assert view["tried"] == ["v2", "v4"]
    assert view["band"][-1]["gain"] == by["v4"]["gain"]
    assert history.roles(fleet.store, MODEL) == {
        "v1": "incumbent",
        "v2": "candidate",
        "v3": "candidate",
        "v4": "candidate",
    }


def test_sentences_speak_of_all_that_run(fleet: Fleet, under_way: int) -> None:
    view = view_of(fleet, under_way)
    assert story.rollout_headline(view) == "v2 and v4 are in West, 100\u00a0% of devices"
    assert any(
        said.startswith("If v2 or v4 proves worse at any look, it is dropped") for said in story.next_steps(view)
    )
    fleet.until(lambda: fleet.row(under_way)["state"] == "promoted")
    view = view_of(fleet, under_way)
    assert story.rollout_headline(view) == "v4 was promoted and answers everywhere; it was better than v2 and v3"
    assert [one["why"][0].partition(":")[0] for one in view["candidates"]][:2] == ["v4 was better", "shadow"]


def test_at_the_end_it_says_who_leads_and_what_evidence_is_needed_of_so_many(make_fleet: Make) -> None:
    fleet = make_fleet(canary="request_share = 0.2", min_devices=13)  # there are 12: nothing is ever promoted
    number = fleet.trial(also=1)
    fleet.gains = {"v2": 0.02, "v3": 0.05}
    fleet.until(lambda: bool(fleet.stages(number)["east"]["passed_s"]))
    fleet.days(1)
    view = view_of(fleet, number)
    (said,) = story.next_steps(view)
    assert said.startswith("Every stage has passed. Whichever of v2 or v3 gains most, now v3, is promoted when")
    assert "reaches 200; it is" in said
    assert all("no promotion with fewer than 13 devices" in "; ".join(one["why"]) for one in view["candidates"])


def test_the_page_has_a_table_of_candidates_and_one_candidate_has_none(fleet: Fleet, under_way: int) -> None:
    client = client_of(fleet)
    page = client.get(f"/rollouts/{under_way}").text
    assert 'id="h-several">Candidates' in page
    assert page.count("leads</span>") == page.count("dropped</span>") == page.count("runs</span>") == 1
    assert "v4 against v1" in page
    assert client.get("/rollouts").text.count('<span class="version candidate">v4</span>') == 1
    assert client.get("/").status_code == 200
    assert "h-several" not in client.get("/rollouts/1").text


def test_that_one_was_dropped_is_an_event(fleet: Fleet, under_way: int) -> None:
    assert under_way
    assert "late@v3 dropped, the others go on" in [event["said"] for event in events(fleet.store)]


def test_the_candidate_has_a_name_while_it_is_the_only_one(fleet: Fleet, under_way: int) -> None:
    with pytest.raises(NotFoundError, match="several candidates: v2, v4"):
        fleet.store.models.resolve(MODEL, "@candidate")
    fleet.gains["v2"] = -1.0
    fleet.until(lambda: fleet.candidates(under_way)["v2"] == "dropped")
    assert fleet.store.models.resolve(MODEL, "@candidate")["version"] == "v4"


def test_lists_are_shown_as_a_preference_and_never_beside_the_metric(make_fleet: Make) -> None:
    fleet = make_fleet(canary='mode = "interleave"\nrequest_share = 0.5', rollout="max_days = 40")
    number = fleet.trial()
    fleet.gain, fleet.liked = 0.9, {"v2": 0.15}
    fleet.until(lambda: bool(fleet.stages(number)["*"]["passed_s"]))
    view = view_of(fleet, number)
    assert (view["measure"]["name"], view["band"][-1]["gain"] > 0.8) == ("log_loss", True)
    fleet.until(lambda: view_of(fleet, number)["measure"]["name"] == "preference", most=4)
    view = view_of(fleet, number)
    assert (view["measure"]["name"], view["margin"]) == ("preference", 0.05)
    assert all(point["gain"] < 0.8 for point in view["band"])
    assert view["progress"]["counts"] == "lists"
    west = view["by_region"][0]
    assert west["n"] == view["band"][-1]["n"]
    fleet.until(lambda: fleet.row(number)["state"] == "promoted")
    client = client_of(fleet)
    assert "of lists in which people preferred one" in client.get(f"/rollouts/{number}").text


# ---- commands


@pytest.fixture
def call(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command on the project; return its status and what it printed."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["--project", str(fleet.project.folder), *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_several_are_started_listed_and_traced_from_the_command_line(fleet: Fleet, call: Call) -> None:
    fleet.install()
    for _ in range(3):
        fleet.version()
    start = ("rollout", "start", "v2", "--also", "v3", "--also", "v4", "--model", MODEL)
    assert call(*start, "--dry-run")[:2] == (0, "would roll late@v2, v3, v4 out:\nshadow\n" + CANARIES)
    status, out, _ = call(*start, "--json")
    assert (status, json.loads(out)) == (0, {"rollout": 2, "model": MODEL, "version": "v2", "also": ["v3", "v4"]})
    assert list(fleet.candidates(2).values()) == ["running"] * 3
    (listed, _) = json.loads(call("rollout", "list", "--json")[1])
    assert (listed["tried"], [one["arm"] for one in listed["candidates"]]) == (["v2", "v3", "v4"], [1, 2, 3])
    assert "v2, v3, v4" in call("rollout", "list")[1]
    fleet.gains = {"v2": -1.0, "v3": 0.02, "v4": 0.05}
    fleet.tick()
    fleet.until(lambda: fleet.candidates(2)["v2"] == "dropped")
    fleet.days(1)
    lineage = json.loads(call("model", "lineage", "--model", MODEL, "--json")[1])
    assert [one["rollout"] for one in lineage] == ["promoted", "dropped", "running", "running"]
    assert "late: v1, candidate v3, v4" in call("device", "show", "west-0")[1]


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("--also", "v2"), 2, "named twice"),
        (("--also", "v1"), 6, "is the incumbent already"),
        (("--also", "v9"), 5, "no version 'v9'"),
        (("--also", "v3", "--expedite", "--reason", "now"), 2, "can not say which of several is the best"),
    ],
)
def test_what_makes_no_sense_is_refused_on_one_line(
    fleet: Fleet, call: Call, words: tuple[str, ...], status: int, says: str
) -> None:
    fleet.install()
    for _ in range(2):
        fleet.version()
    ended, out, err = call("rollout", "start", "v2", "--model", MODEL, *words)
    assert (ended, out, err.count("\n")) == (status, "", 1)
    assert says in err
