"""Runs a notebook in a real kernel and saves it as one HTML page that needs no kernel.

    python tools/run_example.py examples/01_quickstart.ipynb build/01_quickstart.html

The page has the live view of each run, to scrub and replay, as a run's report has it. Prints the
page's path and what the notebook's cells tagged `summary` printed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from tqdm import tqdm
from traitlets.config import Config

from outlier_jupyter.notebook.live.page import assets

WIDGET = "application/vnd.jupyter.widget-view+json"
LIVE_VIEWS = (
    "from IPython.display import display\n"
    "from outlier_jupyter.notebook.live.page import pages\n"
    "display({'application/json': pages()}, raw=True)"
)
"""The last cell, which is not on the page."""

# Outside JupyterLab a page has no plotly, so the kernel embeds the library.
os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype+notebook")


def run(notebook: nbformat.NotebookNode, folder: Path) -> dict[str, str]:
    """Execute every cell in place, with a progress bar; a cell that fails raises.

    Returns:
        The live view of each run as HTML, by the class of the static view that stands for it.
    """
    last = nbformat.v4.new_code_cell(LIVE_VIEWS)
    notebook.cells.append(last)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    with (
        TemporaryDirectory() as sockets,
        tqdm(total=len(cells), unit="cell", desc="running", leave=False) as bar,
    ):
        client = NotebookClient(
            notebook,
            # Sockets in a folder of their own, in place of ports.
            config=Config(
                {
                    "KernelManager": {
                        "transport": "ipc",
                        "connection_file": str(Path(sockets) / "kernel.json"),
                    }
                }
            ),
            timeout=600,
            resources={"metadata": {"path": str(folder)}},
            on_notebook_start=lambda **_: as_attended(client),
            on_cell_executed=lambda **_: bar.update(),
        )
        client.execute()
    notebook.cells.remove(last)
    found: dict[str, str] = last.outputs[0].data["application/json"]
    return found


def as_attended(client: NotebookClient) -> None:
    """Let the notebook show live views, as it does if somebody could be asked for input."""
    assert client.kc is not None
    client.kc.allow_stdin = True


def page(notebook: nbformat.NotebookNode, title: str, views: dict[str, str]) -> str:
    """The executed notebook as HTML that fetches nothing, with these live views."""
    leave_out_widgets(notebook)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            found = [view for name, view in views.items() if f' oj-saved {name}"' in html]
            if found:
                output.data["text/html"] = found[0]
    body, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": title}})
    # The template and plotly load MathJax from the web; no page here needs it.
    body = re.sub(r'<script src="[^"]*">\s*</script>', "", str(body))
    return body.replace("</body>", f"{assets()}</body>") if views else body


def leave_out_widgets(notebook: nbformat.NotebookNode) -> None:
    """Remove widget outputs: showing them would fetch a widget manager."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        kept = [out for out in cell.get("outputs", []) if WIDGET not in out.get("data", {})]
        if "outputs" in cell:
            cell.outputs = kept


def summary(notebook: nbformat.NotebookNode) -> str:
    """The printed text of the cells tagged `summary`."""
    tagged = [cell for cell in notebook.cells if "summary" in cell.metadata.get("tags", [])]
    streams = [out for cell in tagged for out in cell.outputs if out.output_type == "stream"]
    return "".join(out.text for out in streams)


def main() -> int:
    """Run the notebook, write the page, print the summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("html", type=Path)
    args = parser.parse_args()
    notebook = nbformat.read(args.notebook, as_version=4)
    views = run(notebook, args.notebook.parent)
    args.html.parent.mkdir(parents=True, exist_ok=True)
    args.html.write_text(page(notebook, args.notebook.stem, views))
    sys.stdout.write(f"{args.html}\n{summary(notebook)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
