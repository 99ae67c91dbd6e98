"""The training corpus: free texts that a Debian machine already has, and generated ones.

Each domain is a list of named documents.  A hash of the name decides whether a document is in the
test split, so the split depends neither on order nor on the machine, and a chapter of the handbook
is on the same side in all its languages.
"""

from __future__ import annotations

import ast
import hashlib
import html
import random
import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from demo_generators import arithmetic_document, json_document

HANDBOOK = Path("/usr/share/doc/debian-handbook/html")
COMPLETIONS = Path("/usr/share/bash-completion/completions")
MEGABYTE = 1_000_000

# Packages of the standard library that are tests, tables or bundled tools rather than prose code.
SKIPPED = {
    "test", "tests", "idlelib", "lib2to3", "encodings", "ensurepip", "pydoc_data", "turtledemo",
    "site-packages", "dist-packages", "__pycache__", "idle_test", "msilib", "config",
}  # fmt: skip


class MissingSourceError(RuntimeError):
    """A text that the corpus needs is not installed; the message says how to get it."""


@dataclass(frozen=True)
class Document:
    """A text, and the name that assigns it to the training or the test split."""

    name: str
    text: str


@dataclass(frozen=True)
class Domain:
    """One kind of text, where it comes from and how much of it is used."""

    name: str
    source: str
    licence: str
    package: str
    limit: int
    share: float
    read: Callable[[], Iterator[Document]]


def held_out(name: str) -> bool:
    """Whether a document is kept from training (about one in twenty)."""
    return hashlib.sha256(name.encode()).digest()[0] < 13


