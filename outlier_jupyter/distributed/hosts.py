"""The hosts that ranks run on, from names or from a hostfile of `mlx.launch`.

A rank listens for its neighbours on its own host's address alone: loopback where all ranks are on
this machine, else the address that the host's name has in the network.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import OptionError, brief, place, shown

LOOPBACK = "127.0.0.1"
LOOP = "127."
"""How the addresses of this machine alone begin."""
LOCAL = ("localhost", LOOPBACK)
PORT = 32323
"""The first port on other machines, as of `mlx.launch`; here the system chooses free ones."""
MOST = 64
"""The most ranks: a ring of more would wait longer than it saves."""


class Host(NamedTuple):
    """Where one rank runs.

    Attributes:
        name: as the user wrote it; ssh connects to it.
        address: `IP:port` that the rank listens on for its neighbours.
        local: whether it is this machine, where no ssh is needed.
    """

    name: str
    address: str
    local: bool


def hosts_of(names: Sequence[str], hostfile: str | None = None) -> list[Host]:
    """The hosts of the ranks, in order.

    Args:
        names: host names or IP addresses.
        hostfile: in place of names, the path of a hostfile of `mlx.launch`: a JSON list of
            `{"ssh": name, "ips": [address, …]}`.

    Raises:
        OptionError: fewer than two, too many, a name without an address, or no such hostfile.
    """
    if names and hostfile is not None:
        raise OptionError("the hosts are named twice: give hosts=… or hostfile=…")
    known = [(name, "") for name in names] if hostfile is None else _read(hostfile)
    if not 2 <= len(known) <= MOST:
        raise OptionError(
            f"{len(known)} host{'' if len(known) == 1 else 's'} cannot share a model: name 2 to "
            f"{MOST}, this machine as localhost or by its own name"
        )
    for name, _ in known:
        if name.startswith("-") or not name.strip() or any(c.isspace() for c in name):
            raise OptionError(f"{shown(name)} is no host: give names or addresses, as mac1.local")
    here = {*LOCAL, socket.gethostname(), socket.getfqdn()}
    if all(name in here for name, _ in known):
        ports = _free_ports(len(known))
        return [
            Host(name, f"{LOOPBACK}:{port}", True)
            for (name, _), port in zip(known, ports, strict=True)
        ]
    found = []
    for rank, (name, address) in enumerate(known):
        if name in LOCAL and not address:
            raise OptionError(
                f"{name} has no address that other machines reach: give this machine's own name, "
                f"{socket.gethostname()}"
            )
        found.append(Host(name, f"{address or _address(name)}:{PORT + rank}", name in here))
    near = [host for host in found if host.address.startswith(LOOP)]
    if near and len(near) < len(found):
        raise OptionError(
            f"{near[0].name} has the address {near[0].address.partition(':')[0]}, which other "
            "machines do not reach: give its address in the network (/etc/hosts may name another)"
        )
    return found


def _read(hostfile: str) -> list[tuple[str, str]]:
    """(name, first address) of each host."""
    file = Path(hostfile).expanduser()
    try:
        content: Any = json.loads(file.read_text())
        return [(str(each["ssh"]), str((each.get("ips") or [""])[0])) for each in _listed(content)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"hostfile={place(file)} cannot be used ({brief(error)}): give a JSON list of "
            '{"ssh": name, "ips": [address]}, as mlx.config writes it'
        ) from error


def _listed(content: Any) -> list[Any]:
    """The hosts of a hostfile, which newer ones keep below `hosts`."""
    found = content["hosts"] if isinstance(content, dict) else content
    return list(found)


def _address(name: str) -> str:
    try:
        return socket.gethostbyname(name)
    except OSError as error:
        raise OptionError(
            f"host {shown(name)} has no address ({brief(error)}): check the name, or give its IP"
        ) from error


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now."""
    open_sockets = [socket.socket() for _ in range(count)]
    try:
        for each in open_sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in open_sockets]
    finally:
        for each in open_sockets:
            each.close()
