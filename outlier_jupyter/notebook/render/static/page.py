"""The saved view as HTML: no script, nothing fetched, legible without its `<style>`.

Charts are `<img>`s of SVG data, not inline `<svg>`. JupyterLab removes `svg` elements from the HTML
of an untrusted notebook but leaves their tick labels as loose words, and GitHub removes them too;
both keep images. An SVG image follows `color-scheme`, so the scoped style sets that from the host's
theme. Each chart has its own background, so that it is legible under an unknown theme.
"""

from __future__ import annotations

from html import escape

from ....display import INERT
from .scene import HEIGHT, WIDTH, Scene
from .svg import data_uri
from .text import (
    PROMPT_LIMIT,
    SavedView,
    cache_words,
    ended_words,
    model_words,
    reader_words,
    shortened,
    table,
    texts,
    tiles,
    warning,
)

ROOT = f"oj-static {INERT}"
"""The classes of the root element of all static HTML."""

_LIGHT = "color-scheme:light;--oj-bg:#fff;--oj-ink:#1f2328;--oj-line:#dfe3e8;--oj-warn:#9a5b00"
_DARK = "color-scheme:dark;--oj-bg:#111;--oj-ink:#e6e8eb;--oj-line:#30353c;--oj-warn:#f0b35a"

STYLE = f"""
.oj-static{{{_LIGHT}}}
@media(prefers-color-scheme:dark){{.oj-static{{{_DARK}}}}}
[data-jp-theme-light="true"] .oj-static,.vscode-light .oj-static,
[theme="light"] .oj-static{{{_LIGHT}}}
[data-jp-theme-light="false"] .oj-static,.vscode-dark .oj-static,
[theme="dark"] .oj-static{{{_DARK}}}
.oj-static{{
 --oj-rule:var(--jp-border-color2,var(--vscode-widget-border,var(--oj-line)));
 box-sizing:border-box;max-width:960px;padding:12px 14px 10px;
 background:var(--jp-layout-color0,var(--vscode-editor-background,var(--oj-bg)));
 color:var(--jp-content-font-color0,var(--vscode-foreground,var(--oj-ink)));
 font:13px/1.5 var(--jp-ui-font-family,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif);
 border:1px solid var(--oj-rule);border-radius:8px}}
.oj-static *{{box-sizing:border-box}}
.oj-static p{{margin:0 0 8px}}
.oj-static .oj-head{{display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 10px}}
.oj-static .oj-head strong{{font-size:15px;font-weight:600;overflow-wrap:anywhere}}
.oj-static .oj-soft{{opacity:.72}}
.oj-static .oj-warn{{padding:5px 10px;border-left:3px solid var(--oj-warn);color:var(--oj-warn)}}
.oj-static .oj-sep{{display:none}}
.oj-static .oj-label{{display:block;margin:0 0 2px;font-size:12px;opacity:.72}}
.oj-static pre{{margin:0 0 12px!important;padding:0!important;border:0;
 background:none!important;color:inherit!important;
 font:inherit!important;line-height:1.55!important;white-space:pre-wrap!important;
 overflow-wrap:anywhere}}
.oj-static .oj-tiles{{display:flex;flex-wrap:wrap;gap:8px 28px;margin:0 0 12px;padding:10px 0 0;
 border-top:1px solid var(--oj-rule)}}
.oj-static .oj-tile b{{display:block;font-size:17px;font-weight:600;line-height:1.3;
 font-variant-numeric:tabular-nums}}
.oj-static .oj-tile span{{font-size:12px;opacity:.72}}
.oj-static .oj-charts{{display:grid;gap:12px;margin:0 0 10px;
 grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr))}}
.oj-static .oj-charts img{{display:block;width:100%;height:auto;max-width:none;margin:0}}
.oj-static summary{{cursor:pointer;font-size:12px}}
.oj-static table{{color:inherit;
 margin:8px 0 4px!important;border-collapse:collapse;border:0;table-layout:auto;
 width:auto;font-size:12px}}
.oj-static th,.oj-static td{{padding:3px 20px 3px 0!important;border:0;background:none!important;
 border-bottom:1px solid var(--oj-rule)!important;text-align:left!important;
 vertical-align:top;font-weight:400;white-space:normal;max-width:none;color:inherit}}
.oj-static th,.oj-static .oj-table td:not(:last-child){{opacity:.72;white-space:nowrap}}
.oj-static .oj-table td:not(:last-child){{opacity:1;font-variant-numeric:tabular-nums}}
.oj-static .oj-table td:last-child{{min-width:150px}}
@media(max-width:600px){{.oj-static .oj-table td:nth-child(n+4):last-child{{min-width:260px}}}}
.oj-static .oj-wide{{overflow-x:auto;margin:0 0 10px}}
@media(max-width:600px){{.oj-static .oj-table td,.oj-static .oj-table th{{
 padding-right:10px!important}}}}
"""


def page(view: SavedView, scenes: list[Scene], note: str = "") -> str:
    """The whole view, with a line `note`; all that came from a model or a user is escaped."""
    parts = [
        f'<div class="{ROOT}"><style>{STYLE}</style>',
        f'<p class="oj-soft">{escape(note)}</p>' if note else "",
        _head(view),
        _text_block("Prompt", shortened(view.prompt, PROMPT_LIMIT, "")),
        *(_text_block(label, text) for label, text in texts(view)),
        _tiles(view),
        f'<div class="oj-charts">{" ".join(image(scene) for scene in scenes)}</div>',
        _details(view),
        "</div>",
    ]
    return "\n".join(parts)


def _head(view: SavedView) -> str:
    trace = view.trace
    soft = [reader_words(trace)]
    if cache := cache_words(trace):
        soft.insert(0, cache)
    parts = [
        f'<p class="oj-head"><strong>{escape(model_words(trace))}</strong> '
        f'<span class="oj-soft">{escape(" · ".join(soft))}</span></p>'
    ]
    if view.finish_reason in ("interrupted", "error"):
        ended = ended_words(view.finish_reason)
        parts.append(f'<p class="oj-warn"><b>{escape(ended)}. Partial output is below.</b></p>')
    if text := warning(trace):
        parts.append(f'<p class="oj-warn"><b>{escape(text)}</b></p>')
    return "\n".join(parts)


def _text_block(label: str, text: str) -> str:
    shown = escape(text) if text else "(none)"
    return (
        f'<span class="oj-label">{label}</span>'
        # The attribute is for hosts that remove <style> but keep attributes.
        f'<pre style="white-space:pre-wrap">{shown}</pre>'
    )


def _tiles(view: SavedView) -> str:
    tile = '<span class="oj-tile"><b>{}</b> <span>{}</span></span>'
    all_tiles = [tile.format(escape(number), escape(what)) for number, what in tiles(view.trace)]
    separator = '<span class="oj-sep"> · </span>'
    return f'<p class="oj-tiles">{separator.join(all_tiles)}</p>'


def image(scene: Scene) -> str:
    """A chart as an `<img>` with its description."""
    spoken = escape(scene.spoken)
    return (
        f'<img role="img" width="{WIDTH}" height="{HEIGHT}" '
        f'alt="{spoken}" aria-label="{spoken}" src="{data_uri(scene)}">'
    )


def _details(view: SavedView) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in table(view)
    )
    return f"<details><summary>All numbers</summary><table><tbody>{rows}</tbody></table></details>"
