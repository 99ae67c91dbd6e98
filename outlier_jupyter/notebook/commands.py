"""The commands of `%outlier`, a line each; pure data."""

from __future__ import annotations

COMMANDS = {
    "load": "load a model: demo, a folder, or a Hugging Face id",
    "run": "run the rest of the line as a prompt, flags first",
    "plan": "what a model weighs and which cache size to take, before it is loaded",
    "repack": "rewrite a model's experts so that each is one straight read",
    "bench": "measure this machine, in minutes; --disk, --memory: how fast they can be read",
    "chat": "chat with the loaded model in a widget",
    "compare": "put runs beside each other: where their routing parts, what each would have read",
    "explain": "why a token of a run took so long: its parts, its layers, its reads",
    "expert": "the tokens that chose an expert, LAYER:EXPERT, over all runs held",
    "tokens": "the experts that a token or a span, FIRST:LAST, chose",
    "what-if": "what other cache sizes and policies would have hit, read and given",
    "measures": "how a run was routed, by layer: balance, locality, confidence; or as figures",
    "atlas": "a map of the experts: those that the same tokens choose near each other; of all runs",
    "view": "a run in the live view, to scrub through, replay and look into",
    "save": "write a run to one file: its trace and its texts",
    "open": "read a saved run, or a trace recorded elsewhere; no model is needed",
    "report": "write a run to one page of HTML that needs nothing else",
    "ablate": "mask experts and see how much less likely texts become, against random masks",
    "sweep": "try values of top_k, the cache's size, policy or reader: speed, loss, coherence",
    "resize": "give the expert cache another size; what was used last stays in it",
    "unload": "close the engine and free its memory",
    "status": "what is loaded, and how much of it sits in RAM",
    "memory": "where the memory of this process is",
}
ASKING = ("explain", "expert", "tokens", "what-if", "measures", "atlas", "view", "save",
          "open", "report")  # fmt: skip
"""The commands that ask a finished run, or keep it."""
MODEL = COMMANDS["load"].partition(": ")[2]
JSON = {"resize": "the status", "status": "the status", "memory": "the numbers, in bytes"}
"""The commands that have `--json`, and what it prints."""
