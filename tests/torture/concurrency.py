"""Threads of one process at the same engine: cells, `watch`, a chat, `stop`, `resize` and `close`,
drawn at random, with subscribers that sleep or raise, beside a second engine; each call ends with
the tokens of a fresh engine (a prefix, if it was stopped) or with an error of the package's own,
and a watchdog sees that all of them end. Loads run beside runs, and are left by threads. Every way
out of the interpreter: in the middle of a run, a stream, a load, a chat's answer or a watched run,
on daemon and other threads, by `sys.exit`, a signal or a kernel's shutdown, and after a fork; each
in a process of its own, which must end by itself, in order, with nothing on its error output.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import outlier_jupyter
from outlier_jupyter import Chat, Engine
from outlier_jupyter.engine import event_bus
from outlier_jupyter.errors import EngineBusy, EngineClosed
from outlier_jupyter.events import StepDone
from outlier_jupyter.runs.run import Interrupted
from tests.interrupting import threads
from tests.torture.child import ROOT, run_child
from tests.torture.counts import Counts, deadline

TITLE = "Threads, and ways out"
GROUP = 7.0
QUICK_S = 2.0
LONG_S = 300.0
UNITS = ("threads", "exits")
WATCHDOG_S = 60.0
SHORT_S = 30.0
"""With less time there is one way out: tests/engine/test_threads.py has some of the others."""
WORDS = ("What is an expert?", "Once upon a time", "Hello")
OPTIONS: dict[str, Any] = {"cache_experts": 24, "quiet": True}


class Room:
    """One engine and what the threads of a round do with it."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.engine = self.opened()
        self.wanted = {text: self.engine.generate(text, max_tokens=12).tokens.tolist()
                       for text in WORDS}  # fmt: skip
        self.wrong: list[str] = []
        self.stops = False

    def opened(self) -> Engine:
        """A fresh engine."""
        engine = outlier_jupyter.load("demo", **OPTIONS)
        engine.tokenizer.eos_token_ids = set()
        return engine

    def run_of(self, engine: Engine, text: str) -> None:
        """A cell."""
        try:
            found = engine.generate(text, max_tokens=12).tokens.tolist()
            if found != self.wanted[text]:
                self.wrong.append(f"{text!r} gave {found}")
        except Interrupted as stopped:
            found = stopped.run.tokens.tolist()
            if not self.stops or found != self.wanted[text][: len(found)]:
                self.wrong.append(f"{text!r} was stopped with {found}")

    def cell(self) -> None:
        """A run."""
        self.run_of(self.engine, self.rng.choice(WORDS))

    def stream(self) -> None:
        """A stream that is left after a few steps."""
        for number, _ in enumerate(self.engine.stream(WORDS[0], max_tokens=12)):
            if number == 4:
                break

    def watched(self) -> None:
        """A run that `watch` begins, sometimes closed in its middle."""
        view = outlier_jupyter.watch(self.engine, WORDS[1], max_tokens=12)
        if self.rng.random() < 0.3:
            view.close()
            return
        try:
            view.wait()
        except Interrupted:
            if not self.stops:
                self.wrong.append("a watched run was interrupted")
        finally:
            view.close()

    def chat(self) -> None:
        """A question to a chat, sometimes stopped."""
        chat = Chat(self.engine, max_tokens=12)
        if self.rng.random() < 0.3:
            threading.Timer(0.05, chat.stop).start()
        try:
            chat.send(WORDS[2])
        except Interrupted:
            pass
        finally:
            chat.close()

    def resize(self) -> None:
        """Another cache size."""
        self.engine.resize(cache_experts=self.rng.choice((8, 24, 60)))

    def stop(self) -> None:
        """Whatever runs is stopped."""
        time.sleep(self.rng.random() * 0.1)
        self.engine.stop()

    def close(self) -> None:
        """The engine is closed."""
        time.sleep(self.rng.random() * 0.1)
        self.engine.close()

    def another(self) -> None:
        """A second engine is loaded, runs, and is closed."""
        with self.opened() as engine:
            try:
                found = engine.generate(WORDS[0], max_tokens=12).tokens.tolist()
            except Interrupted:
                found = []
            if found != self.wanted[WORDS[0]]:
                self.wrong.append(f"a second engine gave {found}")

    def unhappy(self) -> None:
        """A subscriber that sleeps or raises."""

        def sink(event: StepDone) -> None:
            if raises:
                raise ValueError("made to fail")
            time.sleep(0.02)

        raises = self.rng.random() < 0.5
        unsubscribe = self.engine.subscribe(sink, StepDone)
        self.cell()
        unsubscribe()

    def ended(self, act: Callable[[], None]) -> None:
        """Call `act`; an error of another kind than these is wrong."""
        try:
            act()
        except (EngineClosed, EngineBusy):
            pass  # refused, as documented: it is closed, or a stream is open
        except Interrupted:
            if not self.stops:
                self.wrong.append(f"{act.__name__} was interrupted")
        except BaseException as error:
            self.wrong.append(f"{act.__name__} raised {type(error).__name__}: {error}")

    def round(self) -> tuple[str, str]:
        """Two to four things at a time; what they were, and what was wrong."""
        acts = (self.cell, self.stream, self.watched, self.chat, self.resize, self.stop, self.close,
                self.another, self.unhappy)  # fmt: skip
        chosen = self.rng.choices(acts, (6, 2, 3, 3, 2, 2, 1, 2, 2), k=self.rng.choice((2, 3, 4)))
        self.wrong, self.stops = [], any(act in (self.stop, self.close) for act in chosen)
        workers = [threading.Thread(target=self.ended, args=(act,), daemon=True) for act in chosen]
        for worker in workers:
            worker.start()
        end = time.monotonic() + WATCHDOG_S
        for worker in workers:
            worker.join(max(0.0, end - time.monotonic()))
        names = " beside ".join(sorted(act.__name__ for act in chosen))
        if any(worker.is_alive() for worker in workers):
            raise AssertionError(f"{names}: a thread still waits after {WATCHDOG_S} s")
        if self.engine.closed:
            self.engine = self.opened()
        self.stops = False
        self.ended(self.cell)
        return f"{len(chosen)} threads at a time", f"{names}: {self.wrong[0]}" if self.wrong else ""


