"""A generation lies ready, and answers when the owner's hours and the application allow it; not later than it must."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import pathlib
import threading
import typing

import pytest

from edge_agent.commands import open_sync
from edge_agent.config import UpdateSettings
from edge_agent.generation import Generations
from edge_agent.link import Link
from edge_agent.passes import Pass
from edge_agent.update.consent import Consent, ask_consent, in_window
from edge_agent.update.install import Installer, Outcome
from edge_agent.update.state import State
from edge_agent.update.trust import Repository, Where
from shared.errors import ConfigError
from tests import fakes

NOON = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


def silent(_url: str) -> str:
    return ""


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("02:00-05:00", ["02:00", "04:59"], ["01:59", "05:00", "12:00"]),
        ("22:00-04:30", ["22:00", "23:59", "00:00", "04:29"], ["04:30", "12:00", "21:59"]),
        ("00:00-23:59", ["00:00", "12:00"], ["23:59"]),
    ],
)
def test_a_window_may_reach_over_midnight_and_ends_before_its_end(
    window: str, inside: list[str], outside: list[str]
) -> None:
    for text in inside + outside:
        assert in_window(window, dt.time.fromisoformat(text)) is (text in inside), text


@pytest.mark.parametrize("window", ["02:00", "24:00-25:00", "2-5", "a-b", "02:00-03:00-04:00"])
def test_what_is_no_window_is_refused(window: str) -> None:
    with pytest.raises(ConfigError, match="is no window"):
        in_window(window, dt.time(1))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        *[
            (f'window = "{window}"', f"update: window: '{window}' is no window: write it like 02:00-05:00")
            for window in ("2 to 5", "29:00-30:00", "02:00-24:00", "02:00-02:00", "02:00-03:00-04:00", "02:00-03:00 ")
        ],
        ('hook = "http://evil.example/ask"', "update.hook"),
        ('hook = "https://127.0.0.1/ask"', "update.hook"),
        ("max_wait_s = -1.0", "update.max_wait_s"),
        ("max_wait_s = inf", "update.max_wait_s"),
        ("[sync]\ntimeout_s = 1e400", "sync.timeout_s"),
        ("[spool]\nfold_interval_s = 1e15", "spool.fold_interval_s"),
        ('[serve]\nsocket_mode = "777\\n"', "serve.socket_mode"),
        ('windows = "02:00-03:00"', "windows"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(tmp_path: pathlib.Path, text: str, key: str) -> None:
    layout = fakes.join(tmp_path / "store")
    layout.settings.write_text(f"[update]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        layout.load_settings({})
    assert key in str(caught.value)


def test_without_wishes_now_is_always_right() -> None:
    assert ask_consent(UpdateSettings(), ask=silent, now=NOON, waited_s=0.0) == Consent(granted=True)


def test_each_wish_can_say_not_now_and_names_itself(tmp_path: pathlib.Path) -> None:
    busy = tmp_path / "busy"
    busy.touch()
    hook = "http://127.0.0.1:9/may"
    for settings, said in [
        (UpdateSettings(window="02:00-05:00"), "it is 12:00 here, outside 02:00-05:00"),
        (UpdateSettings(lock_file=str(busy)), f"{busy} is there"),
        (UpdateSettings(hook=hook), "a customer pays"),
    ]:
        found = ask_consent(settings, ask=lambda url: "a customer pays" * (url == hook), now=NOON, waited_s=0.0)
        assert found == Consent(granted=False, reason=said)
    busy.unlink()
    free = UpdateSettings(window="11:00-13:00", lock_file=str(busy), hook=hook)
    assert ask_consent(free, ask=silent, now=NOON, waited_s=0.0).granted


def test_nobody_can_say_not_now_for_ever() -> None:
    settings = UpdateSettings(window="02:00-05:00", max_wait_s=100.0)
    assert not ask_consent(settings, ask=silent, now=NOON, waited_s=99.0).granted
    late = ask_consent(settings, ask=silent, now=NOON, waited_s=100.0)
    assert late.granted
    assert "in spite of: it is 12:00 here" in late.reason


class App(http.server.BaseHTTPRequestHandler):
    """An application that answers what its address says."""

    was_heard_out: typing.ClassVar[bool] = False

    def do_GET(self) -> None:
        status, *more = self.path.strip("/").split("/")
        self.send_response(int(status))
        if "cut" in more:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"a customer pays" if status == "409" and "cut" not in more else b"")
        with contextlib.suppress(OSError):
            for _ in range(100 if "more" in more else 0):
                self.wfile.write(b"!" * 1_000_000)
            type(self).was_heard_out = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def app() -> typing.Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), App) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "says"),
    [(200, ""), (204, ""), (404, ""), (500, ""), (302, ""), (409, "a customer pays"),
     (423, "the application answered 423"), (503, "the application answered 503")],
)  # fmt: skip
def test_an_application_objects_with_conflict_locked_or_unavailable(app: str, status: int, says: str) -> None:
    link = Link("http://127.0.0.1:9")
    assert link.objection(f"{app}/{status}") == says
    link.close()


def test_of_an_application_that_speaks_without_end_the_beginning_is_heard(app: str) -> None:
    link, App.was_heard_out = Link("http://127.0.0.1:9"), False
    heard = link.objection(f"{app}/409/more")
    assert (heard[:15], len(heard) <= 200, App.was_heard_out) == ("a customer pays", True, False)
    link.close()


def test_an_objection_counts_though_its_words_can_not_be_read(app: str) -> None:
    link = Link("http://127.0.0.1:9")
    assert link.objection(f"{app}/409/cut") == "the application answered 409"
    link.close()


def test_an_application_that_is_not_there_does_not_object() -> None:
    link = Link("http://127.0.0.1:9")
    assert link.objection("http://127.0.0.1:9/may") == ""
    link.close()


# ---- in an update


class Silent:
    """No agent runs."""

    def active(self) -> str:
        return ""

    def activate(self, digest: str) -> None:
        del digest


class Device:
    """A device whose owner's word is `says`."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.cloud = fakes.SignedRepository()
        self.layout = fakes.join(folder, root=self.cloud.root)
        self.generations: Generations = fakes.generations_of(self.layout)
        self.says = ""
        self.asked: list[float] = []

    def consent(self, waited_s: float) -> Consent:
        self.asked.append(waited_s)
        return Consent(granted=not self.says, reason=self.says)

    def update(self) -> Outcome:
        with contextlib.closing(State(self.layout.state_db)) as state:
            done = Installer(
                self.layout,
                self.layout.load_identity(),
                state=state,
                repository=Repository(self.layout.tuf, self.cloud.root, Where.below(fakes.URL), self.cloud.stream),
                server=Silent(),
                stream=self.cloud.stream,
                self_test=lambda _folder, _manifest: None,
                consent=self.consent,
            ).bring_up_to_date()
            if done.changed:
                state.mark(done.generation, "good")
            return done

    def publish(self, sequence: int, incumbent: str, candidate: str = "") -> None:
        for version in filter(None, (incumbent, candidate)):
            if f"bundles/{fakes.MODEL}/{version}/standard.json" not in self.cloud.signed["bundles"].targets:
                self.cloud.publish_bundle(fakes.make_bundle(version, slope=float(version[1:])))
        self.cloud.publish_channel(sequence, incumbent, candidate)

    def runs(self) -> str:
        return self.generations.read(self.generations.running()).models[0].incumbent


