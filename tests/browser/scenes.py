"""The views with fixed contents on a bare page: no kernel, no server, always the same.

A scene of a widget has the traits that the Python half sends to the page, made from an invented run
and an invented conversation. The page runs the built JavaScript with a model that only stores them,
so that a picture depends on these contents, the style sheets and the browser alone. The static view
and the report are pages of their own.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from playwright.sync_api import Locator, Page, Route

from outlier_jupyter.notebook.chat.controls import NAMES, Settings, controls
from outlier_jupyter.notebook.chat.conversations import Conversations
from outlier_jupyter.notebook.chat.tool_calls import ToolCall
from outlier_jupyter.notebook.chat.view_state import chat_state
from outlier_jupyter.notebook.live.finished_run import frame_of_run
from outlier_jupyter.notebook.live.frames import encode
from outlier_jupyter.notebook.live.widget import LiveView
from outlier_jupyter.notebook.page_modules import MODULES, STATIC
from outlier_jupyter.notebook.render.static import run_bundle
from outlier_jupyter.notebook.render.static.report import report
from outlier_jupyter.runs.run import Run
from outlier_jupyter.trace.segments import KINDS
from tests.notebook.conftest import build

WIDTHS = (500, 1000, 1280, 1700)
THEMES = {"light": "#ffffff", "dark": "#111111"}
ORIGIN = "http://scene.invalid"
"""The page's address; the test answers every request itself, without a network."""

WORDS = (
    "A Mixture-of-Experts layer holds many small networks and asks a router which of them a token "
    "needs. Only those are computed, so only those have to be in memory. The others wait on disk, "
    "and are read when a token asks for them: the first of its kind waits, the next one does not."
)
ANSWER = r"""The router scores every expert and takes the best `k`:

1. the scores of all experts, one product;
2. the *top k* of them, and their weights;
3. **only these** are read, if they are not in RAM.

```python
def route(x: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(x @ router))[:k]  # the others are not touched
```

| layer | experts | hit rate |
|---|---:|---:|
| 0 | 64 | 0.91 |
| 1 | 64 | 0.78 |

The weights of the chosen are a softmax, here of $k = 4$ out of \(E = 64\):

$$
w_e = \frac{\exp(x^\top r_e)}{\sum_{j \in \mathrm{top}_k} \exp(x^\top r_j)}
$$
"""


