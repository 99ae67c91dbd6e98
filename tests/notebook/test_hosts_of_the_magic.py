"""The magics where nobody looks on: nbclient (nbconvert, papermill) and plain `ipython`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config


def test_run_all_stops_at_an_error_and_keeps_what_was_shown(tiny: Path, tmp_path: Path) -> None:
    """Runs leave static views, a chat its transcript, a mistake ends the notebook there."""
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
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    connection = str(tmp_path / "kernel.json")
    config = Config({"KernelManager": {"transport": "ipc", "connection_file": connection}})
    client = NotebookClient(notebook, config=config, timeout=300)
    with pytest.raises(CellExecutionError, match="did you mean --max-tokens"):
        client.execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert outputs[-1] == [] and notebook.cells[-1].execution_count is None
    shown, result = outputs[1]
    assert "text/html" in shown.data and set(result.data) == {"text/plain"}
    assert [out.output_type for out in outputs[2]] == ["display_data"]
    _, saved = outputs[3]
    assert "Is anybody there?" in saved.data["text/html"]
    assert outputs[5][0].text == "2\n"


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
    said = done.stdout.decode(errors="replace")
    text = next(line for line in said.splitlines() if line.startswith(("'", '"')))
    assert eval(text).replace("\ufffd", "")[:1] in said
    assert "Chat(" in said and "0 messages" in said
    assert "did you mean load?" in said + done.stderr.decode() and "never" not in said
