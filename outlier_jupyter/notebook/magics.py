"""`%outlier` and `%%outlier`: the engine, driven cell by cell.

The magics parse, ask the engine and show what comes of it; they compute nothing. A run's result
is the cell's value. While it runs the cell shows the live view; when it ends that is replaced,
in the same output, by a view that needs no kernel, so that a saved notebook still shows it.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from json import dumps
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from traitlets import Any as Any_
from traitlets import Bool, TraitType

from ..attended import attended
from ..engine import Engine
from ..errors import OptionError, OutlierError
from ..loading import load
from ..machine import measure_memory
from ..options import GenerateOptions, LoadOptions, help_of
from ..planning import Plan, plan
from ..repacking import measure_disk, repack
from ..run import Interrupted, Run, repeated
from ..status import Status
from ..trace.measures import Summary
from ..units import size_words
from . import asking
from .arguments import (
    cell_parser,
    command_parser,
    expand_flags,
    fill,
    help_text,
    near,
    parse,
    split_prompt,
)
from .chat import Chat
from .commands import ASKING, COMMANDS
from .completion import completions
from .controls import NAMES as CHAT_OPTIONS
from .handle import Loaded, forget_frames
from .parsing import HelpAsked
from .routes import keep_reading
from .show import show_result, show_run

if TYPE_CHECKING:
    from ..bench.short import Benched
    from ..studies.comparison import Comparison

QUESTION = re.compile(r"(\s*)%outlier\s+(run\s.*\?)\s*")
"""A line that asks the model something."""
HOOKED = ("%outlier", "%%outlier")
OUTSIDE = 1_000_000
"""More frames than there are: variables are looked up in the user's namespace alone."""


def option_traits(kind: type[LoadOptions | GenerateOptions]) -> dict[str, TraitType[Any, Any]]:
    """A configurable trait for each option, None unless `%config` sets it."""
    return {
        spec.name: Any_(default_value=None, allow_none=True, help=help_of(spec)).tag(config=True)
        for spec in fields(kind)
    }


