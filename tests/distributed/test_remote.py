"""Ranks on other hosts are started by ssh's command line, run here by a program that stands for it.

It drops ssh's options and the host, and runs the command as sshd does: by a shell, in another
folder, with a new environment.
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import outlier_jupyter
from outlier_jupyter.distributed import hosts, launch
from outlier_jupyter.errors import RankLost
from tests.models import checkpoint

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="here each host has an address of its own that is loopback"
)
STAND_IN = """#!/bin/sh
while :; do case "$1" in -o) shift 2 ;; -*) shift ;; *) break ;; esac; done
host=$1
shift
cd /
exec 3<&0
env -i HOME="$HOME" PATH=/usr/bin:/bin sh -c "$*" <&3 3<&- &
echo "$host $!" >> {log}
wait $!
status=$?
[ $status -gt 128 ] && exit 255
exit $status
"""
"""ssh's status is 255 where a signal ended the command."""
NAMES = ("near.test", "far.test")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return checkpoint("qwen3_moe", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def put_ssh(tmp_path, monkeypatch):
    """Puts a shell script as `ssh` first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(script: str) -> None:
        (folder / "ssh").write_text(script)
        (folder / "ssh").chmod(0o755)

    return put


@pytest.fixture
def log(tmp_path, put_ssh):
    """The file where the program that stands for ssh writes a line for each host."""
    file = tmp_path / "hosts.log"
    put_ssh(STAND_IN.format(log=shlex.quote(str(file))))
    return file


@pytest.fixture
def addresses(monkeypatch):
    """An address for each name, of which other processes are unlikely to use the ring's ports."""
    draw = random.SystemRandom()
    found = {
        name: f"127.{draw.randint(1, 254)}.{draw.randint(0, 255)}.{n}"
        for n, name in enumerate(NAMES, 1)
    }
    monkeypatch.setattr(hosts.socket, "gethostbyname", found.__getitem__)
    return found


def started(log: Path) -> dict[str, int]:
    """Host → process of its rank."""
    return {host: int(pid) for host, pid in map(str.split, log.read_text().splitlines())}


def ended(pid: int) -> bool:
    """Whether the process is gone within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def run(engine):
    engine.tokenizer.eos_token_ids = set()
    return engine.generate("What is it?", raw=True, max_tokens=5, temperature=1, seed=7)


@pytest.mark.parametrize("by", ["names", "hostfile"])
def test_ranks_of_other_hosts_give_the_tokens_of_one_process(by, model, tmp_path, log, addresses):
    """Two by their names; and one of a hostfile, beside this machine. They end with the engine."""
    with outlier_jupyter.load(model, cache_experts=12) as engine:
        expected = run(engine)
    there: dict[str, object] = {"hosts": list(NAMES)}
    if by == "hostfile":
        file = tmp_path / "hosts.json"
        names = zip((socket.gethostname(), NAMES[1]), addresses.values(), strict=True)
        file.write_text(json.dumps([{"ssh": name, "ips": [address]} for name, address in names]))
        there = {"hostfile": str(file)}
    with outlier_jupyter.load(model, cache_experts=6, **there) as engine:
        found = run(engine)
        ranks = started(log)
        shown = str(engine.status())
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert np.array_equal(found.trace.logprobs, expected.trace.logprobs, equal_nan=True)
    assert set(found.trace.reads["rank"].tolist()) == {0, 1}
    assert set(ranks) == (set(NAMES) if by == "names" else {NAMES[1]})
    assert "rank 1    far.test" in shown
    assert all(ended(pid) for pid in ranks.values())


def test_a_rank_that_is_killed_on_its_host_is_named(model, log, addresses):
    """ssh says no more than that it was lost; the other one ends, too."""
    with outlier_jupyter.load(model, hosts=list(NAMES), cache_experts=6) as engine:
        pids = started(log)
        os.kill(pids["far.test"], signal.SIGKILL)
        with pytest.raises(RankLost, match=r"rank 1 \(far.test\) was ended by a signal there, or"):
            run(engine)
    assert all(ended(pid) for pid in pids.values())


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("echo 'ssh: connect to host far.test port 22: Connection refused' >&2; exit 255",
         r"is not reached by ssh \(ssh: connect to host far.test port 22: Connection refused; "
         r"`ssh (near|far).test true` must need no password\), so all ranks were ended"),
        ("echo 'Warning: a new host' >&2; echo 'Permission denied (publickey).' >&2; exit 255",
         r"by ssh \(Permission denied \(publickey\).; "),
        ("exit 255", r"is not reached by ssh \(`ssh (near|far).test true` must"),
        ("echo Welcome to this host; sleep 9",
         r"sent what is no message \(.*; `ssh (near|far).test true` must print nothing\)"),
    ],
    ids=["refused", "denied", "silent", "greeting"],
)  # fmt: skip
def test_a_host_that_is_not_reached_is_one_sentence(script, what, model, put_ssh, addresses):
    """It quotes ssh's last line, and says what must work."""
    put_ssh(f"#!/bin/sh\n{script}\n")
    with pytest.raises(RankLost, match=what) as error:
        outlier_jupyter.load(model, hosts=list(NAMES), cache_experts=6)
    assert "\n" not in str(error.value)


def test_a_host_without_this_python_is_one_sentence(model, log, addresses, monkeypatch):
    """The shell's line names what is not there; and there may be no ssh here."""
    monkeypatch.setattr(launch.sys, "executable", "/nowhere/python")
    with pytest.raises(RankLost, match=r"ended with status 127 \(.*/nowhere/python.*not found\)"):
        outlier_jupyter.load(model, hosts=list(NAMES), cache_experts=6)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RankLost, match=r"near\.test .*check that ssh is installed"):
        outlier_jupyter.load(model, hosts=list(NAMES), cache_experts=6)


def test_a_rank_whose_connection_is_gone_ends():
    """Its output and its standard error are both closed when it answers a ping."""
    ours, theirs = socket.socketpair()
    reads, writes = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", launch.PROGRAM], stdin=theirs.fileno(), stdout=writes, stderr=writes
    )
    theirs.close()
    os.close(writes)
    os.close(reads)
    connection = launch.Connection(ours, 10)
    try:
        connection.send({"do": "ping"})
        assert process.wait(60) == 1
    finally:
        process.kill()
        connection.close()
