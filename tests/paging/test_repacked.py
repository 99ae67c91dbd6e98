"""A repacked model has bit-identical logits, with one read for each miss."""

from __future__ import annotations

import copy
import shutil
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as load_unpaged
from mlx_lm.utils import _get_classes as classes_of

import outlier_jupyter
from outlier_jupyter.engine import choose_reader as reads
from outlier_jupyter.engine import repack as repacking
from outlier_jupyter.errors import CheckpointError, OptionError, ReadFailed
from outlier_jupyter.options import READERS
from outlier_jupyter.paging import slot_bank
from outlier_jupyter.paging.slot_bank import StagedSlotBank
from outlier_jupyter.residency import ExpertKey
from outlier_jupyter.testing import FaultyReader, tiny_checkpoint
from tests import models
from tests.inspection import inside, pager_of, reader_of, reading_threads
from tests.layouts import LAYOUTS, everywhere, taken
from tests.paging.test_exact import logits, prompt
from tests.paging.test_formats import logits as any_logits
from tests.paging.test_layouts import PUBLISHED, published


@pytest.fixture
def own(tiny, tmp_path):
    """A copy of the tiny model, in a folder that tests may write to."""
    return shutil.copytree(tiny, tmp_path / "model")


@pytest.mark.parametrize("slots", [1, 3, 8, 24])
@pytest.mark.parametrize("reader", READERS)
def test_logits_from_repacked_experts_are_exact(own, slots, reader):
    """At every cache size and with every reader, prefill and decode are bit-identical."""
    outlier_jupyter.repack(own, quiet=True)
    reference, _ = load_unpaged(str(own))
    with outlier_jupyter.load(own, cache_experts=slots, reader=reader) as engine:
        assert "repacked, one read each" in engine.status().reader_note
        for length in (1, 70):
            expected = logits(reference, prompt(length))
            assert np.array_equal(logits(engine.model, prompt(length)), expected)


def test_each_miss_is_one_read(own):
    """A repacked model makes one read per missing expert, others one per tensor of the expert."""
    counts = {}
    for repacked in ("off", "auto"):
        with outlier_jupyter.load(own, cache_experts=5, repacked=repacked) as engine:
            pager = pager_of(engine)
            pager.reader = FaultyReader(pager.reader, lambda where: False)
            run = engine.generate("count the reads", max_tokens=10)
            counts[repacked] = (pager.reader.reads, len(run.trace.reads))
        outlier_jupyter.repack(own, quiet=True)
    assert counts["auto"][0] == counts["auto"][1] > 50
    assert counts["off"] == (9 * counts["auto"][1], counts["auto"][1])


def test_slots_begin_on_pages(own):
    """Each tensor's first slot begins on a page, so that whole sectors are read directly."""
    with outlier_jupyter.load(own, cache_experts=5) as engine:
        for pager in inside(engine).pagers:
            for resize in (7, 3):
                for name in pager.bank.arrays:
                    row = np.frombuffer(pager.bank.row(name, 0), np.uint8)
                    assert row.ctypes.data % 4096 == 0
                engine.resize(cache_experts=resize)


def test_an_aligned_expert_goes_straight_into_its_slot(tmp_path):
    """With tensors of whole sectors a direct read of a record needs no buffer."""
    folder = tiny_checkpoint(tmp_path, bits=None, moe_intermediate_size=128)
    outlier_jupyter.repack(folder, quiet=True)
    with outlier_jupyter.load(folder, cache_experts=5, reader="direct") as engine:
        before = reader_of(engine).buffer_nbytes()
        pager_of(engine).acquire([ExpertKey(0, 1), ExpertKey(2, 3)])
        assert reader_of(engine).buffer_nbytes() == before