@magics_class
class OutlierMagics(Magics):
    """The magics of one shell, and the engine they share."""

    # `%config OutlierMagics.max_tokens = 50`: one trait per option, made from the options.
    locals().update(option_traits(LoadOptions) | option_traits(GenerateOptions))
    widget = Bool(True, help="show the live view while a run lasts").tag(config=True)

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.shell: InteractiveShell
        self.engine: Engine | None = None
        table = shell.magics_manager.magics
        self.replaced = {kind: table[kind].get("outlier") for kind in ("line", "cell")}

    @no_var_expand  # flags are expanded below, prompts only with --fill
    @line_cell_magic
    def outlier(self, line: str, cell: str | None = None) -> object:
        """Replaced by `help_text()` when the extension is loaded."""
        line = line.strip()
        silenced, line = line.endswith(";"), line.removesuffix(";")
        try:
            if cell is not None:
                flags = expand_flags(line, self._expand)
                result: object = self._prompt(parse(cell_parser(), flags), cell)
            else:
                result = self._command(line)
        except HelpAsked as asked:
            sys.stdout.write(str(asked))
            return None
        except (OutlierError, KeyboardInterrupt) as error:
            forget_frames(error)  # it is shown as one line
            raise
        return None if silenced else result

    def _expand(self, line: str) -> str:
        """$name and {name} in flags, as IPython does for all magics; never in a prompt."""
        expanded: str = self.shell.var_expand(line, depth=OUTSIDE)
        return expanded

    def _command(self, line: str) -> object:
        command, _, rest = line.partition(" ")
        if command in ("", "help", "-h", "--help"):
            raise HelpAsked(help_text())
        if command not in COMMANDS:
            raise OptionError(
                f"%outlier {command} is not a command{near(command, COMMANDS)}; there are "
                f"{', '.join(COMMANDS)}, and %%outlier for a prompt of several lines"
            )
        if command == "run":
            parser = command_parser(command)
            flags, prompt = split_prompt(parser, rest)
            return self._prompt(parse(parser, expand_flags(flags, self._expand)), prompt)
        given = parse(command_parser(command), self._expand(rest))
        if command == "load":
            return self._load(given)
        if command == "plan":
            return self._plan(given)
        if command == "repack":
            output = given.pop("output", None)
            done = repack(given.pop("model"), **given)
            self._store(output, done)
            sys.stdout.write(f"{done}\n")
            return None
        if command == "bench":
            return self._bench(given)
        if command in ASKING:
            return self._ask(command, given)
        if command == "chat":
            return self._chat(given)
        if command == "compare":
            return self._compare(given)
        if command in ("ablate", "sweep"):
            return self._study(command, given)
        if command == "unload":
            self.unload()
        elif command == "memory":
            use = self._loaded().memory()
            sys.stdout.write(f"{dumps(use.to_dict()) if given.get('json') else use}\n")
        else:
            as_one_object = given.pop("json", False)
            engine = self._loaded()
            status = engine.resize(**given) if command == "resize" else engine.status()
            sys.stdout.write(f"{as_json(status) if as_one_object else status}\n")
        return None

    def _ask(self, command: str, given: dict[str, Any]) -> object:
        last = self.engine.last_run if self.engine is not None else None
        held = self.shell.user_ns
        if command in ("expert", "atlas"):
            over = asking.expert if command == "expert" else asking.atlas
            found: object = over(given, held, last)
        elif command == "open":
            found = asking.opened(given)
        else:
            run = asking.one_run(given.get("run"), held, last)
            if command in ("report", "save"):
                write = asking.report if command == "report" else asking.save
                sys.stdout.write(f"{write(given, run)}\n")
                return None
            ask: dict[str, Callable[[dict[str, Any], Run], object]] = {
                "explain": asking.explain, "tokens": asking.tokens, "measures": asking.measures,
                "view": lambda given, run: run.view(),
                "what-if": lambda given, run: asking.what_if(given, run, held),
            }  # fmt: skip
            found = ask[command](given, run)
        self._store(given.get("output"), found)
        return found

    def _plan(self, given: dict[str, Any]) -> Plan | None:
        output, json = (given.pop(name, None) for name in ("output", "json"))
        usual = self._defaults(LoadOptions)
        names = ("ram_gb", "kernels", "kept_kv_gb", "revision", "trust_remote_code")
        options = {name: usual[name] for name in names if name in usual} | given
        engine = self.engine if self.engine is not None and not self.engine.closed else None
        found = plan(options.pop("model"), replacing=engine, **options)
        self._store(output, found)
        if json:
            sys.stdout.write(f"{dumps(found.to_dict())}\n")
            return None
        return found

    def _bench(self, given: dict[str, Any]) -> Benched | None:
        if given.get("memory"):
            sys.stdout.write(f"memory reads at {size_words(measure_memory())}/s\n")
            if not given.get("disk"):
                return None
        if given.get("disk"):
            model = given.get("model") or self._loaded().info.model
            sys.stdout.write(f"{measure_disk(model)}\n")
            return None
        if "model" in given:
            raise OptionError(
                "%outlier bench makes a model of its own: leave the model out, or give --disk"
            )
        from ..bench.short import short  # it compiles; loading is silent and quick

        folder, traces = (Path(given[n]) if n in given else None for n in ("folder", "traces"))
        found = short(folder, traces, tell=lambda line: sys.stdout.write(f"{line}\n"))
        self._store(given.get("output"), found)
        return found

    def _load(self, given: dict[str, Any]) -> Engine:
        output = given.pop("output", None)
        before = self.engine if self.engine is not None and not self.engine.closed else None
        try:
            options = self._defaults(LoadOptions) | given
            engine = load(options.pop("model"), replacing=before, **options)
        except (OutlierError, KeyboardInterrupt) as error:
            self._tell_what_is_left(error, before)
            raise
        finally:
            gc.collect()  # a model is made of cycles
        self.engine = engine
        self._store(output, engine)
        return Loaded(engine)  # type: ignore[return-value]  # it stands for one

    def _tell_what_is_left(self, error: BaseException, before: Engine | None) -> None:
        """Have a failed load say what is loaded now."""
        if before is None:
            return
        left = f"{before.info.model} is still loaded"
        if before.closed:
            self.engine, left = None, "no model is loaded now"
        if isinstance(error, OutlierError):
            error.args = (f"{error} ({left})",)
        else:
            sys.stderr.write(f"The load was interrupted: {left}.\n")

    def _chat(self, given: dict[str, Any]) -> Chat:
        output = given.pop("output", None)
        defaults = self._defaults(GenerateOptions)
        kept = {name: defaults[name] for name in defaults if name in CHAT_OPTIONS}
        chat = Chat(self._loaded(), **kept | given)
        self._store(output, chat)
        return chat

    def _compare(self, given: dict[str, Any]) -> Comparison:
        from ..studies.comparison import (
            compare,
        )  # its libraries are large, and loading is silent and quick

        output = given.pop("output", None)
        found = compare(asking.by_name(given.pop("runs"), self.shell.user_ns), **given)
        self._store(output, found)
        return found

    def _study(self, command: str, given: dict[str, Any]) -> object:
        from .studies import study  # its libraries are large, and loading is silent and quick

        output = given.pop("output", None)
        found = study(self._loaded(), command, given, self.shell.user_ns)
        self._store(output, found)
        return found

    def unload(self) -> None:
        """Close the engine, if there is one."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None
            gc.collect()  # a model is made of cycles

    def _prompt(self, given: dict[str, Any], cell: str) -> Run | None:
        output, quiet, json = (given.pop(name, None) for name in ("output", "quiet", "json"))
        times = given.pop("repeat", 1)
        if times < 1:
            raise OptionError(f"--repeat {times} runs nothing: give 1 or more")
        show = self._shower(quiet or json, given.pop("no_widget", None))
        prompt = cell.strip("\n")
        if given.pop("fill", None):
            prompt = fill(prompt, self.shell.user_ns)
        engine = self._loaded()
        runs: list[Run] = []
        try:
            for _ in range(times):
                run = show(engine, prompt, self._defaults(GenerateOptions) | given)
                runs.append(run)  # one by one: what is whole is kept when the next is stopped
        except Interrupted as stop:
            self._store(output, repeated([*runs, stop.run]))
            raise
        run = repeated(runs)
        self._store(output, run)
        if json:
            sys.stdout.write(f"{as_json(run.summary())}\n")
        if run.repeats and not (quiet or json):
            sys.stdout.write(f"{run.spread()}\n")
        return None if quiet or json else run.brief_once()

    def _shower(self, quiet: bool, no_widget: bool) -> Callable[..., Run]:
        """How a run is shown here: not at all, as text in a terminal, with or without a widget."""
        if quiet:
            return lambda engine, prompt, options: engine.generate(prompt, **options)
        if not hasattr(self.shell, "kernel"):
            return stream_text
        live = self.widget and not no_widget and attended()
        return show_run if live else show_result

    def _defaults(self, kind: type[LoadOptions | GenerateOptions]) -> dict[str, Any]:
        """The options `%config` has set."""
        found = {spec.name: getattr(self, spec.name) for spec in fields(kind)}
        return {name: value for name, value in found.items() if value is not None}

    def _loaded(self) -> Engine:
        if self.engine is None or self.engine.closed:
            raise OutlierError("no model is loaded: run `%outlier load demo` first")
        return self.engine

    def _store(self, name: str | None, value: object) -> None:
        if name is not None:
            self.shell.user_ns[name] = value


def as_json(record: Status | Summary) -> str:
    """A record of ours as JSON; what was not counted (NaN) is null."""
    values = asdict(record)
    bare = {k: None if isinstance(v, float) and isnan(v) else v for k, v in values.items()}
    return dumps(bare)


def stream_text(engine: Engine, prompt: str, options: dict[str, Any]) -> Run:
    """Generate from `prompt` and write the text to the terminal as it comes."""
    for step in engine.stream(prompt, **options):
        sys.stdout.write(step.text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    assert engine.last_run is not None
    return engine.last_run


def keep_question(lines: list[str]) -> list[str]:
    """`%outlier run What is an expert?` is a prompt: IPython would take its end for a request.

    One of its input transformers; the line becomes what IPython makes of a magic.
    """
    return [
        f"{found[1]}get_ipython().run_line_magic('outlier', {found[2]!r})\n"
        if (found := QUESTION.fullmatch(line))
        else line
        for line in lines
    ]


def register(shell: InteractiveShell) -> None:
    """Add the magics to `shell`, remembering what stood under their name."""
    OutlierMagics.outlier.__doc__ = help_text()
    keep_reading()
    magics = OutlierMagics(shell)
    shell.register_magics(magics)

    def complete(_: object, event: Any) -> list[str]:
        return completions(event.text_until_cursor, shell.user_ns)

    shell.input_transformers_cleanup.append(keep_question)
    for name in HOOKED:
        shell.set_hook("complete_command", complete, str_key=name)


def unregister(shell: InteractiveShell) -> None:
    """Close the engine and put back what stood under the magics' name."""
    table = shell.magics_manager.magics
    magics = getattr(table["line"].get("outlier"), "__self__", None)
    if not isinstance(magics, OutlierMagics):
        return
    magics.unload()
    if keep_question in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(keep_question)
    for kind, before in magics.replaced.items():
        if before is None:
            table[kind].pop("outlier", None)
        else:
            table[kind]["outlier"] = before
    shell.magics_manager.registry.pop("OutlierMagics", None)
    shell.configurables.remove(magics)  # type: ignore[arg-type]  # it holds magics, too
    for name in HOOKED:
        shell.strdispatchers["complete_command"].strs.pop(name, None)
