"""Models by their Hugging Face id, against a hub on loopback, in processes of their own.

huggingface_hub reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported, so each of
these tests runs as a user's process would: a fresh Python with these variables set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from outlier_jupyter.testing import hollow_checkpoint
from tests.geometries import CONFIGS
from tests.loopback_hub import commit_of, serving

ASK = """
import json, sys
import outlier_jupyter
from outlier_jupyter.errors import OutlierError

def load(name, **options):
    with outlier_jupyter.load(name, cache_experts=6, **options) as engine:
        return engine.generate("abc", raw=True, max_tokens=3).tokens.tolist()

def plan(name, **options):
    found = outlier_jupyter.plan(name, **options)
    return [found.here, found.layers, found.experts_total, found.cold_per_token]

for what, name, options in json.loads(sys.argv[1]):
    try:
        said = [True, {"load": load, "plan": plan}[what](name, **options)]
    except OutlierError as error:
        said = [False, f"{type(error).__name__}: {error}"]
    print("said", json.dumps(said))
"""


@pytest.fixture(scope="module")
def models(tiny, checkpoint_of, tmp_path_factory):
    other = checkpoint_of(seed=5, shards=2)
    large = tmp_path_factory.mktemp("large") / "m"
    (tiny / "README.txt.bin").write_bytes(b"not needed")
    hollow_checkpoint(large, CONFIGS["Qwen3-30B-A3B"], shards=4)
    return {"org/tiny": {"main": tiny, "v2": other}, "org/large": {"main": large}}


@pytest.fixture
def hub(models):
    with serving(models) as hub:
        yield hub


@pytest.fixture
def ask(hub, tmp_path):
    """Call `load` and `plan` in a new process: (ok, value or sentence) of each, and stderr."""

    def ask(*wishes, home=tmp_path / "home", **environment):
        variables = {
            "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        } | environment  # fmt: skip
        command = [sys.executable, "-c", ASK, json.dumps(wishes)]
        out = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
        assert out.returncode == 0, out.stderr
        lines = [line for line in out.stdout.splitlines() if line.startswith("said ")]
        return [json.loads(line.removeprefix("said ")) for line in lines], out.stderr

    return ask


def test_a_model_is_downloaded_once_and_then_had_offline(hub, ask):
    """Only files that mlx-lm needs are downloaded; later runs use the cache, without network."""
    answers, progress = ask(["load", "org/tiny", {}], ["load", "org/tiny", {"revision": "v2"}])
    (ok, tokens), (ok_too, others) = answers
    assert ok and ok_too and len(tokens) == len(others) == 3 and tokens != others
    assert "Fetching" in progress
    assert not hub.sent("README.txt.bin")
    files = [a.path.rpartition("/")[2] for a in hub.requests if a.method == "GET" and a.sent]
    assert files.count("model.safetensors") == 1
    before = len(hub.requests)
    offline = {"HF_HUB_OFFLINE": "1"}
    answers, _ = ask(
        ["load", "org/tiny", {}], ["load", "org/tiny", {"revision": commit_of("v2")}],
        ["plan", "org/tiny", {}], ["load", "org/other", {}], ["plan", "org/large", {}], **offline,
    )  # fmt: skip
    assert answers[:2] == [[True, tokens], [True, others]] and answers[2][1][0] is True
    for ok, sentence in answers[3:]:
        assert not ok and sentence.startswith("ModelNotFound: ") and "\n" not in sentence
        assert "HF_HUB_OFFLINE is set; unset it once" in sentence
    assert len(hub.requests) == before


def test_quiet_shows_no_progress(ask):
    """`quiet` hides the bars of that download."""
    answers, progress = ask(["load", "org/tiny", {"quiet": True}])
    assert answers[0][0] and "Fetching" not in progress and "%" not in progress


def test_a_connection_that_breaks_is_taken_up_again(hub, ask):
    """An interrupted file is requested again in the same load, which then succeeds.

    (huggingface_hub resumes by range from its last whole 10 MB; this file is smaller.)
    """
    hub.cut["model.safetensors"] = 100_000
    (ok, tokens), *_ = ask(["load", "org/tiny", {}])[0]
    assert ok and len(tokens) == 3
    size = (hub.models["org/tiny"]["main"] / "model.safetensors").stat().st_size
    parts = [a.sent for a in hub.requests if a.path.endswith("model.safetensors") and a.sent]
    assert parts == [100_000, size]


def test_a_part_of_a_model_is_completed(hub, ask):
    """A failed download is one sentence, offline too; the next one downloads only the rest."""
    wish = ["load", "org/tiny", {"revision": "v2"}]
    hub.broken.add("model-00001.safetensors")
    (ok, sentence), *_ = ask(wish)[0]
    assert not ok and "ask again to go on with the download" in sentence and "\n" not in sentence
    (ok, sentence), *_ = ask(wish, HF_HUB_OFFLINE="1")[0]
    assert not ok and "only a part of org/tiny at revision 'v2' is in the cache" in sentence
    hub.broken.clear()
    hub.requests.clear()
    (ok, tokens), *_ = ask(wish)[0]
    assert ok and len(tokens) == 3
    assert hub.sent("model-00001.safetensors") and not hub.sent("model-00000.safetensors")


def test_a_plan_of_a_remote_model_requests_headers_alone(hub, ask):
    """Range requests read a few hundred kB of shards of 17 GB; nothing is downloaded."""
    ((ok, (here, layers, total, cold)), (ok_too, tiny)), _ = ask(
        ["plan", "org/large", {}], ["plan", "org/tiny", {"revision": "v2"}]
    )
    assert ok and not here and layers == 48
    assert total == 48 * 128 * 2_654_208 and cold == 48 * 8 * 2_654_208
    shards = [a for a in hub.requests if "org/large" in a.path and a.path.endswith(".safetensors")]
    assert len(shards) >= 4 and all(a.range.startswith("bytes=") for a in shards)
    assert hub.sent(".safetensors") < 1_500_000
    assert ok_too and tiny[:2] == [False, 3]


REFUSED = {
    "has no such repository, or not for you; check the spelling": ("org/nothing", {}),
    "org/tiny has no revision 'v9': give a branch": ("org/tiny", {"revision": "v9"}),
    "it is no repository's name; check the spelling": ("not a name", {}),
    "there is no folder ./org/tiny: check the path": ("./org/tiny", {}),
}


def test_an_unavailable_model_is_one_sentence(ask):
    """The same sentence from `load` and from `plan`."""
    wishes = [[what, *wish] for wish in REFUSED.values() for what in ("load", "plan")]
    answers, _ = ask(*wishes)
    for message, (ok, sentence) in zip([m for m in REFUSED for _ in "ab"], answers, strict=True):
        assert not ok and message in sentence and "\n" not in sentence
        assert sentence.startswith("ModelNotFound: ")


def test_a_hub_that_is_not_there_is_one_sentence(ask):
    """Nothing listens at the address, which the sentence names."""
    answers, _ = ask(["load", "org/tiny", {}], ["plan", "org/tiny", {}],
                  HF_ENDPOINT="http://127.0.0.1:9")  # fmt: skip
    for ok, sentence in answers:
        assert not ok and "http://127.0.0.1:9 did not give it" in sentence
        assert "\n" not in sentence
