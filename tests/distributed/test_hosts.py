"""Hosts are named by the user, and ranks listen on their addresses alone."""

from __future__ import annotations

import json
import socket

import pytest

from outlier_jupyter.distributed.hosts import LOOPBACK, hosts_of
from outlier_jupyter.errors import OptionError
from outlier_jupyter.options import LoadOptions, make


@pytest.mark.parametrize("value", [3, "3", "localhost,localhost, localhost", ["localhost"] * 3])
def test_hosts_are_written_in_several_ways(value):
    """A number of processes, or names in a text or a list."""
    assert make(LoadOptions, {"hosts": value}).hosts == ("localhost",) * 3


def test_ranks_of_one_machine_listen_on_loopback_alone():
    """Each on a port of its own."""
    hosts = hosts_of(["localhost"] * 3)
    assert all(host.local and host.address.startswith(f"{LOOPBACK}:") for host in hosts)
    assert len({host.address for host in hosts}) == 3


def test_a_hostfile_of_mlx_names_machines_and_addresses(tmp_path):
    """Its addresses are listened on; this machine is known by its name."""
    file = tmp_path / "hosts.json"
    names = [
        {"ssh": socket.gethostname(), "ips": ["10.0.0.1"]},
        {"ssh": "other", "ips": ["10.0.0.2"]},
    ]
    for content in (names, {"hosts": names}):
        file.write_text(json.dumps(content))
        here, there = hosts_of((), str(file))
        assert (here.local, there.local) == (True, False)
        assert here.address.startswith("10.0.0.1:") and there.address.startswith("10.0.0.2:")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["localhost"], "name 2 to"),
        (["localhost"] * 65, "name 2 to"),
        (["localhost", "-oProxyCommand=x"], "is no host"),
        (["localhost", "two words"], "is no host"),
        (["localhost", "nowhere.invalid"], "no address that other machines reach"),
        (["127.0.0.2", "10.0.0.2"], "127.0.0.2, which other machines do not reach"),
    ],
)
def test_hosts_that_cannot_be_used_are_refused(names, what):
    """Too few, too many, options of ssh, and loopback together with other machines."""
    with pytest.raises(OptionError, match=what):
        hosts_of(names)


def test_a_hostfile_that_cannot_be_read_is_refused(tmp_path):
    """Absent, or of another form; names beside it are refused, too."""
    file = tmp_path / "hosts.json"
    with pytest.raises(OptionError, match="hostfile"):
        hosts_of((), str(file))
    file.write_text('["a", "b"]')
    with pytest.raises(OptionError, match="hostfile"):
        hosts_of((), str(file))
    with pytest.raises(OptionError, match="named twice"):
        hosts_of(["a", "b"], str(file))
