"""Ask for predictions from the command line: the running agent over HTTP, or a generation loaded in this process."""

from __future__ import annotations

import http.client
import json
import os
import time
import typing
import urllib.parse

from edge_agent.config import Layout
from edge_agent.files import BlobStore, lock
from edge_agent.generation import Generations
from edge_agent.predict.engine import ActiveModel, Engine
from edge_agent.predict.loaded import LoadedBundle
from edge_agent.predict.routes import Api, EventClock
from edge_agent.telemetry.recorder import Recorder
from shared.errors import ModelError, NotFoundError, UnreachableError

Reply = dict[str, typing.Any]
_OK = 200


def ask_agent(address: str, body: dict[str, object]) -> Reply:
    """Post to the running agent.

    Raises
    ------
    UnreachableError, ModelError
        It does not answer; or it refuses.
    """
    where = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "127.0.0.1", where.port, timeout=60)
    try:
        connection.request("POST", "/v1/predict", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        reply: Reply = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as err:
        raise UnreachableError(f"the agent on {address} does not answer: {err}") from err
    finally:
        connection.close()
    if response.status != _OK:
        raise ModelError(reply["error"])
    return reply


def ask_here(layout: Layout, body: dict[str, object]) -> Reply:
    """Load what `current` names and answer in this process, with records as if the agent had answered."""
    generations = Generations(layout.generations, layout.current, BlobStore(layout.blobs))
    identity = layout.load_identity()
    digest = generations.running()
    if not digest:
        raise NotFoundError("there is no model on this device yet", fix="Fetch one: covey-edge sync")
    with lock(layout.serve_lock):
        recorder = Recorder(layout, layout.load_settings(os.environ).spool.limit_bytes)
        engine = Engine(identity.device, layout.id_key.read_bytes(), recorder.record)
        generation = generations.read(digest)
        models = {}
        for entry in generation.models:
            bundles = {
                version: LoadedBundle(generations.version_folder(digest, entry.model, version), manifest)
                for (model, version), manifest in generations.manifests(digest).items()
                if model == entry.model
            }
            for bundle in bundles.values():
                bundle.load_model()
            models[entry.model] = ActiveModel(entry, bundles, identity.device)
        engine.activate(generation, models)
        clock = EventClock()
        response = Api(engine, clock, dict).handle("POST", "/v1/predict", json.dumps(body).encode())
        reply: Reply = json.loads(response.body)
        if response.status != _OK:
            raise ModelError(reply["error"])
        for prediction in response.after:
            engine.finish(prediction)
        if not generation.replay:
            recorder.fold(time.time())
        recorder.close()
    return reply
