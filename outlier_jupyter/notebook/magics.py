"""`%outlier` and `%%outlier`: use an engine from cells.

The magics parse the line, call the engine and show the result; they compute nothing. A run is the
value of its cell. The cell shows the live view, which stays after the run; a static view beside it
is for saved notebooks, which have no kernel.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import fields
from functools import partial
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from traitlets import Any as Any_
from traitlets import Bool, TraitType

from ..engine.contexts import Context
from ..engine.engine import Engine
from ..errors import OptionError, OutlierError, cut
from ..options import GenerateOptions, LoadOptions, help_of
from ..runs.run import Interrupted, Run, repeated
from ..studies.variants import Variants
from ..system.interactive import attended
from .commands import COMMANDS, help_text
from .commands.line import expand_flags, fill, lists_of, parse, split_prompt
from .commands.parsing import HelpRequested, near
from .commands.run import cell_parser, check_variants
from .commands.status import as_json
from .completion import matcher
from .engine_handle import forget_frames
from .ipykernel_fixes import fix_unread_requests
from .live.show import show_result, show_run
from .live.show_variants import show_variants

QUESTION = re.compile(r"(\s*)%outlier\s+(run\s.*\?)\s*")
"""A line whose prompt ends in a question mark."""
QUANTIFIER = re.compile(r"(?<!\{)\{(\d+(?:,\d*)?)\}(?!\})")
"""Numbers in braces, as in a regular expression; they name no variable."""
GLOBAL_DEPTH = 1_000_000
"""Deeper than any stack: IPython then looks up variables only in the user's namespace."""


def option_traits(kind: type[LoadOptions | GenerateOptions]) -> dict[str, TraitType[Any, Any]]:
    """Make a configurable trait for each option; it is None unless `%config` sets it."""
    return {
        spec.name: Any_(default_value=None, allow_none=True, help=help_of(spec)).tag(config=True)
        for spec in fields(kind)
    }


@magics_class
class OutlierMagics(Magics):
    """The magics of one shell, and the engine they share."""

    # `%config OutlierMagics.max_tokens = 50`: one trait per option, made from the options.
    locals().update(option_traits(LoadOptions) | option_traits(GenerateOptions))
    widget = Bool(True, help="show the live view during a run").tag(config=True)

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.shell: InteractiveShell
        self.engine: Engine | None = None
        self.matcher: Callable[..., Any] | None = None
        table = shell.magics_manager.magics
        self.replaced = {kind: table[kind].get("outlier") for kind in ("line", "cell")}

    @no_var_expand  # flags are expanded below, prompts only with --fill
    @line_cell_magic
    def outlier(self, line: str, cell: str | None = None) -> object:
        """Replaced by `help_text()` when the extension is loaded."""
        line = line.strip()
        hide_result, line = line.endswith(";"), line.removesuffix(";")
        try:
            if cell is not None:
                flags = expand_flags(line, self._expand)
                result: object = self.prompt(parse(cell_parser(), flags), cell)
            else:
                result = self._command(line)
        except HelpRequested as help_request:
            sys.stdout.write(str(help_request))
            return None
        except (OutlierError, KeyboardInterrupt) as error:
            forget_frames(error)  # no traceback is shown, so keep no frames
            raise
        return None if hide_result else result

    def _expand(self, line: str) -> str:
        """Expand $name and {name} in flags, as IPython does for all magics; never in a prompt."""
        kept = QUANTIFIER.sub(r"{{\1}}", line)
        expanded: str = self.shell.var_expand(kept, depth=GLOBAL_DEPTH)
        return line if expanded == kept else expanded  # IPython leaves what it cannot expand

    def _command(self, line: str) -> object:
        name, _, rest = line.partition(" ")
        if name in ("", "help", "-h", "--help"):
            raise HelpRequested(help_text())
        if name not in COMMANDS:
            raise OptionError(
                f"%outlier {cut(name, 40)} is not a command{near(name, COMMANDS)}; the commands "
                f"are {', '.join(COMMANDS)}, and %%outlier for a prompt of several lines"
            )
        command = COMMANDS[name]
        parser = command.parser()
        if command.takes_text:
            flags, text = split_prompt(parser, rest)
            args = parse(parser, expand_flags(flags, self._expand)) | {"text": text}
        else:
            args = parse(parser, self._expand(rest))
        result = command.run(self, args)
        self.store(args.get("output"), result)
        return result

    @property
    def variables(self) -> MutableMapping[str, Any]:
        """The user's variables."""
        found: MutableMapping[str, Any] = self.shell.user_ns
        return found

    def last_run(self) -> Run | None:
        """The newest run of the engine."""
        return self.engine.last_run if self.engine is not None else None

    def loaded(self) -> Engine:
        """The engine, open.

        Raises:
            OutlierError: no model is loaded.
        """
        if self.engine is None or self.engine.closed:
            raise OutlierError("no model is loaded: run `%outlier load demo` first")
        return self.engine

    def defaults(self, kind: type[LoadOptions | GenerateOptions]) -> dict[str, Any]:
        """The options set with `%config`."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(kind)}
        return {name: value for name, value in values.items() if value is not None}

    def store(self, name: str | None, value: object) -> None:
        """Store `value` in a variable, unless `name` is None."""
        if name is not None:
            self.shell.user_ns[name] = value

    def write(self, text: str) -> None:
        """Print into the cell's output."""
        sys.stdout.write(text)

    def prompt(self, args: dict[str, Any], text: str) -> Run | Context | Variants | None:
        """Run `text` as a prompt with these arguments of `run`, and show the run.

        With `save_context` it is only read, and the context is returned; with `vary` or `each` the
        result is its variants.
        """
        check_variants(args)
        output, quiet, json = (args.pop(name, None) for name in ("output", "quiet", "json"))
        times = args.pop("repeat", 1)
        no_widget, pace = args.pop("no_widget", None), args.pop("pace", None)
        show = self._show_function(quiet or json, no_widget, pace)
        prompt = text.strip("\n")
        if args.pop("fill", None):
            prompt = fill(prompt, self.shell.user_ns)
        engine = self.loaded()
        if engine.run_lock.must_wait:
            sys.stdout.write("Waiting for another run of this engine to end.\n")
        options = self.defaults(GenerateOptions) | args
        if (file := options.pop("save_context", None)) is not None:
            context = engine.save_context(prompt, file, **options)
            self.store(output, context)
            return None if quiet else context
        vary, each = (options.pop(name, None) for name in ("vary", "each"))
        if vary or each:
            crossed, beside = (lists_of(words or (), self.variables) for words in (vary, each))
            plain = bool(quiet or no_widget) or not hasattr(self.shell, "kernel")
            found = show_variants(engine, prompt, crossed, beside, options, plain)
            self.store(output, found)
            return None if quiet else found
        runs: list[Run] = []
        try:
            for _ in range(times):
                run = show(engine, prompt, options)
                runs.append(run)  # at once: finished runs are kept if the next is stopped
        except Interrupted as stop:
            self.store(output, repeated([*runs, stop.run]))
            raise
        run = repeated(runs)
        self.store(output, run)
        if json:
            sys.stdout.write(f"{as_json(run.summary())}\n")
        if run.repeats and not (quiet or json):
            sys.stdout.write(f"{run.spread()}\n")
        return None if quiet or json else run.brief_once()

    def _show_function(
        self, quiet: bool, no_widget: bool, pace: float | None
    ) -> Callable[..., Run]:
        """How to show a run: not at all, as text in a terminal, with or without a widget."""
        if quiet:
            return lambda engine, prompt, options: engine.generate(prompt, **options)
        if not hasattr(self.shell, "kernel"):
            return stream_text
        live = self.widget and not no_widget and attended()
        return partial(show_run, pace=pace) if live else show_result


