"""The built scripts and style sheets, and the modules that a widget's page asks for.

What few pages need (highlighted code, formulas) is not part of a widget's script: the page sends
`{"type": "module", "name": …}` when it first needs it, and imports the text that comes back
(`js/src/widget/module.ts`).
"""

from __future__ import annotations

import pathlib

STATIC = pathlib.Path(__file__).parent / "static"

MODULES = ("highlight", "formulas", "formula-symbols")
"""The modules that a page may ask for, each a file of `STATIC`."""


def module_message(name: object) -> dict[str, str]:
    """The answer to a page that asks for a module; its text is "" where there is no such module."""
    text = (STATIC / f"{name}.js").read_text(encoding="utf-8") if name in MODULES else ""
    return {"type": "module", "name": str(name), "text": text}
