"""The pages for people: what they say in each state of a real project, and who may see them."""

from __future__ import annotations

import datetime as dt
import hashlib
import html.parser
import importlib.util
import itertools
import json
import pathlib
import re
import time
import typing

import flask.testing
import pytest

from cloud.cli.draw import rollout_lines
from cloud.config import load_project
from cloud.rollout import overview
from cloud.rollout.events import events
from cloud.web.app import create_app
from cloud.web.pages import Kept
from shared.errors import ConfigError

_FILE = pathlib.Path(__file__).parents[2] / "small_fleet.py"
_SPEC = importlib.util.spec_from_file_location("small_fleet", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
small = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(small)

Client = flask.testing.FlaskClient
Fleet = small.SmallFleet
_PAGES = ("/", "/rollouts", "/rollouts/1")


class Page(html.parser.HTMLParser):
    """What a reader meets: headings, text, ids, landmarks and drawings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def headline(client: Client, path: str = "/") -> str:
    found = re.search(r"<h1[^>]*>(.*?)</h1>", client.get(path).text, re.DOTALL)
    assert found, path
    return " ".join(found[1].split())


@pytest.fixture
def fleet(tmp_path: pathlib.Path) -> Fleet:
    return small.SmallFleet(tmp_path / "project")


@pytest.fixture
def client(fleet: Fleet) -> Client:
    app = create_app(fleet.project, fleet.store)
    app.extensions["covey-pages"] = Kept(ratio=0.0)  # nothing is kept: each test sees what it has just done
    return app.test_client()


# ---- what the Fleet page says


def test_an_empty_project_says_so_and_names_the_next_commands(client: Client) -> None:
    page = Page(client.get("/").text)
    assert headline(client) == "Nothing runs yet: no device has joined"
    for command in ("covey data add", "covey model train", "covey device token", "covey rollout start", "covey-edge"):
        assert command in page.text
    assert "No worker is at work" in page.text


def test_devices_without_a_model_are_counted(fleet: Fleet, client: Client) -> None:
    fleet.join()
    assert headline(client) == "4 devices joined; no model is on them yet"


def test_a_first_install_counts_its_regions(fleet: Fleet, client: Client) -> None:
    fleet.join()
    fleet.start(fleet.version())
    assert headline(client).startswith("v1 is being installed: 0 of 2 regions done")


def test_a_shadow_says_who_answers(fleet: Fleet, client: Client) -> None:
    fleet.shadow(days=2)
    assert headline(client) == "v1.1 is in shadow on 4 devices; v1 answers everywhere"
    page = Page(client.get("/").text).text
    assert "1 of 2 days" in page
    assert "then West opens" in page


def test_a_canary_says_where_it_is_and_on_what_share_of_devices(fleet: Fleet, client: Client) -> None:
    number = fleet.canary()
    assert headline(client) == "v1.1 is in West, 100 % of devices"
    assert headline(client, f"/rollouts/{number}") == "v1.1 is in West, 100 % of devices"


def test_a_stage_that_nobody_has_looked_at_yet_has_just_opened(fleet: Fleet, client: Client) -> None:
    number = fleet.shadow(days=3)
    stages = fleet.store.rollouts.stages(number)
    assert [bool(stage["opened_s"]) for stage in stages[:2]] == [True, True], (
        "opened by the tick that let the shadow pass"
    )
    assert headline(client) == "v1.1 is in West, which has just opened"


def test_a_paused_rollout_says_so_and_names_the_command_that_goes_on(fleet: Fleet, client: Client) -> None:
    number = fleet.canary()
    fleet.store.rollouts.order(number, "pause", actor="ada", reason="lunch")
    fleet.tick()
    page = Page(client.get(f"/rollouts/{number}").text).text
    assert headline(client).endswith("; paused")
    assert f"covey rollout resume {number}" in page
    assert "It is paused by ada: lunch. No further stage opens" in page
    lines = rollout_lines(overview.rollout(fleet.project, fleet.store, number))
    assert f"  paused by ada: lunch. Go on: covey rollout resume {number}" in lines


def test_silent_devices_are_in_the_headline(fleet: Fleet, client: Client) -> None:
    fleet.install()
    fleet.store.db.connection.execute("update devices set seen_s = 1 where device = 'e1'")
    assert headline(client) == "v1 answers everywhere; 1 device of 4 silent"


def test_labels_of_devices_are_counted(fleet: Fleet, client: Client) -> None:
    fleet.install()
    assert "store:" not in Page(client.get("/").text).text
    for name, store in (("w1", "flagship"), ("w2", "outlet"), ("e1", "outlet")):
        fleet.store.fleet.label(name, {"store": store})
    assert "store: outlet 2, flagship 1" in Page(client.get("/").text).text
    devices = {row["device"]: row["labels"] for row in client.get("/api/v1/devices").get_json()["devices"]}
    assert devices == {"w1": {"store": "flagship"}, "w2": {"store": "outlet"}, "e1": {"store": "outlet"}, "e2": {}}


def test_a_promoted_version_answers_everywhere(fleet: Fleet, client: Client) -> None:
    fleet.install()
    assert headline(client) == "v1 answers everywhere"


def test_the_cards_show_the_last_seven_days(fleet: Fleet, client: Client) -> None:
    fleet.shadow()
    page = Page(client.get("/").text).text
    assert "90.0 %" in page  # answers from the table
    assert "0.26 ms" in page  # the 95th percentile lies in the bin that ends there
    assert "0.500" in page  # the metric


def test_versions_that_the_registry_does_not_know_are_not_drawn(fleet: Fleet, client: Client) -> None:
    first = fleet.install()
    fleet.say("w1", small.Said(small.FIRST_DAY + 1, first))
    fleet.say("w2", small.Said(small.FIRST_DAY + 1, "<script>"))
    view = client.get("/fleet.json").json
    assert view is not None
    assert {name for day in view["history"]["regions"][0]["share"] for name in day["versions"]} == {first}
    assert "<script>" not in client.get("/").text


@pytest.mark.parametrize("day", [small.FIRST_DAY + 400, 2_940_000])
def test_a_device_whose_clock_is_wrong_by_years_neither_stretches_the_charts_nor_breaks_the_page(
    fleet: Fleet, client: Client, day: int
) -> None:
    version = fleet.install()
    fleet.day(small.Said(small.FIRST_DAY + 1, version))
    before = client.get("/fleet.json").get_json()["history"]["days"]
    fleet.say("w1", small.Said(day, version))
    assert client.get("/").status_code == 200
    assert client.get("/fleet.json").get_json()["history"]["days"] == before


def test_the_trouble_of_a_device_is_an_event_and_its_text_is_escaped(fleet: Fleet, client: Client) -> None:
    first = fleet.install()
    for day in (1, 2):
        fleet.say("w1", small.Said(small.FIRST_DAY + day, first), event="update-refused")
    fleet.store.audit.add("data add", "<b>rows</b>", actor="ada")
    page = client.get("/").text
    assert "w1: update refused" in page
    assert "2 times since" in Page(page).text
    assert "<b>rows</b>" not in page


@pytest.mark.parametrize(
    ("kind", "tone"), [("delta-unused", "bad"), ("damaged", "bad"), ("repaired", ""), ("committed", None)]
)
def test_what_is_trouble_stands_out_among_the_events_and_what_is_routine_is_left_out(
    fleet: Fleet, kind: str, tone: str | None
) -> None:
    fleet.say("w1", small.Said(small.FIRST_DAY + 1, fleet.install()), event=kind)
    tones = {row["said"]: row["tone"] for row in events(fleet.store)}
    assert tones.get(f"w1: {kind.replace('-', ' ')}") == tone


def test_an_order_that_was_not_carried_out_is_no_event_of_its_own_kind(fleet: Fleet) -> None:
    fleet.install()
    fleet.store.rollouts.order(1, "abort", actor="ada", reason="too late")
    fleet.tick()
    newest = events(fleet.store)[0]
    assert newest["said"] == "Rollout abort: rollout 1 was asked for, and not done: it is promoted"
    assert (newest["reason"], newest["tone"]) == ("too late", "")


# ---- what the Rollout page says


def test_a_rolled_back_version_says_that_nobody_answered_with_it(fleet: Fleet, client: Client) -> None:
    number = fleet.shadow(gain=-0.2, days=6, override="it was urgent")
    path = f"/rollouts/{number}"
    assert fleet.store.rollouts.get(number)["state"] == "rolled_back"
    assert headline(client) == "v1.1 was rolled back in shadow; no device answered with it"
    page = Page(client.get(path).text).text
    assert "Rolled back by itself on" in page
    assert "A gate had refused v1.1. Somebody overrode it: it was urgent." in page
    assert "every device went back to v1" in page
    assert "covey rollout pause" not in page


def test_the_band_of_a_rolled_back_rollout_lies_below_zero(fleet: Fleet, client: Client) -> None:
    number = fleet.shadow(gain=-0.2, days=6)
    view = client.get(f"/rollouts/{number}.json").json
    assert view is not None
    assert view["band"][-1]["high"] < 0 <= view["band"][-2]["high"]


def test_a_canary_page_shows_band_guardrails_devices_and_verdicts(fleet: Fleet, client: Client) -> None:
    number = fleet.canary()
    page = Page(client.get(f"/rollouts/{number}").text)
    for words in ("Failed or slow answers", "Device errors, of those that tried", "Log loss in West", "Verdicts"):
        assert words in page.text
    drawn = [one["aria-label"] or "" for one in page.all("svg") if one.get("class") == "band"]
    assert len(drawn) == 1
    assert drawn[0].startswith("v1.1 against v1, log loss, above 0 is better: +0.05")
    assert f"covey rollout abort {number}" in page.text


def test_a_canary_page_names_the_control_group_and_pinned_devices_that_are_left_out(
    fleet: Fleet, client: Client
) -> None:
    number = fleet.canary()
    assert "pinned" not in client.get(f"/rollouts/{number}").text
    fleet.store.pins.set("w1", small.MODEL, "v1", actor="ada", reason="a <b>test</b>")
    fleet.store.db.connection.execute(
        "update rollouts set plan = json_set(plan, '$.region', json('{\"east\": {\"control_share\": 0.2}}'))"
    )
    page = client.get(f"/rollouts/{number}").text
    assert "Pinned, and counted in no stage: w1." in page
    assert "Control group, without the candidate until it is promoted: 20% of east." in page


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("rollback", "breached"),
        ("promote", "proven harmless"),
        ("continue", "holds, not proven"),
        ("", "no answer yet"),
    ],
)
def test_a_guardrail_says_whether_it_is_proven_and_not_only_that_nothing_is_known(
    fleet: Fleet, client: Client, word: str, says: str
) -> None:
    number = fleet.canary()
    (newest,) = fleet.store.db.rows(
        "select id, inputs from verdicts where rollout = ? order by id desc limit 1", (number,)
    )
    inputs = json.loads(newest["inputs"])
    for one in inputs["guardrails"].values():
        one["decision"] |= {"word": word, "numbers": {"standard_error": 0.1} if word else {}}
    fleet.store.db.connection.execute("update verdicts set inputs = ? where id = ?", (json.dumps(inputs), newest["id"]))
    view = client.get(f"/rollouts/{number}.json").json
    assert view is not None
    assert (view["guardrails"]["answers"]["word"], view["guardrails"]["latency"]["word"]) == (word, word)
    assert Page(client.get(f"/rollouts/{number}").text).text.count(says) >= 2


def test_once_every_stage_has_passed_the_newest_band_comes_from_the_pairs(fleet: Fleet, client: Client) -> None:
    number = fleet.shadow(gain=-0.005, days=4)  # a little worse: it goes on, and promotion needs much evidence
    before = client.get(f"/rollouts/{number}.json").json
    fleet.store.db.connection.execute("update stages set opened_s = 1, passed_s = 1, verdict = 'PASS'")
    fleet.store.set_meta("event_s", (small.FIRST_DAY + 30) * 86_400.0)
    after = client.get(f"/rollouts/{number}.json").json
    assert before is not None
    assert after is not None
    assert after["band"][-1]["day"] > before["band"][-1]["day"]
    assert after["band"][-1]["n"] > before["band"][-1]["n"]
    assert "promoted when the evidence" in after["next"][0]


def test_a_first_install_has_nothing_to_compare(fleet: Fleet, client: Client) -> None:
    fleet.install()
    page = Page(client.get("/rollouts/1").text)
    assert headline(client, "/rollouts/1") == "v1 was installed and answers everywhere"
    assert "Guardrails" not in page.text
    assert "2 of 2 online devices verified" in page.text


def test_the_list_counts_rollouts_by_how_they_ended(fleet: Fleet, client: Client) -> None:
    assert headline(client, "/rollouts") == "No rollout was started yet"
    assert "covey rollout start" in client.get("/rollouts").text
    fleet.shadow()
    assert headline(client, "/rollouts") == "2 rollouts: 1 running, 1 promoted"


def test_an_unknown_rollout_is_a_page_for_people_and_a_problem_for_programs(client: Client) -> None:
    page = client.get("/rollouts/99", headers={"Accept": "text/html"})
    assert page.status_code == 404
    assert "no rollout 99" in page.text
    for path, accept in (("/rollouts/99.json", "text/html"), ("/rollouts/99", "*/*")):
        problem = client.get(path, headers={"Accept": accept})
        assert problem.status_code == 404
        assert problem.mimetype == "application/problem+json"
        assert json.loads(problem.data)["type"].endswith("not-found")


# ---- how a page is made


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/rollouts/9223372036854775808", 404),
        (f"/rollouts/{'9' * 5000}.json", 404),
        ("/api/v1/rollouts/9223372036854775808", 404),
        ("/?model=\xe9", 400),
        ("/rollouts?\xff", 400),
        ("/fleet.json?model=\xff", 400),
        ("/?model=%ff", 404),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_and_is_no_fault_of_the_server(
    fleet: Fleet, client: Client, path: str, status: int
) -> None:
    del fleet
    path, _, query = path.partition("?")
    reply = client.get(path, environ_overrides={"QUERY_STRING": query})
    assert (reply.status_code, reply.get_json()["status"]) == (status, status), reply.text


def test_every_page_is_json_too(fleet: Fleet, client: Client) -> None:
    fleet.canary()
    for path in ("/fleet.json", "/rollouts.json", "/rollouts/1.json", "/rollouts/2.json"):
        reply = client.get(path)
        assert reply.status_code == 200
        assert reply.json
        assert reply.json["headline"] in client.get(path.removesuffix(".json").replace("/fleet", "/")).text


def test_the_page_asks_only_for_its_main_part_and_hears_when_nothing_changed(fleet: Fleet, client: Client) -> None:
    fleet.shadow()
    whole = client.get("/")
    part = client.get("/", headers={"HX-Request": "true"})
    assert "<main" in whole.text
    assert "<main" not in part.text
    assert part.text.lstrip().startswith("<title>")
    assert part.headers["Vary"] == "HX-Request"
    again = client.get("/", headers={"HX-Request": "true", "If-None-Match": part.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")


def test_nothing_on_a_page_needs_more_than_the_strict_policy_allows(fleet: Fleet, client: Client) -> None:
    fleet.canary()
    for path in (*_PAGES, "/rollouts/2"):
        reply = client.get(path)
        page = Page(reply.text)
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        for tag, attributes in page.tags:
            assert "style" not in attributes, tag
            assert not [name for name in attributes if name.startswith(("on", "hx-on"))], tag
        assert all(script.get("src") for script in page.all("script"))
        links = [one.get("href") or one.get("src") or "" for _, one in page.tags]
        assert not [link for link in links if "//" in link]


def test_headings_go_down_one_step_at_a_time_and_ids_stand_once(fleet: Fleet, client: Client) -> None:
    fleet.canary()
    for path in (*_PAGES, "/rollouts/2"):
        page = Page(client.get(path).text)
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
        ids = [one["id"] for _, one in page.tags if "id" in one]
        assert len(ids) == len(set(ids))
        named = {one["aria-labelledby"] for _, one in page.tags if "aria-labelledby" in one}
        assert named <= set(ids)


def test_every_drawing_is_named_in_words_or_hidden_from_readers(fleet: Fleet, client: Client) -> None:
    fleet.canary()
    for path in (*_PAGES, "/rollouts/2"):
        for one in Page(client.get(path).text).all("svg"):
            inner = one.get("preserveaspectratio") == "none" and "class" not in one
            assert inner or one.get("aria-label") or one.get("aria-hidden") == "true", one


def test_static_files_come_from_this_server_and_htmx_is_the_one_that_is_on_record(client: Client) -> None:
    for name in ("covey.css", "live.js", "htmx.min.js", "mark.svg"):
        with client.get(f"/static/{name}") as reply:
            assert reply.status_code == 200
    folder = pathlib.Path(create_app.__code__.co_filename).parent / "static"
    digest = hashlib.sha256((folder / "htmx.min.js").read_bytes()).hexdigest()
    assert digest in (folder / "VENDORED.md").read_text()
    assert (folder / "htmx.LICENSE.txt").read_text().startswith("Zero-Clause BSD")


def test_a_view_that_was_costly_is_kept_and_one_that_was_cheap_is_made_again() -> None:
    made: list[int] = []

    def costly() -> dict[str, typing.Any]:
        made.append(1)
        time.sleep(0.05)
        return {"n": len(made)}

    kept = Kept(ratio=10.0)
    assert kept.get("a", costly) == {"n": 1}
    assert kept.get("a", costly) == {"n": 1}
    assert kept.get("b", costly) == {"n": 2}
    cheap, count = Kept(ratio=0.0), itertools.count()
    assert [cheap.get("a", lambda: {"n": next(count)})["n"] for _ in range(3)] == [0, 1, 2]


# ---- who may see them


@pytest.mark.parametrize("path", ["/", "/fleet.json", "/rollouts", "/api/v1/fleet", "/api/v1/devices"])
def test_people_on_other_machines_are_told_how_they_may_see_pages(client: Client, path: str) -> None:
    reply = client.get(path, environ_overrides={"REMOTE_ADDR": "10.1.2.3"})
    problem = json.loads(reply.data)
    assert reply.status_code == 403
    assert problem["type"].endswith("not-local")
    assert '[serve] pages = "all"' in problem["detail"]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_people_on_this_machine_see_pages_over_any_loopback_address(client: Client, address: str) -> None:
    assert client.get("/", environ_overrides={"REMOTE_ADDR": address}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("covey.localhost", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
        ("10.0.0.7:8080", 403),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(client: Client, host: str, status: int) -> None:
    assert client.get("/", headers={"Host": host}).status_code == status
    assert client.get("/api/v1/fleet", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "Via"])
def test_what_a_proxy_passes_on_is_not_taken_for_local(client: Client, header: str) -> None:
    reply = client.get("/", headers={header: "10.0.0.1"})
    assert reply.status_code == 403
    assert header in json.loads(reply.data)["detail"]


def test_the_refusal_for_people_tells_nothing_of_the_project(fleet: Fleet, client: Client) -> None:
    fleet.install()
    page = client.get("/", headers={"Accept": "text/html"}, environ_overrides={"REMOTE_ADDR": "10.1.2.3"})
    assert page.status_code == 403
    assert "v1" not in Page(page.text).text
    assert "small" not in Page(page.text).text


def test_devices_and_health_checks_are_never_asked_where_they_are(client: Client) -> None:
    elsewhere = {"REMOTE_ADDR": "10.1.2.3", "HTTP_HOST": "cloud.example"}
    assert client.get("/healthz", environ_overrides=elsewhere).status_code == 200
    assert client.post("/api/v1/devices/w1/nonce", environ_overrides=elsewhere).status_code == 200


def test_the_setting_opens_pages_to_all(tmp_path: pathlib.Path) -> None:
    fleet = small.SmallFleet(tmp_path / "project", serve='pages = "all"')
    client = create_app(fleet.project, fleet.store).test_client()
    elsewhere = {"REMOTE_ADDR": "10.1.2.3", "HTTP_HOST": "cloud.example"}
    assert client.get("/", environ_overrides=elsewhere).status_code == 200
    assert client.get("/api/v1/fleet", environ_overrides=elsewhere).status_code == 200


def test_the_configured_host_is_a_name_of_this_machine(tmp_path: pathlib.Path) -> None:
    fleet = small.SmallFleet(tmp_path / "project", serve='host = "covey.lan"')
    client = create_app(fleet.project, fleet.store).test_client()
    assert client.get("/", headers={"Host": "covey.lan:8080"}).status_code == 200


def test_another_word_for_who_may_see_pages_is_refused(tmp_path: pathlib.Path) -> None:
    fleet = small.SmallFleet(tmp_path / "project")
    file = fleet.project.folder / "covey.toml"
    file.write_text(file.read_text().replace("[serve]", '[serve]\npages = "some"'))
    with pytest.raises(ConfigError, match="pages"):
        load_project(fleet.project.folder)


def test_dates_on_pages_are_event_days(fleet: Fleet, client: Client) -> None:
    fleet.shadow()
    first = dt.date(1970, 1, 1) + dt.timedelta(days=small.FIRST_DAY)
    assert f"{first.day} {first:%b} {first.year}" in Page(client.get("/").text).text