def stream_text(engine: Engine, prompt: str, options: dict[str, Any]) -> Run:
    """Generate from `prompt` and print the text to the terminal during the run."""
    for step in engine.stream(prompt, **options):
        sys.stdout.write(step.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    assert engine.last_run is not None
    return engine.last_run


def keep_question_mark(lines: list[str]) -> list[str]:
    """Keep IPython from reading `%outlier run What is an expert?` as a request for help.

    An input transformer: it writes the line as the call that IPython makes of a magic.
    """
    return [
        f"{found[1]}get_ipython().run_line_magic('outlier', {found[2]!r})\n"
        if (found := QUESTION.fullmatch(line))
        else line
        for line in lines
    ]


def register(shell: InteractiveShell) -> None:
    """Add the magics to `shell`, and keep magics of the same name for `unregister`."""
    OutlierMagics.outlier.__doc__ = help_text()
    fix_unread_requests()
    magics = OutlierMagics(shell)
    shell.register_magics(magics)

    completer = shell.Completer
    assert completer is not None
    magics.matcher = matcher(shell.user_ns)
    completer.custom_matchers.append(magics.matcher)
    shell.input_transformers_cleanup.append(keep_question_mark)


def unregister(shell: InteractiveShell) -> None:
    """Close the engine and restore the earlier magics of that name."""
    table = shell.magics_manager.magics
    magics = getattr(table["line"].get("outlier"), "__self__", None)
    if not isinstance(magics, OutlierMagics):
        return
    COMMANDS["unload"].run(magics, {})
    if keep_question_mark in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(keep_question_mark)
    for kind, earlier in magics.replaced.items():
        if earlier is None:
            table[kind].pop("outlier", None)
        else:
            table[kind]["outlier"] = earlier
    shell.magics_manager.registry.pop("OutlierMagics", None)
    shell.configurables.remove(magics)  # type: ignore[arg-type]  # the list also contains Magics
    if shell.Completer is not None and magics.matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(magics.matcher)
