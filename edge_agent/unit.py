"""``covey-edge unit``: a systemd unit that gives the agent what it needs and nothing else."""

from __future__ import annotations

import pathlib
import re
import shlex
import typing

from shared.errors import UsageError

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_UNIT = """\
# Made by covey-edge unit. Install it:
#   covey-edge unit{again} | sudo tee /etc/systemd/system/{name}.service
#   sudo systemctl daemon-reload && sudo systemctl enable --now {name}
[Unit]
Description=Covey edge agent
Documentation=man:systemd.exec(5)
After=network.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
WatchdogSec=30
{joining}ExecStart={program} --store %S/{name} run{options}
Restart=always
RestartSec=2
TimeoutStopSec=30
KillMode=mixed
# Its few threads share one heap: half a megabyte less.
Environment=MALLOC_ARENA_MAX=1

# Who it is, and where it may write: its store, and a folder for a socket.
DynamicUser=yes
StateDirectory={name}
StateDirectoryMode=0700
RuntimeDirectory={name}
RuntimeDirectoryMode=0755
UMask=0077

# What it may use. It is short: files, loopback or the network, threads, and a child with limits.
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateTmp=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
DevicePolicy=closed
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# The sync child makes itself nice; the self-test limits its own memory.
SystemCallFilter=setpriority setrlimit prlimit64
{network}
[Install]
WantedBy=multi-user.target
"""
_JOINING = """\
LoadCredential=join-token:{token_file}
ExecStartPre={program} --store %S/{name} join {url} --token @%d/join-token --name %l --if-needed --wait 0
"""


def unit(
    *,
    program: str,
    name: str = "covey-edge",
    url: str = "",
    token_file: str = "",
    port: int | None = None,
    allow: typing.Sequence[str] = (),
) -> str:
    """Write a unit.

    Parameters
    ----------
    program : str
        Absolute path of ``covey-edge``.
    name : str
        Name of the service and of its folder under ``/var/lib``.
    url, token_file : str
        Cloud and join token, for a device that joins at its first start; neither for one that has joined.
    port : int, optional
        Where it answers.
    allow : sequence of str
        Addresses that it may speak with beside this machine, such as ``10.0.0.0/8``; everybody by default.

    Raises
    ------
    UsageError
        A value can not stand in a unit.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r:.60} is not a name of a service", field="--name", fix="Use a-z, 0-9, - and _.")
    if bool(url) != bool(token_file):
        raise UsageError("a device that joins needs both", field="--url, --token-file")
    for flag, text in (
        ("--url", url),
        ("--token-file", token_file),
        ("--program", program),
        *(("--allow", a) for a in allow),
    ):
        if any(character.isspace() or character in "%\"'\\$;" for character in text):
            raise UsageError(f"{text!r:.80} can not stand in a unit", field=flag)
    if not pathlib.PurePosixPath(program).is_absolute():
        raise UsageError(f"{program!r:.80} is not an absolute path", field="--program")
    said = {"url": url, "token-file": token_file, "port": port, "name": "" if name == "covey-edge" else name}
    again = "".join(f" --{key} {shlex.quote(str(value))}" for key, value in said.items() if value not in ("", None))
    again += "".join(f" --allow {one}" for one in allow)
    joining = _JOINING.format(program=program, name=name, url=url, token_file=token_file) if url else ""
    network = f"IPAddressDeny=any\nIPAddressAllow=localhost {' '.join(allow)}\n" if allow else ""
    options = "" if port is None else f" --port {port}"
    return _UNIT.format(program=program, name=name, again=again, joining=joining, options=options, network=network)