def _shuffled(paths: list[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: hashlib.sha256(path.name.encode()).digest())


def read_python() -> Iterator[Document]:
    """Modules of the running Python's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = [p for p in root.rglob("*.py") if not SKIPPED & set(p.relative_to(root).parts[:-1])]
    for path in _shuffled(paths):
        text = path.read_text(encoding="utf-8", errors="replace")
        if not text.isascii() or len(text) < 500:
            continue
        try:
            ast.parse(text)
        except SyntaxError:
            continue
        yield Document(str(path.relative_to(root)), text)


def _package_files(packages: tuple[str, ...], suffix: str) -> list[Path]:
    listed = subprocess.run(["dpkg", "-L", *packages], capture_output=True, text=True, check=False)
    if listed.returncode:
        raise MissingSourceError(f"missing: run `apt-get install {' '.join(packages)}`")
    paths = [Path(line) for line in listed.stdout.splitlines() if line.endswith(suffix)]
    return [path for path in paths if path.is_file()]


def read_c() -> Iterator[Document]:
    """Headers of the C library and of the kernel's interface, without their licence comments."""
    for path in _shuffled(_package_files(("libc6-dev", "linux-libc-dev"), ".h")):
        text = path.read_text(encoding="utf-8", errors="replace")
        text = re.sub(r"\A(\s*/\*.*?\*/)+\s*", "", text, flags=re.S)
        if text.isascii() and len(text) > 400:
            yield Document(str(path), text)


def read_shell() -> Iterator[Document]:
    """The completion functions of bash-completion."""
    paths = [p for p in COMPLETIONS.glob("*") if p.is_file() and not p.is_symlink()]
    if not paths:
        raise MissingSourceError("missing: run `apt-get install bash-completion`")
    for path in _shuffled(paths):
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.isascii() and len(text) > 300:
            yield Document(path.name, text)


def handbook_text(page: str) -> str:
    """Headings and paragraphs of one page of the handbook, one blank line apart."""
    page = re.sub(r"<pre.*?</pre>", " ", page, flags=re.S)
    found = re.findall(
        r'<h[1-5][^>]*class="title"[^>]*>(.*?)</h[1-5]>|<div class="para">(.*?)</div>', page, re.S
    )
    blocks = []
    for heading, paragraph in found:
        text = html.unescape(re.sub(r"<[^>]+>", "", heading or paragraph))
        text = re.sub(r"\s+", " ", text).strip()
        if heading:
            text = re.sub(r"^(Chapter |Kapitel |Chapitre |Capítulo )?[\d.]+ *", "", text)
        if len(text) > 3:
            blocks.append(text)
    return "\n\n".join(blocks)


def read_handbook(language: str, own_words: str) -> Callable[[], Iterator[Document]]:
    """A reader of the Debian handbook; paragraphs still in English are left out."""
    own = set(own_words.split())
    english = {"the", "and", "of", "to", "is", "in", "that", "for", "with", "which"}

    def is_own(block: str) -> bool:
        words = block.lower().split()
        ours = sum(word in own for word in words)
        return language == "en-US" or ours >= sum(word in english - own for word in words)

    def read() -> Iterator[Document]:
        paths = list((HANDBOOK / language).glob("*.html"))
        if not paths:
            raise MissingSourceError("missing: run `apt-get install debian-handbook`")
        for path in _shuffled(paths):
            if path.name in {"index.html", "ix01.html"}:
                continue
            text = handbook_text(path.read_text(encoding="utf-8"))
            text = "\n\n".join(block for block in text.split("\n\n") if is_own(block))
            if len(text) > 400:
                yield Document(path.name, text)

    return read


def generated(name: str, make: Callable[[random.Random], str]) -> Callable[[], Iterator[Document]]:
    """A reader of generated documents, each seeded with its own name."""

    def read() -> Iterator[Document]:
        for number in range(6000):
            key = f"{name}-{number}"
            yield Document(key, make(random.Random(key)))

    return read


def _handbook(name: str, language: str, words: str, share: float) -> Domain:
    return Domain(
        name,
        f"The Debian Administrator's Handbook ({language})",
        "GPL-2.0-or-later or CC-BY-SA-3.0",
        "debian-handbook",
        2 * MEGABYTE,
        share,
        read_handbook(language, words),
    )


DOMAINS = (
    Domain("python", "the Python standard library", "PSF-2.0", "python3", 4 * MEGABYTE, 0.16,
           read_python),
    _handbook("english", "en-US", "the and of to is in that for with which", 0.15),
    _handbook("german", "de-DE", "der die das und ist nicht ein eine mit zu den auf", 0.08),
    _handbook("french", "fr-FR", "le la les et est des un une que pour dans du en", 0.08),
    _handbook("spanish", "es-ES", "el la los y es de un una que para en del las", 0.08),
    Domain("c", "headers of glibc and of the Linux kernel's interface",
           "LGPL-2.1-or-later; GPL-2.0 WITH Linux-syscall-note", "libc6-dev linux-libc-dev",
           2 * MEGABYTE, 0.07, read_c),
    Domain("shell", "bash-completion", "GPL-2.0-or-later", "bash-completion", MEGABYTE, 0.06,
           read_shell),
    Domain("arithmetic", "generated sums (tools/demo_generators.py)", "generated", "", MEGABYTE,
           0.06, generated("arithmetic", arithmetic_document)),
    Domain("json", "generated records (tools/demo_generators.py)", "generated", "", MEGABYTE,
           0.05, generated("json", json_document)),
)  # fmt: skip
CHAT_SHARE = 1.0 - sum(domain.share for domain in DOMAINS)
LATE_CHAT_SHARE = 0.4
CONTINUED_CHAT_SHARE = 0.7


def read_corpus() -> dict[str, tuple[list[Document], list[Document]]]:
    """The training and the test documents of each domain.

    Raises:
        MissingSourceError: a Debian package is not installed; the message names it.
    """
    corpus: dict[str, tuple[list[Document], list[Document]]] = {}
    for domain in DOMAINS:
        sides: tuple[list[Document], list[Document]] = ([], [])
        size = 0
        for document in domain.read():
            sides[held_out(document.name)].append(document)
            size += len(document.text)
            if size > domain.limit:
                break
        corpus[domain.name] = sides
    return corpus