@pytest.fixture
def device(tmp_path: pathlib.Path) -> Device:
    made = Device(tmp_path / "store")
    made.says = "busy"
    made.publish(1, "v1")
    return made


def test_the_first_version_waits_for_nobody(device: Device) -> None:
    assert device.update().changed
    assert device.asked == []


def test_a_new_version_lies_ready_until_the_owner_agrees_and_is_not_fetched_again(device: Device) -> None:
    device.update()
    device.publish(2, "v2")
    waits = device.update()
    assert (waits.changed, device.runs()) == (False, "v1")
    assert waits.waits == "busy"
    device.cloud.fetched.clear()
    assert not device.update().changed
    assert not [path for path in device.cloud.fetched if path.startswith("blobs/")]
    assert 0.0 <= device.asked[0] <= device.asked[1]
    device.says = ""
    assert device.update().changed
    assert device.runs() == "v2"


def test_going_back_to_what_the_device_knows_never_waits(device: Device) -> None:
    device.update()
    device.says = ""
    device.publish(2, "v2")
    device.update()
    device.says, device.asked = "busy", []
    device.publish(3, "v1")
    assert device.update().changed
    assert (device.runs(), device.asked) == ("v1", [])


def test_a_candidate_is_a_new_version_too(device: Device) -> None:
    device.update()
    device.publish(2, "v1", "v2")
    assert device.update().waits == "busy"
    device.publish(3, "v1")
    assert not device.update().waits


def test_how_long_it_has_waited_survives_a_restart_and_begins_anew_with_another_generation(device: Device) -> None:
    device.update()
    with contextlib.closing(State(device.layout.state_db)) as state:
        first = state.ready_since("aa")
    with contextlib.closing(State(device.layout.state_db)) as state:
        assert state.ready_since("aa") == first
        assert state.ready_since("bb") >= first
        assert state.ready_since("aa") > first


def test_the_cloud_hears_that_a_device_waits_and_why(tmp_path: pathlib.Path) -> None:
    cloud, served, busy = fakes.SignedRepository(), tmp_path / "served", tmp_path / "busy"
    layout = fakes.join(tmp_path / "store", root=cloud.root)
    layout.settings.write_text(f'[update]\nlock_file = "{busy}"\n')

    def one_pass(sequence: int, version: str) -> tuple[Pass, str]:
        if f"bundles/{fakes.MODEL}/{version}/standard.json" not in cloud.signed["bundles"].targets:
            cloud.publish_bundle(fakes.make_bundle(version, slope=float(version[1:])))
        cloud.publish_channel(sequence, version)
        for path, data in cloud.files.items():
            (served / path).parent.mkdir(parents=True, exist_ok=True)
            (served / path).write_bytes(typing.cast("bytes", data))
        with open_sync(layout, source=served) as passing:
            return passing.one_pass(), passing.status().waits

    busy.touch()
    first, said = one_pass(1, "v1")
    assert (first.ok, first.changed, first.waits, said) == (True, True, "", "")
    second, said = one_pass(2, "v2")
    assert (second.ok, second.changed, second.waits, said) == (True, False, f"{busy} is there", f"{busy} is there")
    busy.unlink()
    third, said = one_pass(3, "v2")
    assert (third.ok, third.changed, third.waits, said) == (True, True, "", "")
