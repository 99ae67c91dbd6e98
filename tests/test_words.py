"""The code and its messages use the field's words: none of a short list of others."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import outlier_jupyter

ROOT = Path(outlier_jupyter.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

NOT_IN_NAMES = {
    "aside", "asked", "door", "foreseen", "given", "glow", "habit", "heard", "hears", "held",
    "portion", "portions", "said", "says", "tell", "tells", "told",
}  # fmt: skip
"""Words that no name contains. In their place: staging, requested, predicted, inputs, predictive,
resident, evicted, text, reports …"""
NOT_IN_TEXTS = (
    "asked for", "aside", "deals", "foreseen", "heard", "hears", "held(?! back)", "leaves first",
    "limit is (?:unknown|not known)", "look-up", "nats a token", "nothing to read",
    "output until then", "tells", "told", "tokens' worth", "who leaves", "who listens",
)  # fmt: skip
"""Words of comments, docstrings and messages: resident or pinned for held, evicted for left, lookup
for look-up, working sets for tokens' worth. Each is a regular expression."""
MAY = {
    "notebook/live/widget.py": {"told"},  # a message's type, in saved notebooks
    "studies/ablate.py": {"foreseen"},  # the old name of an attribute
    "trace/equal_caches.py": {"held"},  # the same
}
"""File → the words that it may contain, and why."""


def names(tree: ast.AST):
    """All names in a file: functions, classes, arguments, variables, attributes; no aliases."""
    old = {
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("alias(")
        for target in node.targets
    }
    for node in ast.walk(tree):
        if node in old:
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def parts(name: str) -> set[str]:
    """The words of a name."""
    spaced = name if name.isupper() else re.sub(r"([A-Z])", r"_\1", name)
    return set(re.findall(r"[a-z]+", spaced.lower()))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_names_are_made_of_the_field_s_words(path):
    """Modules, classes, functions, arguments and variables."""
    found = {name for name in names(ast.parse(path.read_text())) if parts(name) & NOT_IN_NAMES}
    assert not found and not parts(path.stem) & NOT_IN_NAMES


TESTS = Path(__file__).parent
NOT_IN_NAMES_OF_TESTS = {
    "asked",
    "foretold",
    "heard",
    "hears",
    "held",
    "said",
    "tell",
    "tells",
    "told",
}
"""As NOT_IN_NAMES; `held_back` of text and `held_out` of data are standard terms."""
TESTED = sorted(
    path
    for path in TESTS.rglob("*.py")
    if path.name != "test_aliases.py"  # old names
    and path.parent != TESTS / "notebook" / "live"  # still has them
)


@pytest.mark.parametrize("path", TESTED, ids=lambda p: str(p.relative_to(TESTS)))
def test_names_in_tests_are_made_of_the_field_s_words(path):
    """Tests, fixtures and their variables."""
    found = {name for name in names(ast.parse(path.read_text()))
             if parts(re.sub("held_(back|out)", "", name)) & NOT_IN_NAMES_OF_TESTS}  # fmt: skip
    assert not found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_texts_use_the_field_s_words(path):
    """Comments, docstrings and messages."""
    may = MAY.get(str(path.relative_to(ROOT)), set())
    wanted = "|".join(NOT_IN_TEXTS)
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            found = set(re.findall(rf"\b(?:{wanted})\b", token.string, re.IGNORECASE)) - may
            assert not found, f"line {token.start[0]}: {found}"
