"""The magics without a browser: nbclient (nbconvert, papermill) and plain `ipython`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"


def test_run_all_stops_at_an_error_and_keeps_what_was_shown(tiny: Path, tmp_path: Path) -> None:
    """Runs end as static views, a chat as its transcript, and a mistake ends the notebook."""
    sources = [
        f"%load_ext outlier_jupyter\n%outlier load {tiny} --cache-experts 6 -o engine",
        "%%outlier --max-tokens 3 -o run\nHello",
        "%outlier run --max-tokens 3 --no-widget -o line Hello from a line;",
        "%outlier chat --max-tokens 3 -o chat",
        "chat.send('Is anybody there?');",
        "run2 = await engine.agenerate('And now?', max_tokens=2)\nprint(run2.generated)",
        "%%outlier --max-token 3\nHello",
        "print('never')",
    ]
    notebook, client = executed(tmp_path, *sources)
    with pytest.raises(CellExecutionError, match="did you mean --max-tokens"):
        client.execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert outputs[-1] == [] and notebook.cells[-1].execution_count is None
    shown, result = outputs[1]
    assert "oj-static" in shown.data["text/html"] and "oj-static" not in result.data["text/html"]
    assert [out.output_type for out in outputs[2]] == ["display_data"]
    (saved,) = outputs[3]
    assert "Is anybody there?" in saved.data["text/html"]
    assert outputs[5][0].text == "2\n"


def executed(folder: Path, *sources: str) -> tuple[nbformat.NotebookNode, NotebookClient]:
    """A notebook with these cells, and the client that executes it."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    connection = str(folder / "kernel.json")
    config = Config({"KernelManager": {"transport": "ipc", "connection_file": connection}})
    return notebook, NotebookClient(notebook, config=config, timeout=300)


def widgets_of(notebook: nbformat.NotebookNode) -> tuple[dict[str, Any], set[str]]:
    """The widgets whose state a notebook keeps, and those that an output shows."""
    kept = notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {})
    outputs = [out for cell in notebook.cells for out in cell.outputs]
    views = [out.data[VIEW] for out in outputs if VIEW in out.get("data", {})]
    return kept, {view["model_id"] for view in views}


def test_a_notebook_executed_by_a_program_keeps_no_widget_that_nothing_shows(
    tiny: Path, tmp_path: Path
) -> None:
    """It has no widget of progress bars, runs, watched runs or chats, but static views; that of a
    watched run appears after a wait for the run.
    """
    sources = [
        f"%load_ext outlier_jupyter\n%outlier load {tiny} --cache-experts 6 -o engine",
        "from outlier_jupyter.system.progress import Progress\nfor _ in Progress(range(3)): pass",
        "%%outlier --max-tokens 3 -o run\nHello",
        "import outlier_jupyter\nwatched = outlier_jupyter.watch(engine, 'Hello', max_tokens=3)\n"
        "display(watched)\nwatched.wait();",
        "chat = outlier_jupyter.Chat(engine, max_tokens=3)\nchat.watch = True\nchat",
        "chat.send('Hello')\nchat.show_run(1)\nchat.close()",
    ]
    notebook, client = executed(tmp_path, *sources)
    client.execute()
    assert "widgets" not in notebook.metadata and widgets_of(notebook) == ({}, set())
    (shown,) = notebook.cells[3].outputs
    assert "Generated text" in shown.data["text/html"]
    assert not notebook.cells[1].outputs


def test_run_all_goes_on_over_a_watched_run(tiny: Path, tmp_path: Path) -> None:
    """The next run prints that it waits for the run of `watch`, waits, and runs."""
    sources = [
        f"%load_ext outlier_jupyter\n%outlier load {tiny} --cache-experts 6 -o engine;",
        "import outlier_jupyter, time\nfrom outlier_jupyter.events import StepDone\n"
        "engine.tokenizer.eos_token_ids = set()\n"
        "engine.subscribe(lambda done: time.sleep(0.05), StepDone)\n"  # lasts until the next cell
        "watched = outlier_jupyter.watch(engine, 'Hello', max_tokens=100)\n"
        "while not engine.run_lock.must_wait:\n    time.sleep(0.01)\nwatched",
        "%%outlier --max-tokens 3 -o run\nAnd now?",
        "print(watched.run.generated, run.generated)",
    ]
    notebook, client = executed(tmp_path, *sources)
    client.execute()
    printed, shown, _ = notebook.cells[2].outputs
    assert printed.text == "Waiting for another run of this engine to end.\n"
    assert "And now?" in shown.data["text/html"] and notebook.cells[3].outputs[0].text == "100 3\n"


def test_what_is_shown_as_a_widget_keeps_its_state(tiny: Path, tmp_path: Path) -> None:
    """A finished run in the live view, by itself and in a box, can be inspected later."""
    sources = [
        f"import outlier_jupyter, ipywidgets\nengine = outlier_jupyter.load({str(tiny)!r})\n"
        "run = engine.generate('Hello', max_tokens=3)\nrun.view()",
        "ipywidgets.HBox([run.view()])",
    ]
    notebook, client = executed(tmp_path, *sources)
    client.execute()
    kept, shown = widgets_of(notebook)
    assert len(shown) == 2 and shown <= set(kept)
    ours = [each for each in kept.values() if each["model_name"] == "AnyModel"]
    assert len(ours) == 2 and all(each["buffers"] for each in ours)


def test_plain_ipython_streams_text(tiny: Path, tmp_path: Path) -> None:
    """In a terminal the text comes as text, then the run's line; a chat is a line."""
    script = tmp_path / "session.ipy"
    script.write_text(
        "%load_ext outlier_jupyter\n"
        f"%outlier load {tiny} --cache-experts 6 -o engine\n"
        "%outlier run --max-tokens 3 -o run Hello\n"
        "print(repr(run.text))\n"
        "display(__import__('outlier_jupyter').Chat(engine))\n"
        "%outlier lode\n"
        "print('never')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--colors=NoColor", "--no-banner", str(script)],
        capture_output=True,
        check=False,
        env={"IPYTHONDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    printed = done.stdout.decode(errors="replace")
    text = next(line for line in printed.splitlines() if line.startswith(("'", '"')))
    assert eval(text).replace("\ufffd", "")[:1] in printed
    assert "Chat(" in printed and "0 messages" in printed
    assert "did you mean load?" in printed + done.stderr.decode() and "never" not in printed
