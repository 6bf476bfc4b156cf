"""The dashboard in a real browser, on a real `covey serve`: calm, honest, live, and asking nobody else."""

from __future__ import annotations

import contextlib
import importlib.resources
import importlib.util
import json
import pathlib
import socket
import subprocess
import sys
import time
import typing
import urllib.request

import pytest

CHROMIUM = pathlib.Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip("there is no /usr/bin/chromium: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

_SPEC = importlib.util.spec_from_file_location("small_fleet", pathlib.Path(__file__).parents[1] / "small_fleet.py")
assert _SPEC is not None
assert _SPEC.loader is not None
small = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(small)

_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_WATCH = "document.addEventListener('securitypolicyviolation', e => console.error('policy: ' + e.violatedDirective))"


class Site(typing.NamedTuple):
    """A project, and the address at which it is served."""

    fleet: small.SmallFleet
    url: str
    rollout: int


class Tab:
    """A page of the browser that remembers what went wrong in it.

    Parameters
    ----------
    page : playwright page
        New.
    """

    def __init__(self, page: playwright.Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda err: self.complaints.append(str(err)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.add_init_script(_WATCH)

    def headline(self) -> str:
        return " ".join(self.page.inner_text("h1").split())


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "covey serve ended"
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz", timeout=2):
            return
        time.sleep(0.1)
    raise AssertionError("covey serve did not answer within a minute")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> typing.Iterator[Site]:
    folder = tmp_path_factory.mktemp("dashboard") / "project"
    fleet = small.SmallFleet(folder)
    rollout = fleet.canary()
    port = _free_port()
    command = [sys.executable, "-m", "cloud.cli", "--project", str(folder), "serve", "--no-worker", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}", process)
        yield Site(fleet, f"http://127.0.0.1:{port}", rollout)
    finally:
        process.terminate()
        process.wait(timeout=30)
        fleet.store.close()


@pytest.fixture(scope="module")
def browser() -> typing.Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=_FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: playwright.Browser) -> typing.Iterator[Tab]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    yield Tab(page)
    page.close()


def _paths(site: Site) -> list[str]:
    return ["/", "/rollouts", f"/rollouts/{site.rollout}", "/rollouts/1", "/rollouts/99"]


def test_the_headline_is_a_sentence_that_says_how_it_is(site: Site, tab: Tab) -> None:
    tab.page.goto(site.url)
    assert tab.headline() == "v1.1 is in West, 100 % of devices"
    assert tab.page.title().startswith("v1.1 is in West")


def test_pages_raise_no_complaint_and_ask_nobody_else(site: Site, tab: Tab) -> None:
    for path in _paths(site)[:-1]:
        tab.page.goto(site.url + path)
        tab.page.wait_for_timeout(2500)  # long enough for the page to ask for what has changed
    assert tab.complaints == []
    assert [url for url in tab.asked if not url.startswith(f"{site.url}/")] == []
    assert tab.asked.count(f"{site.url}/") >= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_in_light_and_dark_wide_and_narrow(
    site: Site, browser: playwright.Browser, tmp_path: pathlib.Path, scheme: typing.Literal["light", "dark"], width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    shades = {"light": "rgb(246, 244, 239)", "dark": "rgb(22, 21, 18)"}
    for i, path in enumerate(_paths(site)):
        page.goto(site.url + path)
        file = tmp_path / f"{i}.png"
        page.screenshot(path=str(file), full_page=True)
        assert file.stat().st_size > 5_000
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == shades[scheme]
    page.close()


def test_words_in_the_large_chart_keep_their_size_and_do_not_lie_on_each_other(
    site: Site, browser: playwright.Browser
) -> None:
    for width in (1280, 390):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(f"{site.url}/rollouts/{site.rollout}")
        boxes = page.eval_on_selector_all(
            "svg.band text",
            "all => all.filter(one => getComputedStyle(one).display !== 'none')"
            ".map(one => { const b = one.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; })",
        )
        assert len(boxes) > 5
        assert all(8 <= bottom - top <= 20 for _, top, _, bottom in boxes)
        assert all(right <= width for _, _, right, _ in boxes)
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 2 or b[3] <= a[1] + 2
                assert apart, (width, a, b)
        page.close()


def test_the_first_tab_stop_leads_to_the_content(site: Site, tab: Tab) -> None:
    tab.page.goto(site.url)
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.textContent") == "To the content"
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "main"


def test_on_paper_there_is_nothing_to_click(site: Site, tab: Tab) -> None:
    tab.page.goto(site.url)
    tab.page.emulate_media(media="print")
    assert not tab.page.is_visible("nav")
    assert not tab.page.is_visible("[data-live]")
    assert tab.page.is_visible("h1")


def test_a_hidden_page_stops_asking_and_asks_at_once_when_it_is_seen_again(site: Site, tab: Tab) -> None:
    tab.page.goto(site.url)
    hide = "v => { Object.defineProperty(document, 'hidden', {value: v, configurable: true});"
    hide += " document.dispatchEvent(new Event('visibilitychange')) }"
    tab.page.evaluate(hide, True)  # noqa: FBT003 - an argument of the script
    tab.page.wait_for_timeout(300)
    before = len(tab.asked)
    tab.page.wait_for_timeout(4500)
    assert len(tab.asked) == before
    with tab.page.expect_request(f"{site.url}/", timeout=1500):
        tab.page.evaluate(hide, False)  # noqa: FBT003 - an argument of the script


def test_axe_finds_nothing(site: Site, browser: playwright.Browser) -> None:
    axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    found = []
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
        for path in _paths(site):
            page.goto(site.url + path)
            page.evaluate(axe)
            for one in page.evaluate("axe.run().then(result => result.violations)"):
                found.append((scheme, path, one["id"], one["nodes"][0]["html"][:200]))  # noqa: PERF401 - reads better
        page.close()
    assert found == []


def test_what_happens_arrives_on_the_open_page_without_loading_it_again(site: Site, tab: Tab) -> None:
    path = f"{site.url}/rollouts/{site.rollout}"
    tab.page.goto(path)
    tab.page.evaluate("window.theSamePage = true")
    tab.page.click("details summary")
    _order(site, "pause")
    try:
        tab.page.wait_for_selector("h1:has-text('paused')", timeout=30_000)
        with urllib.request.urlopen(f"{path}.json", timeout=10) as reply:
            assert json.loads(reply.read())["paused"] is True
    finally:
        _order(site, "resume")
    assert tab.page.evaluate("window.theSamePage")
    assert tab.page.evaluate("document.querySelector('details').open"), "what a reader has opened stays open"
    assert tab.page.title().startswith("v1.1 is in West")
    assert "live, " in tab.page.inner_text("[data-live]")
    assert tab.complaints == []


def _order(site: Site, action: str) -> None:
    site.fleet.store.rollouts.order(site.rollout, action, actor="ada", reason="lunch")
    site.fleet.tick()
