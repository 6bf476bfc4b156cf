"""Make the web application: a thin front for static files, Flask for everything else."""

from __future__ import annotations

import logging
import os
import pathlib
import typing

import flask
import msgspec
import werkzeug.exceptions
import werkzeug.routing

from cloud.config import Project, load_project
from cloud.enrol import Sessions
from cloud.parent import call_when_parent_ends
from cloud.store.store import Store
from cloud.web import api, devices, pages
from cloud.web.front import Front
from shared import logs, protocol
from shared.errors import CoveyError
from shared.telemetry import MAX_BATCH_BYTES

log = logging.getLogger("covey.web")
PROJECT_VARIABLE = "COVEY_PROJECT_FOLDER"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'"
)
_SERVER_ERROR = 500


class _Number(werkzeug.routing.IntegerConverter):
    """A number in an address that a database can hold; a longer one is no address of ours."""

    regex = r"\d{1,15}"


def create_app(project: Project, store: Store | None = None) -> flask.Flask:
    """Make the Flask application.

    Parameters
    ----------
    project : Project
        Whose fleet it serves.
    store : Store, optional
        Opened if not given.
    """
    app = flask.Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BATCH_BYTES
    app.extensions["covey"] = {
        "project": project,
        "store": store or Store(project),
        "sessions": Sessions.of(project),
    }
    app.url_map.converters["int"] = _Number
    for blueprint in (devices.blueprint, api.blueprint, pages.blueprint):
        app.register_blueprint(blueprint)
    app.register_error_handler(CoveyError, _covey_error)
    app.register_error_handler(werkzeug.exceptions.HTTPException, _http_error)
    app.register_error_handler(Exception, _fault)
    app.after_request(_headers)
    return app


def wsgi() -> typing.Callable[..., typing.Iterable[bytes]]:
    """Make the WSGI application of the project that the environment names; Granian calls this in its worker."""
    logs.set_up(logging.INFO)
    call_when_parent_ends(lambda: os._exit(1))
    project = load_project(pathlib.Path(os.environ[PROJECT_VARIABLE]))
    return Front(typing.cast("typing.Any", create_app(project).wsgi_app), project.repository)


def _problem(code: str, status: int, title: str, detail: str, field: str = "") -> flask.Response:
    if pages.wants_page():
        return pages.problem_page(status, title, detail)
    body = msgspec.json.encode(protocol.problem(code, status, title, detail, field))
    return flask.Response(body, status, content_type="application/problem+json")


def _covey_error(err: Exception) -> flask.Response:
    assert isinstance(err, CoveyError)  # noqa: S101 - registered for nothing else
    title = (type(err).__doc__ or err.code).splitlines()[0]
    response = _problem(err.code, err.http_status, title, str(err), err.field)
    if err.retry:
        response.headers["Retry-After"] = "1"
    return response


def _http_error(err: Exception) -> flask.Response:
    assert isinstance(err, werkzeug.exceptions.HTTPException)  # noqa: S101 - registered for nothing else
    status = err.code or _SERVER_ERROR
    response = _problem(f"http-{status}", status, err.name, err.description or err.name)
    if isinstance(err, werkzeug.exceptions.MethodNotAllowed) and err.valid_methods:
        response.headers["Allow"] = ", ".join(err.valid_methods)
    return response


def _fault(err: Exception) -> flask.Response:
    log.error("a request failed", exc_info=err, extra={"path": flask.request.path})
    return _problem("internal", _SERVER_ERROR, "A fault of this server", "it is in the server's log; nothing was lost")


def _headers(response: flask.Response) -> flask.Response:
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "no-referrer")
    response.headers.setdefault("X-Frame-Options", "DENY")
    return response
