"""A limit of the process's address space is looked at before libraries are loaded that need it."""

from __future__ import annotations

import resource

import pytest

from outlier_jupyter.errors import OptionError
from outlier_jupyter.system import address_space
from outlier_jupyter.system.address_space import LIBRARIES_NBYTES, LOADED_NBYTES, Room, rooms
from outlier_jupyter.system.memory_info import machine_memory
from tests.torture.child import run_child

GB = 10**9
LIMITED = """
import resource, sys
import outlier_jupyter
if sys.argv[1] == "loaded":
    outlier_jupyter.load
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = size + int(sys.argv[2])
resource.setrlimit(getattr(resource, sys.argv[3]), (limit, limit))
try:
    with outlier_jupyter.load("demo", cache_gb=0.002, kernels=sys.argv[4], quiet=True) as engine:
        engine.tokenizer.eos_token_ids = set()
        print(engine.generate("Hello", max_tokens=5).generated)
except outlier_jupyter.OutlierError as error:
    print(error)
"""


def limited(libraries: str, room: int, kind: str = "RLIMIT_AS", kernels: str = "auto") -> str:
    """What a process prints that loads and runs the demo with so much room."""
    ended = run_child("-c", LIMITED, libraries, str(room), kind, kernels, timeout_s=300)
    assert ended.failure() == ""
    return ended.output.strip()


@pytest.mark.parametrize("kernels", ["auto", "mlx"])
@pytest.mark.parametrize("libraries", ["none", "loaded"])
def test_a_load_without_address_space_is_refused_at_once(libraries, kernels):
    """It hung in the dynamic loader for 114 minutes, or was ended by LLVM or MLX."""
    found = limited(libraries, 346_000_000, kernels=kernels)
    assert found.startswith("ulimit -v leaves this process") and "raise that limit" in found


def test_a_limit_of_writable_memory_is_looked_at_too():
    """`ulimit -d` counts it alone, so less is enough."""
    assert limited("loaded", 10_000_000, "RLIMIT_DATA").startswith("ulimit -d leaves")


@pytest.mark.parametrize("kernels", ["auto", "mlx"])
def test_a_load_with_just_enough_runs(kernels):
    """What is refused below this bound is not refused for nothing above it."""
    assert limited("loaded", LOADED_NBYTES + 10_000_000, kernels=kernels) == "5"


def test_the_machine_has_no_more_memory_than_the_limit(monkeypatch):
    """So `auto`, `plan` and `resize` count with it."""
    monkeypatch.setattr("outlier_jupyter.system.memory_info.rooms", lambda: [Room(GB, 300, "-v")])
    assert machine_memory() == (GB, 300)


def test_room_is_what_the_limit_leaves(tmp_path, monkeypatch):
    """By the system's own count; where it has none, nothing is refused."""
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmSize:\t 400000 kB\nVmData:\t 100000 kB\n")
    limits = {resource.RLIMIT_AS: GB, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limits[kind], limits[kind]))
    assert rooms(status) == [Room(GB, GB - 400_000 * 1024, "-v")]
    assert rooms(tmp_path / "nothing") == []
    monkeypatch.setattr(address_space, "rooms", lambda: rooms(status))
    address_space.check_room(LIBRARIES_NBYTES)
    with pytest.raises(OptionError, match=r"ulimit -v leaves this process 590 MB"):
        address_space.check_room(LOADED_NBYTES)
