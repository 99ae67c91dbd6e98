"""Folders as users have them: each is read, or refused with one sentence that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from pathlib import Path

import psutil
import pytest

import outlier_jupyter
from outlier_jupyter import load, plan
from outlier_jupyter.engine.prompts import context_of
from outlier_jupyter.errors import CheckpointError, ModelNotFound, OutlierError, UnsupportedModel
from tests.broken_folders import broken, edited, irregular

DEMO = Path(outlier_jupyter.__file__).parent / "demo"
LONGEST = 300


@pytest.fixture
def folder(tmp_path):
    """A copy of the demo model, which tests change."""
    return Path(shutil.copytree(DEMO, tmp_path / "model", copy_function=shutil.copyfile))


def answer(model) -> str:
    """A short answer of the model."""
    with load(model, cache_gb=0.002, quiet=True) as engine:
        return engine.generate("What is an expert?", max_tokens=6).text


def refused(model, kind, *words: str) -> None:
    """`load` and `plan` raise `kind`, in one sentence that contains `words`."""
    for call in (lambda: load(model, quiet=True), lambda: plan(model)):
        with pytest.raises(kind) as caught:
            call()
        assert len(str(caught.value)) <= LONGEST
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "is empty"),
        (["x.gguf"], "GGUF"),
        (["adapters.safetensors", "adapter_config.json"], "adapters alone"),
        (["pytorch_model.bin"], "may run code"),
        (["notes.txt"], "no config.json"),
    ],
)
def test_a_folder_of_something_else_says_what_it_holds(tmp_path, names, words):
    """The error names what is there: nothing, GGUF, adapters, PyTorch's files or other files."""
    for name in names:
        (tmp_path / name).write_text("{}")
    refused(tmp_path, CheckpointError, words, tmp_path.name)


def test_the_index_decides_which_shards_are_read(folder):
    """A stale shard changes nothing; the error names a missing one."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    (folder / "model.safetensors").write_bytes(b"left from an earlier download")
    (folder / "model-old.safetensors").write_bytes(b"left as well")
    assert answer(folder) == answer("demo")
    index.write_text(json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}}))
    refused(folder, CheckpointError, "model-00002-of-00002.safetensors", "index.json")


@pytest.mark.parametrize("name", ["x [4bit]", "with * and ?", "Ünïcode", os.fsdecode(b"b\xe9")])
def test_a_path_may_hold_any_characters(tmp_path, name):
    """Glob characters, other scripts and invalid UTF-8 work, and a saved run opens again."""
    to = tmp_path / name
    shutil.copytree(DEMO, to, copy_function=shutil.copyfile)
    with load(to, cache_gb=0.002, quiet=True) as engine:
        run = engine.generate("What is an expert?", max_tokens=6)
    assert run.text == answer("demo")
    str(run.trace.info.model).encode()  # can be printed
    assert run.save(tmp_path / "run.safetensors").exists()


def test_a_byte_order_mark_is_passed_by(folder):
    """A byte order mark, which some editors write, is skipped."""
    config = folder / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert answer(folder) == answer("demo")


def test_a_folder_without_a_tokenizer_is_refused(folder):
    """`load` refuses it before reading anything; `plan` needs no tokenizer."""
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        load(folder, quiet=True)
    assert plan(folder).layers


def test_rope_parameters_are_read_as_transformers_5_writes_them(folder):
    """The model answers the same as with the older names."""

    def renamed(parsed):
        parsed["rope_parameters"] = {"rope_theta": parsed.pop("rope_theta"), "rope_type": "default"}

    edited("config.json", renamed)(folder)
    assert answer(folder) == answer("demo")


def test_yarn_makes_the_context_longer():
    """The context length is the factor times the original context length."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = {"max_position_embeddings": 40960, "rope_scaling": yarn}
    assert context_of(config) == 131072
    assert context_of({"max_position_embeddings": 163840, "rope_scaling": yarn}) == 163840
    assert context_of({"max_position_embeddings": 40960, "rope_scaling": None}) == 40960


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_pipe_is_not_waited_for(folder, name):
    """The error says that it is not a regular file."""
    irregular(name)(folder)
    with pytest.raises(CheckpointError, match="no regular file"):
        load(folder, quiet=True)


CODE = "import pathlib; pathlib.Path(__file__).with_name('ran').touch(); raise SystemExit('ran')"


@pytest.mark.parametrize(
    ("file", "parsed"),
    [
        ("config.json", {"model_file": "custom.py"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["custom.Custom", None]}}),
    ],
)
def test_code_of_a_folder_is_never_run_without_the_option(folder, monkeypatch, file, parsed):
    """The code is not run and there is no prompt for consent: one sentence names the option."""
    (folder / "custom.py").write_text(CODE)
    edited(file, lambda was: was | parsed)(folder)
    monkeypatch.setattr(sys, "stdin", None)  # a prompt for input fails
    refused(folder, UnsupportedModel, "trust_remote_code=True", file)
    assert not (folder / "ran").exists()


def test_a_known_model_that_brings_code_is_run_without_it(folder, monkeypatch):
    """`auto_map` names code for other programs; a known type runs without it or a consent."""
    (folder / "custom.py").write_text(CODE)
    more = {"auto_map": {"AutoConfig": "custom.Custom", "AutoModelForCausalLM": "custom.Custom"}}
    edited("config.json", lambda was: was | more)(folder)
    monkeypatch.setattr(sys, "stdin", None)
    assert answer(folder) == answer("demo")
    assert not (folder / "ran").exists()


def test_a_tokenizer_that_is_all_code_is_refused_as_code(folder):
    """The error is not about a missing tokenizer.json: copying one would not help."""
    (folder / "tokenizer.json").unlink()
    file = folder / "tokenizer_config.json"
    parsed = json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": ["custom.Custom", None]}}
    file.write_text(json.dumps(parsed))
    refused(folder, UnsupportedModel, "trust_remote_code=True", "tokenizer_config.json")


def test_code_that_is_trusted_is_run(folder):
    """Only with the option the code runs; here it raises, and the error says so."""
    (folder / "custom.py").write_text("raise ValueError('this is the code')")
    edited("config.json", lambda was: was | {"model_file": "custom.py"})(folder)
    with pytest.raises(UnsupportedModel):
        load(folder, quiet=True)
    with pytest.raises(UnsupportedModel, match="this is the code"):
        load(folder, quiet=True, trust_remote_code=True)


def test_a_folder_that_is_gone_is_not_found(tmp_path):
    """A missing folder given as a path is ModelNotFound."""
    with pytest.raises(ModelNotFound):
        load(tmp_path / "nothing", quiet=True)


@pytest.mark.filterwarnings("ignore")
def test_every_broken_folder_is_met_with_one_sentence(tmp_path):
    """It works, or one of our errors names a file or key; no file or thread stays open."""
    process = psutil.Process()
    answer("demo")  # files and threads that are opened once
    files, threads = process.num_fds(), threading.active_count()
    memory, met, bad = process.memory_info().rss, 0, []
    for name, folder in broken(DEMO, tmp_path):
        sys.stderr.write(f"{name}\n")  # names the folder if one ends the process
        try:
            answer(folder)
        except OutlierError as error:
            met += 1
            if len(str(error).replace(str(tmp_path), "folder")) > LONGEST:
                bad.append((name, f"{len(str(error))} characters", str(error)))
        except Exception as error:
            bad.append((name, type(error).__name__, str(error)[:200]))
    assert not bad, "\n".join(map(str, bad))
    assert met >= 100
    assert process.num_fds() <= files + 2
    assert threading.active_count() <= threads
    assert process.memory_info().rss - memory < 150_000_000
