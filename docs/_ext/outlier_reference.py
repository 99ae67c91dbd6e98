"""A Sphinx extension: the commands and their flags as pages, and docstrings as Sphinx reads them.

`command_pages` makes the first from the list that the magic itself uses. Docstrings are Markdown
with Google's sections; Sphinx reads reStructuredText.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import fields, is_dataclass
from typing import Any

import command_pages
from command_pages import cell
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.logging import getLogger

from outlier_jupyter import options
from outlier_jupyter.trace import schema

logger = getLogger(__name__)


class Commands(SphinxDirective):
    """`{commands}`: a table of the commands, where each can be used, and the same as a call."""

    def run(self) -> list[nodes.Node]:
        """The table."""
        return self.parse_text_to_nodes(command_pages.commands())


class Options(SphinxDirective):
    """`{options} CLASS`: a table of the fields of an options class."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The table."""
        kind = getattr(options, self.arguments[0])
        rows = [
            f"| `{f.name}` | `{f.default!r}` | {cell(options.help_of(f))} |" for f in fields(kind)
        ]
        head = [f"### {self.arguments[0]}", "", "| option | default | |", "|---|---|---|"]
        text = "\n".join(head + rows)
        return self.parse_text_to_nodes(text, allow_section_headings=True)


class Fields(SphinxDirective):
    """`{fields} NAME`: a table of a record type of the trace; its body is `field: meaning`."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The table.

        Raises:
            Error: the body does not name just the fields there are.
        """
        kind = getattr(schema, self.arguments[0])
        meanings = dict(line.split(": ", 1) for line in self.content)
        if list(meanings) != list(kind.names):
            raise self.error(f"the fields of {self.arguments[0]} are {', '.join(kind.names)}")
        rows = [f"| `{name}` | {kind[name]} | {what} |" for name, what in meanings.items()]
        return self.parse_text_to_nodes("\n".join(["| field | type | |", "|---|---|---|", *rows]))


class Flags(SphinxDirective):
    """`{flags}`: a section for each command, with a table of its arguments and flags."""

    def run(self) -> list[nodes.Node]:
        """The sections."""
        return self.parse_text_to_nodes(command_pages.flags(), allow_section_headings=True)


def process(app: Sphinx, what: str, name: str, thing: Any, flags: Any, lines: list[str]) -> None:
    """A docstring before Napoleon: an entry for each attribute, and code as literals."""
    text = "\n".join(lines)
    if what == "class" and (fields_of(thing) or "Attributes:" in lines):
        text = with_attributes(text, thing)
    if what in ("property", "attribute", "data"):
        text = text.replace(": ", " – ", 1)  # Napoleon takes what is before it for a type
    text = re.sub(r"(?<!`)`([^`\n]+)`(?!`)", r"``\1``", text.replace("``", "`")).replace("|", "\\|")
    lines[:] = text.split("\n")


def skip(app: Sphinx, what: str, name: str, thing: Any, skipped: bool, flags: Any) -> bool | None:
    """A named tuple's fields are told of by its docstring, not one by one."""
    return True if type(thing).__name__ == "_tuplegetter" else None


def fields_of(thing: Any) -> list[str]:
    """The public fields of a dataclass or a named tuple."""
    names = (
        [f.name for f in fields(thing)] if is_dataclass(thing) else getattr(thing, "_fields", ())
    )
    return [name for name in names if not name.startswith("_")]


ENTRY = re.compile(r"    (\w+(?:, \w+)*): (.*)")


def with_attributes(text: str, thing: Any) -> str:
    """`Attributes` as Sphinx's own directives: one for each field, also of those that share a text.

    `a, b: what` is told with the first, and a field that another one's text explains refers there.
    """
    before, _, after = text.partition("Attributes:\n")
    section, _, rest = after.partition("\n\n")
    texts: dict[str, list[str]] = {}
    for line in section.split("\n"):
        if found := ENTRY.fullmatch(line):
            name, *others = found[1].split(", ")
            together = f"with `{'`, `'.join(others)}`: " if others else ""
            texts[name] = [together + found[2]]
        elif line:
            texts[name].append(line.strip())
    everywhere = before + str(sys.modules[thing.__module__].__doc__)
    for name in fields_of(thing):
        if name in texts:
            continue
        owners = [each for each, said in texts.items() if f"`{name}`" in " ".join(said)]
        if owners:
            texts[name] = [f"see `{owners[0]}`."]
        elif f"`{name}`" in everywhere:
            texts[name] = []
        else:
            logger.warning("the docstring of %s does not say what %s is", thing.__qualname__, name)
    order = fields_of(thing)
    names = sorted(texts, key=lambda name: order.index(name) if name in order else len(order))
    made = [before, ""]
    for name in names:
        if not isinstance(getattr(thing, name, None), property):
            kind = annotation(thing, name)
            made += [f".. attribute:: {name}", *([f"   :type: {kind}"] if kind else []), ""]
            made += [*(f"   {line}" for line in texts[name]), ""]
    return "\n".join([*made, rest])


def annotation(thing: Any, name: str) -> str:
    """A field's type as its class writes it; "" where it is not known."""
    for each in thing.__mro__:
        if name in (found := vars(each).get("__annotations__", {})):
            kind = found[name]
            return str(getattr(kind, "__forward_arg__", kind))
    return ""


def signature(
    app: Sphinx, what: str, name: str, thing: Any, flags: Any, args: str | None, back: str | None
) -> tuple[str, str | None] | None:
    """Types as the code writes them; nothing for a record: its fields are listed."""
    if what == "class" and fields_of(thing):
        return "", None
    if what not in ("function", "method", "class") or args is None:
        return None
    made = inspect.signature(thing)
    mine = [each for each in made.parameters.values() if each.name not in ("self", "cls")]
    written = [parameter(each) for each in mine]
    kinds = [each.kind for each in mine]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        written.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    kind = "" if made.return_annotation is made.empty else str(made.return_annotation)
    return f"({', '.join(written)})", kind or None


def parameter(each: inspect.Parameter) -> str:
    """One parameter as the code writes it, but for a default that has no plain name."""
    stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
    kind = "" if each.annotation is each.empty else f": {each.annotation}"
    default = "" if each.default is each.empty else f" = {each.default!r}"
    return stars + each.name + kind + (" = …" if "<" in default else default)


def setup(app: Sphinx) -> dict[str, bool]:
    """Join Sphinx."""
    app.add_directive("commands", Commands)
    app.add_directive("flags", Flags)
    app.add_directive("options", Options)
    app.add_directive("fields", Fields)
    app.connect("autodoc-process-docstring", process, priority=100)  # Napoleon's is 500
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