def at_once(seconds: float, seed: int) -> Counts:
    """Rounds of threads."""
    counts, more = Counts(), deadline(seconds)
    quiet, event_bus.log.disabled = event_bus.log.disabled, True
    try:
        room = Room(Random(seed))
        while more() or counts.times < 3:
            try:
                tried, failed = room.round()
            except AssertionError as error:
                counts.add("rounds", failed=str(error))
                return counts
            counts.add(tried, failed=failed)
        room.engine.close()
    finally:
        event_bus.log.disabled = quiet
    left = [name for name in threads() if name.startswith("outlier-read")]
    counts.add("closes, after which no reader's thread is left", failed=", ".join(left))
    return counts


BEGIN = """
import os, sys, threading, time, signal
import outlier_jupyter
from outlier_jupyter.events import StepDone
kernels = sys.argv[1]
def load(): return outlier_jupyter.load("demo", cache_experts=24, quiet=True, kernels=kernels)
engine = load()
engine.tokenizer.eos_token_ids = set()
begun = threading.Event()
engine.subscribe(lambda event: begun.set(), StepDone)
def run(): engine.generate("Tell me " * 50, max_tokens=400)
from outlier_jupyter.errors import EngineClosed
from outlier_jupyter.runs.run import Interrupted
def beside(act, daemon=True):
    def work():
        try: act()
        except (EngineClosed, Interrupted): pass
    thread = threading.Thread(target=work, daemon=daemon)
    thread.start()
    return thread
"""
EXITS = {
    "an idle engine": "",
    "a daemon's run": "beside(run); begun.wait()",
    "another thread's run": "beside(run, False); begun.wait()",
    "sys.exit beside a run": "beside(run); begun.wait(); print('exits', flush=True); sys.exit(0)",
    "an open stream": "steps = engine.stream('Hello', max_tokens=40); next(steps)",
    "a watched run": "view = outlier_jupyter.watch(engine, 'Hi', max_tokens=3000); begun.wait()",
    "a chat's answer":
        "chat = outlier_jupyter.Chat(engine, max_tokens=4000)\n"
        "beside(lambda: chat.send('Hello')); begun.wait()",
    "a load": "beside(load); time.sleep(0.05)",
    "a load on a thread that must end": "beside(load, False); time.sleep(0.05)",
    "a close beside a run": "beside(run); begun.wait(); engine.close()",
    "a resize that waits":
        "beside(run); begun.wait(); beside(lambda: engine.resize(cache_experts=48))",
    "a subscriber that sleeps":
        "engine.subscribe(lambda event: time.sleep(0.5), StepDone); beside(run); begun.wait()",
    "a fork, whose child only exits":
        "child = os.fork()\nif not child: sys.exit(0)\nassert os.waitpid(child, 0)[1] == 0",
    "a fork in a run's middle":
        "beside(run); begun.wait(); child = os.fork()\n"
        "if not child: os._exit(0)\nassert os.waitpid(child, 0)[1] == 0; engine.stop()",
    "a fork, whose child wants to load":
        "child = os.fork()\nif not child:\n"
        "    try: load()\n    except EngineClosed: os._exit(0)\n    os._exit(1)\n"
        "assert os.waitpid(child, 0)[1] == 0",
    "a magic's unload beside a watched run":
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance(); shell.run_line_magic('load_ext', 'outlier_jupyter')\n"
        "shell.run_line_magic('outlier', 'load demo --cache-experts 24 --quiet -o mine')\n"
        "view = outlier_jupyter.watch(shell.user_ns['mine'], 'Hi', max_tokens=4000)\n"
        "time.sleep(0.2); shell.run_line_magic('outlier', 'unload')",
}  # fmt: skip
SIGNALLED = {"SIGTERM beside a run": signal.SIGTERM, "SIGINT beside a run": signal.SIGINT}


