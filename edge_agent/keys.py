"""``covey-edge key`` and ``rotate-key``: the device's own key."""

from __future__ import annotations

import argparse
import os

from edge_agent.commands import layout_of, print_out
from shared.errors import NotFoundError

Arguments = argparse.Namespace


def key(arguments: Arguments) -> int:
    """Print the public half of the device's key; made if there is none, so that it can be expected before it joins."""
    from edge_agent.device_key import key_bytes, load_key, new_key, public_hex
    from edge_agent.update.enrol import keep_key

    layout = layout_of(arguments)
    if not layout.device_key.exists():
        if layout.identity.exists():
            raise NotFoundError(f"{layout.device_key} is gone", fix="Restore it, or join with another --store.")
        layout.store.mkdir(parents=True, exist_ok=True)
        keep_key(layout, key_bytes(new_key()))
    made = public_hex(load_key(layout.device_key))
    print_out({"public_key": made}, [made], as_json=arguments.json)
    return 0


def rotate(arguments: Arguments) -> int:
    """Replace the device's key; nothing is delivered meanwhile."""
    from edge_agent.device_key import KeyFile
    from edge_agent.files import lock
    from edge_agent.link import Link

    layout = layout_of(arguments)
    identity, settings = layout.load_identity(), layout.load_settings(os.environ)
    with lock(layout.sync_lock, wait=True):
        keys = KeyFile(layout.device_key)
        link = Link(identity.cloud_url, identity.device, keys, timeout_s=settings.sync.timeout_s)
        try:
            made = link.rotate_key(keys)
        finally:
            link.close()
    print_out({"device": identity.device, "public_key": made}, [f"{identity.device}: {made}"], as_json=arguments.json)
    return 0