def test_staged_slots_take_records_too(own, monkeypatch):
    """The bank for devices without a host view also reads records, tested on the CPU."""
    outlier_jupyter.repack(own, quiet=True)
    monkeypatch.setattr(slot_bank, "SlotBank", StagedSlotBank)
    reference, _ = load_unpaged(str(own))
    with outlier_jupyter.load(own, cache_experts=3, reader="direct") as engine:
        assert np.array_equal(logits(engine.model, prompt(70)), logits(reference, prompt(70)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_repacked(layout, tmp_path):
    """Records are exact for every layout of the shards."""
    usual = ("mixtral", "olmoe", "afmoe", "llama4", "phixtral", "nemotron_h")
    types = [name for name in (*usual, *models.model_types()) if name not in models.CANNOT]
    name = next(name for name in types if layout in _taken(name))
    folder = tiny_checkpoint(tmp_path, bits=None, shards=2, rewrite=everywhere(LAYOUTS[layout]),
                             base=models.tiny_config(name))  # fmt: skip
    _assert_exact(folder)


def _taken(name: str):
    config = models.tiny_config(name)
    model_class, args_class = classes_of(copy.deepcopy(config))
    return taken(model_class(args_class.from_dict(copy.deepcopy(config))))


def _assert_exact(folder) -> None:
    with outlier_jupyter.load(folder, cache_experts=5, repacked="off") as engine:
        expected = any_logits(engine.model, 40, 2)
    outlier_jupyter.repack(folder, quiet=True)
    with outlier_jupyter.load(folder, cache_experts=5) as engine:
        assert "repacked" in engine.status().reader_note
        assert np.array_equal(any_logits(engine.model, 40, 2), expected)


@pytest.mark.parametrize("model_type", ["gpt_oss", "deepseek_v41"])
def test_published_formats_are_repacked(model_type, tmp_path):
    """Interleaved rows become contiguous; scales that are kept in RAM remain there."""
    _, rewrite, config = PUBLISHED[model_type]
    _assert_exact(published(tmp_path, model_type, rewrite, config))


def test_a_folder_that_cannot_be_written_leads_to_the_cache(own, tmp_path, monkeypatch):
    """Records are then written to the cache folder, and loading finds them there."""
    monkeypatch.setattr(reads, "user_cache_path", lambda name: tmp_path / "cache")
    real = repacking.os.access
    monkeypatch.setattr(
        repacking, "os",
        SimpleNamespace(access=lambda path, mode: path != own and real(path, mode), W_OK=2,
                        fspath=repacking.os.fspath),
    )  # fmt: skip
    done = outlier_jupyter.repack(own, quiet=True)
    assert done.file.is_relative_to(tmp_path / "cache") and done.experts == done.written == 24
    with outlier_jupyter.load(own, cache_experts=3) as engine:
        assert "repacked" in engine.status().reader_note


def test_a_folder_of_the_users_is_used_and_looked_in(own, tmp_path):
    """`repack(folder=…)` writes there; `load(repacked=…)` reads there, or raises an error."""
    with pytest.raises(CheckpointError, match="holds no repacked experts"):
        outlier_jupyter.load(own, cache_experts=3, repacked=str(tmp_path / "fast"))
    outlier_jupyter.repack(own, tmp_path / "fast", quiet=True)
    with outlier_jupyter.load(own, cache_experts=3) as engine:
        assert engine.status().reader_note == ""
    with outlier_jupyter.load(own, cache_experts=3, repacked=str(tmp_path / "fast")) as engine:
        assert "repacked" in engine.status().reader_note


def test_records_of_another_model_are_passed_by_with_a_note(own, tmp_path):
    """If the shards changed, their current bytes are read, and the note says why."""
    outlier_jupyter.repack(own, quiet=True)
    tiny_checkpoint(own, seed=7)
    reference, _ = load_unpaged(str(own))
    with outlier_jupyter.load(own, cache_experts=5) as engine:
        assert "have changed since" in engine.status().reader_note
        assert np.array_equal(logits(engine.model, prompt(40)), logits(reference, prompt(40)))


def test_a_damaged_record_keeps_the_bits_and_is_reported(own):
    """With all records damaged the logits are the same, from the shards; a note says what to do."""
    done = outlier_jupyter.repack(own, quiet=True)
    with done.file.open("r+b") as stream:
        for record in range(done.experts):
            stream.seek(record * (done.nbytes // done.experts))
            stream.write(b"spoilt")
    reference, _ = load_unpaged(str(own))
    with outlier_jupyter.load(own, cache_experts=24) as engine:
        assert np.array_equal(logits(engine.model, prompt(70)), logits(reference, prompt(70)))
        assert "damaged" in engine.status().reader_note
    assert outlier_jupyter.repack(own, quiet=True).written == 24


def test_a_dense_model_has_nothing_to_repack(tmp_path):
    """One sentence refuses a model without paged experts."""
    mx.random.seed(0)
    folder = tiny_checkpoint(tmp_path, num_experts=0, model_type="qwen3")
    with pytest.raises(OptionError, match="nothing to repack"):
        outlier_jupyter.repack(folder, quiet=True)


@pytest.fixture
def probed(monkeypatch):
    """Stand-in probes that advise eight direct reads at once; returns the probes made."""
    made = []

    def probe(files, nbytes):
        made.append((files, nbytes))
        return SimpleNamespace(
            reader="direct", threads=8, why=lambda: "as a probe found", speed=lambda reader: 900.0
        )

    monkeypatch.setattr(reads, "known_disk", probe)
    return made


def test_small_models_are_not_probed(tiny, probed):
    """Nothing is measured below 1 GB of experts or if the user chooses reader and threads."""
    with outlier_jupyter.load(tiny, cache_experts=3) as engine:
        assert engine.status().reader == "pread" and reading_threads(engine) == 4
    with outlier_jupyter.load(tiny, cache_experts=3, reader="direct", read_threads=3) as engine:
        assert engine.status().reader_note == "" and reading_threads(engine) == 3
    assert probed == []


def test_large_models_are_read_as_the_probe_says(own, probed, monkeypatch):
    """The probe of the files in use sets reader and threads, and the status says why."""
    monkeypatch.setattr(reads, "LARGE", 100_000)
    with outlier_jupyter.load(own, cache_experts=3) as engine:
        assert engine.status().reader == "direct" and reading_threads(engine) == 8
        assert engine.status().reader_note == "as a probe found"
    done = outlier_jupyter.repack(own, quiet=True)
    with outlier_jupyter.load(own, cache_experts=3, read_threads=2) as engine:
        assert reading_threads(engine) == 2
        assert (
            engine.status().reader_note == "experts are repacked, one read each; as a probe found"
        )
    assert [files for files, _ in probed] == [[own / "model.safetensors"], [done.file]]


def test_a_probe_that_fails_leaves_plain_reads(tiny, monkeypatch):
    """A probe's read error does not prevent loading."""

    def fail(files, nbytes):
        raise ReadFailed("a bad block")

    monkeypatch.setattr(reads, "LARGE", 1)
    monkeypatch.setattr(reads, "known_disk", fail)
    with outlier_jupyter.load(tiny, cache_experts=3) as engine:
        assert engine.status().reader == "pread"
        assert engine.status().reader_note == "the disk could not be probed: a bad block"