def way_out(name: str, kernels: str) -> str:
    """Leave a process; what was wrong, or ""."""
    code = BEGIN + EXITS[name] + "\nprint('exits', flush=True)\n"
    ended = run_child(kernels, code=code, timeout_s=WATCHDOG_S)
    failed = ended.failure("exits")
    return failed or (f"it wrote {ended.errors.strip()[-200:]!r}" if ended.errors.strip() else "")


def signalled(number: signal.Signals, kernels: str) -> str:
    """End a process by a signal, in the middle of the main thread's run.

    A shell that starts this one in the background has its children ignore SIGINT.
    """
    code = (
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n" + BEGIN
        + "engine.subscribe(lambda event: print('runs', flush=True), StepDone)\nrun()\n"
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", code, kernels], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    try:
        _, errors = process.communicate(timeout=WATCHDOG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "it hangs"
    last = errors.decode(errors="replace").strip()[-200:]
    right = (-signal.SIGTERM,) if number == signal.SIGTERM else (-signal.SIGINT, 1, 130)
    return "" if process.returncode in right else f"it ended with {process.returncode}: {last}"


def kernel_shutdown() -> str:
    """Shut down a Jupyter kernel in the middle of a cell's run; it ends by itself."""
    from jupyter_client.manager import KernelManager

    with tempfile.TemporaryDirectory(prefix="oj", dir="/tmp") as folder:  # a socket's path is short
        connection = str(Path(folder) / "kernel.json")
        manager = KernelManager(transport="ipc", connection_file=connection)
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=3 * WATCHDOG_S)
            begun = Path(folder) / "begun"
            client.execute(
                "import outlier_jupyter, pathlib\nfrom outlier_jupyter.events import StepDone\n"
                "engine = outlier_jupyter.load('demo', cache_experts=24, quiet=True)\n"
                "engine.tokenizer.eos_token_ids = set()\n"
                f"engine.subscribe(lambda event: pathlib.Path({str(begun)!r}).touch(), StepDone)\n"
                "view = outlier_jupyter.watch(engine, 'Hi', max_tokens=100_000)"
            )
            end = time.monotonic() + 3 * WATCHDOG_S
            while not begun.exists():
                if time.monotonic() > end:
                    return "no run began in the kernel"
                time.sleep(0.05)
            end = time.monotonic() + WATCHDOG_S
            client.shutdown()
            while manager.is_alive() and time.monotonic() < end:
                time.sleep(0.05)
            return "the kernel did not end" if manager.is_alive() else ""
        except RuntimeError as error:
            return f"no kernel began: {error}"
        finally:
            client.stop_channels()
            if manager.is_alive():
                manager.shutdown_kernel(now=True)


def exits(seconds: float, seed: int) -> Counts:
    """Every way out, with both kinds of kernels, again until the time is over; or two of them."""
    counts, more, rng = Counts(), deadline(seconds), Random(seed)
    ways = [(name, kernels) for name in EXITS for kernels in ("auto", "mlx")]
    if seconds < SHORT_S:
        ways = [("a watched run", "auto")]
    else:
        counts.add("a kernel's shutdown beside a watched run", failed=kernel_shutdown())
    first = True
    while first or more():
        rng.shuffle(ways)
        for name, kernels in ways:
            if not first and not more():
                break
            counts.add(f"exit: {name}", failed=way_out(name, kernels))
        if seconds >= SHORT_S:
            for name, number in SIGNALLED.items():
                counts.add(f"exit: {name}", failed=signalled(number, rng.choice(("auto", "mlx"))))
        first = False
    return counts


def torture(seconds: float, seed: int, scratch: Path, unit: str) -> Counts:
    """Threads at once, or ways out."""
    return at_once(seconds, seed) if unit == "threads" else exits(seconds, seed)
