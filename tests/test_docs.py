"""The documents say what the code says, their examples run, and their links lead somewhere."""

from __future__ import annotations

import re
import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

import outlier_jupyter
from outlier_jupyter import events, options
from outlier_jupyter.notebook.commands import COMMANDS
from outlier_jupyter.trace import schema

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGE = Path(outlier_jupyter.__file__).parent
PAGES = sorted(DOCS.rglob("*.md"))
REFERENCE = {page.stem: page.read_text() for page in (DOCS / "reference").glob("*.md")}
TEXT = "\n".join(REFERENCE.values())
EXPERIMENTS = sorted(set((DOCS / "experiments").glob("*.md")) - {DOCS / "experiments/index.md"})
ENTRY = re.compile(r"^###? (\d{4}-\d\d-\d\d): .+$", re.MULTILINE)
AT_THE_ROOT = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")


def test_the_readme_is_short():
    """It has 150 lines at most."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", [ROOT / name for name in AT_THE_ROOT] + PAGES, ids=str)
def test_links_to_files_lead_to_files(page):
    """Includes links that Sphinx does not check: of pages that a forge shows, and of pictures."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text):
        link = "".join(target)
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", [ROOT / name for name in AT_THE_ROOT] + PAGES, ids=str)
def test_files_that_are_named_are_there(page):
    """Modules by their path in the package, others by theirs from the root."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for name in re.findall(r"`([a-z_]+/[a-z_/]+(?:\.py)?)`", text):
        if "NAME" not in name and name.split("/")[0] != "build" and name != "js/node_modules":
            places = [
                ROOT / name,
                PACKAGE / name,
                PACKAGE / f"{name}.py",
                ROOT / "benchmarks" / name,
            ]
            assert any(place.exists() for place in places), name


def test_every_public_name_is_in_the_reference():
    """Each of `__all__`, by the directive that takes its docstring."""
    for name in outlier_jupyter.__all__:
        assert re.search(rf"^\.\. auto\w+:: outlier_jupyter\.{name}$", TEXT, re.MULTILINE), name


def test_what_the_reference_names_is_there_and_documents_its_fields():
    """Each target of a directive exists; a record's or its module's docstring has each field."""
    for target in re.findall(r"^\.\. auto(?!module)\w+:: (.+)$", TEXT, re.MULTILINE):
        module, _, name = target.rpartition(".")
        thing = getattr(import_module(module), name)
        names = [f.name for f in fields(thing)] if is_dataclass(thing) else []
        names = names or getattr(thing, "_fields", ())
        documented = f"{thing.__doc__} {sys.modules[thing.__module__].__doc__}" if names else ""
        for field in names:
            assert field.startswith("_") or re.search(rf"\b{field}\b", documented), (
                f"{target}.{field}"
            )


def test_events_document_their_fields():
    """Each field is in the event's docstring, or at the top of its module."""
    for event in get_args(events.Event):
        for field in event._fields:
            assert re.search(rf"\b{field}\b", f"{event.__doc__} {events.__doc__}"), (event, field)


def test_commands_options_and_record_types_are_in_the_reference():
    """Directives list all that exist when the site is built; each command has its call."""
    assert "```{commands}" in REFERENCE["commands"] and "```{flags}" in REFERENCE["commands"]
    assert all(each.call for each in COMMANDS.values())
    for kind in (options.LoadOptions, options.GenerateOptions):
        assert f"```{{options}} {kind.__name__}" in REFERENCE["engine"] and fields(kind)
    for name in ("READ", "EVICTION", "CALL"):
        assert f"```{{fields}} {name}" in REFERENCE["trace"] and getattr(schema, name).names


def test_every_experiment_names_its_processor():
    """Each gives the instruction set, or says "not recorded" or "of no consequence"."""
    for page in EXPERIMENTS:
        _, *entries = re.split(r"(?=^###? \d{4}-)", page.read_text(), flags=re.MULTILINE)
        assert entries
        for entry in entries:
            assert "\n**Idea.** " in entry and "\n**Result.** " in entry, entry
            found = re.search(r"^\*Kept:\* .+ · \*Processor:\* (.+)$", entry, re.MULTILINE)
            assert found, entry
            assert re.search(r"^of no consequence$|^not recorded$|AVX|lanes|NEON", found[1]), entry


def test_the_list_of_experiments_counts_them():
    """The index names each topic with the number of its entries."""
    index = (DOCS / "experiments" / "index.md").read_text()
    for page in EXPERIMENTS:
        count = len(ENTRY.findall(page.read_text()))
        assert re.search(rf"\({page.name}\) \| .* \| {count} \|$", index, re.MULTILINE), page.name
