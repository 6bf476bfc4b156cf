"""The pages for people: Fleet and Rollout, made on the server; each is JSON too, under its address with ``.json``."""

from __future__ import annotations

import hashlib
import threading
import time
import typing

import flask

from cloud.rollout import apart, course, events, history, overview, story
from cloud.web import drawings, formats
from cloud.web.context import Context, context
from cloud.web.guard import local_only
from shared import __version__
from shared.errors import WireError

Row = dict[str, typing.Any]
blueprint = flask.Blueprint("pages", __name__)
blueprint.before_request(local_only)
_KEPT = "covey-pages"
_KEPT_RATIO = 10.0  # a view that took a second is kept for ten: pages never take more than a tenth of a core
_TICKS_MISSED = 10


class Kept:
    """Views, each kept for a while so that many open pages cost no more than one.

    Parameters
    ----------
    ratio : float
        How long a view is kept, in units of the time it took to make.
    """

    def __init__(self, ratio: float = _KEPT_RATIO) -> None:
        self._ratio = ratio
        self._lock = threading.Lock()
        self._views: dict[typing.Hashable, tuple[float, Row]] = {}

    def get(self, key: typing.Hashable, make: typing.Callable[[], Row]) -> Row:
        """Return a view, made anew if it is too old."""
        with self._lock:
            until, view = self._views.get(key, (0.0, {}))
            began = time.monotonic()
            if began < until:
                return view
            view = make()
            took = time.monotonic() - began
            self._views = {other: kept for other, kept in self._views.items() if kept[0] > began}
            self._views[key] = (began + took * (1.0 + self._ratio), view)
            return view


@blueprint.before_request
def _readable() -> None:
    """Refuse a query that is no text before anything looks for a word in it."""
    try:
        _ = flask.request.args
    except UnicodeDecodeError as err:
        raise WireError("it is not UTF-8 text", field="query", fix="Write it percent-encoded.") from err


@blueprint.record
def _set_up(state: flask.blueprints.BlueprintSetupState) -> None:
    app = typing.cast("flask.Flask", state.app)
    app.extensions[_KEPT] = Kept()
    app.jinja_env.filters.update(formats.FILTERS | {"title_of": story.stage_title, "place": story.place})
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True


def _kept(key: typing.Hashable, make: typing.Callable[[Context], Row]) -> Row:
    """Return a view with what every page says, at most as old as it was costly."""
    here = context()
    kept: Kept = flask.current_app.extensions[_KEPT]
    return kept.get(key, lambda: make(here) | _about(here))


def _about(here: Context) -> Row:
    """Return what every page says: the project, the moment, and whether a worker is at work."""
    now, ticked_s = time.time(), float(here.store.get_meta("ticked_s"))
    patience_s = max(_TICKS_MISSED * here.project.settings.serve.tick_interval_s, 2.0)
    return {
        "project": here.project.settings.project.name,
        "covey": __version__,
        "database": here.project.database.name,
        "worker_at_work": now - ticked_s < patience_s,
    }


# ---- views


def fleet_view(here: Context, name: str = "") -> Row:
    """Return what the Fleet page shows, of one model: by default of the one that was rolled out last."""
    view = overview.fleet(here.project, here.store)
    newest = _newest(here, name)
    model = name or (newest["model"] if newest else next(iter(here.project.settings.models), ""))
    return view | {
        "headline": story.fleet_headline(view, newest),
        "rollout": newest,
        "next": story.next_steps(newest) if newest else [],
        "history": history.fleet_history(here.project, here.store, model) if model else None,
        "events": events.events(here.store),
        "has_data": any(here.store.datasets.parts(m.data or n) for n, m in here.project.settings.models.items()),
    }


def _newest(here: Context, name: str) -> Row | None:
    """Return the rollout that is running, or else the newest."""
    rows = [row for row in here.store.rollouts.all() if name in ("", row["model"])]
    rows.sort(key=lambda row: row["state"] != "running")
    return course.course(here.project, here.store, rows[0]["id"]) if rows else None


def rollout_view(here: Context, number: int) -> Row:
    """Return what the Rollout page shows."""
    view = course.course(here.project, here.store, number)
    said = {"headline": story.rollout_headline(view), "next": story.next_steps(view)}
    return view | said | {"set_apart": apart.set_apart(view)}


def rollouts_view(here: Context) -> Row:
    """Return all rollouts, newest first."""
    rows = [
        overview.brief(here.store, row) | {"why": row["why"], "role": history.roles(here.store, row["model"])}
        for row in here.store.rollouts.all()
    ]
    return {"headline": story.rollouts_headline(rows), "rollouts": rows}


# ---- routes


@blueprint.get("/")
def fleet() -> flask.Response:
    """Show the fleet."""
    return _page("fleet.html", _fleet_view())


@blueprint.get("/fleet.json")
def fleet_json() -> flask.Response:
    """Return the Fleet page as JSON."""
    return flask.jsonify(_fleet_view())


def _fleet_view() -> Row:
    name = flask.request.args.get("model", "")
    if name:
        context().project.model(name)
    return _kept(("fleet", name), lambda here: fleet_view(here, name))


@blueprint.get("/rollouts")
def rollouts() -> flask.Response:
    """List the rollouts."""
    return _page("rollouts.html", _kept("rollouts", rollouts_view))


@blueprint.get("/rollouts.json")
def rollouts_json() -> flask.Response:
    """Return the list of rollouts as JSON."""
    return flask.jsonify(_kept("rollouts", rollouts_view))


@blueprint.get("/rollouts/<int:number>")
def rollout(number: int) -> flask.Response:
    """Show one rollout."""
    return _page("rollout.html", _kept(("rollout", number), lambda here: rollout_view(here, number)))


@blueprint.get("/rollouts/<int:number>.json")
def rollout_json(number: int) -> flask.Response:
    """Return one rollout as JSON."""
    return flask.jsonify(_kept(("rollout", number), lambda here: rollout_view(here, number)))


# ---- answers


def _page(template: str, view: Row, status: int = 200) -> flask.Response:
    """Make a page, or only its main part when the page itself asks for what has changed."""
    frame = "part.html" if flask.request.headers.get("HX-Request") == "true" else "layout.html"
    text = flask.render_template(template, frame=frame, view=view, draw=drawings)
    response = flask.Response(text, status, content_type="text/html; charset=utf-8")
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Vary"] = "HX-Request"
    response.set_etag(hashlib.sha256(text.encode()).hexdigest()[:32])
    return typing.cast("flask.Response", response.make_conditional(flask.request))


def wants_page() -> bool:
    """Whether whoever asked is a person in a browser, so that what is wrong is better said in a page."""
    request = flask.request
    is_data = request.path.startswith("/api/") or request.path.endswith(".json")
    return request.method == "GET" and not is_data and "text/html" in request.headers.get("Accept", "")


def problem_page(status: int, title: str, detail: str) -> flask.Response:
    """Say what is wrong in a page; it tells nothing else, since it may be shown to anybody."""
    text = flask.render_template("problem.html", frame="layout.html", view={"headline": title, "detail": detail})
    return flask.Response(text, status, content_type="text/html; charset=utf-8")