def invented_run(text: str = WORDS, seed: int = 5) -> Run:
    """A finished run of 120 tokens in 16 layers of 64 experts."""
    trace = build(steps=140, layers=16, experts=64, k=4, slots=400, prompt=20, seed=seed)
    # The last token of the prompt produces the first generated one, and so on.
    produced = np.r_[np.full(19, -1), np.arange(121)].astype(np.int32)
    ends = np.linspace(0, len(text), 122).astype(np.int32)[1:]
    calls = trace.calls.copy()
    wait = 1 + np.arange(len(calls)) % 7
    shares = {"outside_ns": 9, "experts_ns": 3, "route_ns": 0.3, "lookup_ns": 1,
              "read_wait_ns": wait, "install_ns": 1, "sample_ns": 2, "watch_ns": 0.2}  # fmt: skip
    for name, share in shares.items():
        calls[name] = share * calls["steps"] * 1_000_000
    calls["forward_ns"] = calls["outside_ns"] + calls["experts_ns"]
    calls["ns"] = (16.5 + wait) * calls["steps"] * 1_000_000
    step_ns = np.repeat(calls["ns"] // calls["steps"], calls["steps"])
    return Run(
        prompt="How does a router choose?",
        encoded="",
        text=text,
        tokens=np.arange(121, dtype=np.int32),
        finish_reason="length",
        trace=replace(
            trace,
            produced=produced,
            calls=calls,
            step_ns=step_ns,
            info=replace(trace.info, kernels="cpu", policy="lru"),
        ),
        text_ends=ends,
    )


def thinking_run() -> Run:
    """An invented run that thinks before it answers, with what the model found likely."""
    run = invented_run()
    trace, words, rng = run.trace, WORDS.split(), np.random.default_rng(3)
    shares = -np.sort(-rng.dirichlet(np.full(5, 0.6), trace.steps))
    alternatives = 1000 * np.arange(1, 6) + rng.integers(0, len(words), (trace.steps, 5))
    ranks = rng.choice([1, 1, 1, 2, 3, 40], trace.steps)
    among = (trace.produced >= 0) & (ranks <= 5)
    alternatives[among, ranks[among] - 1] = trace.produced[among]
    logprobs = np.log(0.98 * shares + 1e-6)
    own = np.where(ranks <= 5, logprobs[np.arange(trace.steps), np.minimum(ranks, 5) - 1], -7)
    kinds = np.full(trace.steps + 1, KINDS.index("answer"), np.uint8)
    kinds[:20], kinds[21:60] = KINDS.index("user"), KINDS.index("thinking")
    kinds[[20, 60]] = KINDS.index("template")
    trace = replace(
        trace,
        logprobs=np.where(trace.produced < 0, np.nan, own).astype(np.float32),
        ranks=ranks.astype(np.int32),
        entropies=-(shares * np.log(shares + 1e-9)).sum(axis=1).astype(np.float32),
        alternatives=alternatives.astype(np.int32),
        alternative_logprobs=logprobs.astype(np.float32),
        kinds=kinds,
    )
    return replace(run, trace=trace, spell=lambda t: f" {words[t % 1000 % len(words)]}".encode())


def live_traits(run: Run | None = None, running: bool = False) -> dict[str, Any]:
    """The live view of a run, by default `invented_run`; in the middle of it if `running`."""
    run = invented_run() if run is None else run
    view = LiveView.of(run)
    traits = {n: getattr(view, n) for n in ("info", "status", "snapshot", "kernel_id", "view_id")}
    view.close()
    if running:
        traits |= {"status": "running", "snapshot": encode(replace(frame_of_run(run), final=False))}
    return traits


def pair_traits() -> dict[str, Any]:
    """Two runs of the same prompt whose texts part."""
    other = WORDS.replace("The others wait on disk", "All others stay on disk")
    return {
        "one": live_traits(),
        "other": live_traits(invented_run(other, seed=6)),
        "names": ["k=4", "k=2"],
    }


def chat_traits() -> dict[str, Any]:
    """A conversation of two turns, with a branch, code, a formula, thinking and tool calls."""
    conversations = Conversations()
    conversation = conversations.current
    first = conversation.add(conversation.end, "user", "How does a router choose?")
    answer = conversation.add(first.id, "assistant", ANSWER, "stop")
    answer.thinking = {"text": "First the scores, then the top *k*.", "seconds": 12.3,
                       "tokens": 310}  # fmt: skip
    answer.numbers = {"prompt": 31, "reused": 0, "generated": 142, "tokens_per_second": 41.2,
                      "run": 1}  # fmt: skip
    conversation.add(answer.id, "user", "And if it is not in RAM?")
    question = conversation.add(answer.id, "user", "And what if an expert is\nnot in RAM?")
    last = conversation.add(question.id, "assistant", WORDS, "length")
    last.numbers = {"prompt": 190, "reused": 173, "generated": 60, "tokens_per_second": 38.4,
                    "run": 2}  # fmt: skip
    last.thinking = {"text": "Is it on disk?\n\n- `pread` into a slot\n- the token waits",
                     "seconds": 1.4, "tokens": 22}  # fmt: skip
    last.tool_calls = [
        ToolCall("call00001", "expert_size", {"layer": 3, "expert": 12}, "done", "2000000"),
        ToolCall("call00002", "read_file", {"path": "layer-3.bin"}, "failed", "No such file."),
        ToolCall("call00003", "evict", {"layer": 3, "experts": [7, 12]}),
    ]
    settings = Settings()
    return {name: getattr(settings, name) for name in NAMES} | {
        "state": chat_state(conversations, None, 1),
        "controls": controls({}),
        "status": "idle",
        "watch": False,
        "live": None,
        "notice": "",
        "draft": "",
        "blocking": False,
        "kernel_id": "",
        "view_id": "scene",
        "info": {"model": "made-up MoE", "context": 4096, "slots": 400, "experts": 1024,
                 "expert_nbytes": 2_000_000, "reader": "direct", "changed_output": ""},
    }  # fmt: skip


def scrub(page: Page) -> None:
    """Move the playhead to a token in the middle."""
    page.locator(".oj-token").nth(60).click()
    page.mouse.move(1, 1)


def all_drawn(page: Page) -> None:
    """Open what the model thought last, and show all once the modules have arrived."""
    page.wait_for_selector(".oj-code-kwd")
    page.wait_for_selector("math")
    page.locator(".oj-thinking summary").last.click()
    page.locator(".oj-messages").evaluate("log => { log.style.maxHeight = 'none'; }")


def colour_by_segment(page: Page) -> None:
    """Show what each token belongs to, at a token of the thinking."""
    page.locator(".oj-colour").select_option("segment")
    page.locator(".oj-token").nth(24).click()
    page.mouse.move(1, 1)


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    Attributes:
        root: the selector of the part that is pictured.
        widget: the built script and style sheet; "" for a page that has its own.
        traits: of the widget.
        html: of the page without a widget.
        then: what is done on the page before the picture.
    """

    root: str = ".oj-root"
    widget: str = ""
    traits: Callable[[], dict[str, Any]] = dict
    html: Callable[[], str] = str
    then: Callable[[Page], None] = lambda page: None


SCENES = {
    "live": Scene(widget="live", traits=live_traits),
    "running": Scene(widget="live", traits=lambda: live_traits(running=True)),
    "scrubbed": Scene(widget="live", traits=live_traits, then=scrub),
    "pair": Scene(widget="compare", traits=pair_traits, then=scrub),
    "static": Scene(".oj-static", html=lambda: str(run_bundle(invented_run())["text/html"])),
    "report": Scene(html=lambda: report(invented_run())),
    "thinking": Scene(html=lambda: report(thinking_run()), then=colour_by_segment),
    "chat": Scene(widget="chat", traits=chat_traits, then=all_drawn),
}
STYLE = """<style>body{margin:0;background:%(ground)s;--jp-layout-color1:%(ground)s;
--jp-layout-color0:%(ground)s;
--jp-ui-font-family:"DejaVu Sans";--jp-code-font-family:"DejaVu Sans Mono"}</style>"""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>scene</title>
<link rel="stylesheet" href="/%(widget)s.css">
%(style)s
<main id="place"></main>
<script type="module">
localStorage.setItem("outlier_jupyter.hint", "seen");  // no picture has the first-time hint
import widget from "/%(widget)s.js";
const nothing = () => {};
const bytes = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const modelOf = (traits) => {
  for (const name in traits) if (traits[name]?.base64) traits[name] = bytes(traits[name].base64);
  const widget_manager = { get_model: async (name) => modelOf(traits[name]) };
  const listeners = [];
  const on = (event, listener) => event === "msg:custom" && listeners.push(listener);
  const send = async ({ type, name }) => {
    if (type !== "module") return;
    const text = await (await fetch(`/${name}.js`)).text();
    for (const listener of listeners) listener({ type, name, text });
  };
  return { get: (name) => traits[name], on, off: nothing, send, widget_manager };
};
const traits = %(traits)s;
const model = modelOf(traits);
if (traits.one) model.get = (name) => (name === "names" ? traits.names : name);
const made = widget();
made.initialize({ model });
made.render({ model, el: document.getElementById("place"), signal: new AbortController().signal });
</script></html>"""


def show(page: Page, name: str, theme: str, width: int) -> Locator:
    """Put a scene on the page, wait until it no longer changes, and return the pictured part."""
    scene = SCENES[name]
    style = STYLE % {"ground": THEMES[theme]}
    html = scene.html()
    if scene.widget:
        traits = json.dumps(
            scene.traits(), default=lambda b: {"base64": base64.b64encode(b).decode()}
        )
        html = PAGE % {"widget": scene.widget, "style": style, "traits": traits}
    elif html.startswith("<!doctype"):
        html = re.sub(r"<meta http-equiv=[^>]*>", "", html, count=1)  # it would keep axe out
    else:
        html = f'<!doctype html><html lang="en"><meta charset="utf-8">{style}<main>{html}</main>'

    def answer(route: Route) -> None:
        file = route.request.url.removeprefix(ORIGIN).lstrip("/")
        if file == "":
            route.fulfill(body=html, content_type="text/html")
        elif file in (f"{scene.widget}.js", f"{scene.widget}.css", *(f"{m}.js" for m in MODULES)):
            route.fulfill(path=STATIC / file)
        else:
            route.abort()

    page.unroute_all()
    page.route("**/*", answer)
    page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 1200})
    page.goto(ORIGIN + "/")
    root = page.locator(scene.root).first
    if scene.root != ".oj-static":
        page.wait_for_selector(f".oj-root[data-oj-theme={theme}]")
        page.wait_for_function("document.querySelector('.oj-token, .oj-assistant') !== null")
    page.evaluate("document.fonts.ready")
    scene.then(page)
    page.wait_for_timeout(400)  # two redraws: the first measures
    return root
