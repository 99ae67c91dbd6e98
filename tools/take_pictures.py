"""Takes the README's pictures and its animation from a real run in JupyterLab.

    python tools/take_pictures.py docs

Writes live-light.png, live-dark.png, chat-light.png, chat-dark.png and live.webp: a short film of
a run and of going back to some of its tokens, at real speed.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.browser.conftest import CHROMIUM, QUIET
from tests.browser.hosts import Lab, wait_until_idle

CELLS = (
    "import outlier_jupyter\n"
    "engine = outlier_jupyter.load(\n"
    "    'demo', cache_gb=0.002, reader='direct')",
    "watched = outlier_jupyter.watch(\n"
    "    engine, 'What is an expert in a Mixture-of-Experts model?', pace=16)\n"
    "import ipywidgets; ipywidgets.VBox([watched])",
)
CHAT = (
    "import outlier_jupyter\nengine = outlier_jupyter.load('demo', cache_gb=0.002)",
    "chat = outlier_jupyter.Chat(engine, max_tokens=120)\nchat",
    "_ = chat.send('What is an expert?'); _ = chat.send('Why are they on disk?')",
)
SIZE = {"width": 1440, "height": 1300}
SCALE = 0.62
"""The scale of the film's frames."""
FRAME_S = 0.16
MOST_FRAMES = 90
MOST_BYTES = 1_500_000


def film(page: Page, root: Locator) -> list[tuple[float, Image.Image]]:
    """(time, frame) from the run's beginning until a few of its tokens were shown again."""
    frames: list[tuple[float, Image.Image]] = []

    def take() -> None:
        frames.append((time.monotonic(), shrunk(root.screenshot())))
        wait = frames[-1][0] + FRAME_S - time.monotonic()
        if wait > 0:
            page.wait_for_timeout(1000 * wait)

    pace = root.locator(".oj-pace")
    pace.wait_for()
    while len(frames) < MOST_FRAMES and pace.is_visible():
        take()
    for token in (12, 20, 28, 29, 30):
        root.locator(".oj-token", has_text=re.compile(r"\w")).nth(token).hover()
        take()
    root.locator(".oj-slider").focus()
    for _ in range(14):
        page.keyboard.press("PageDown" if len(frames) % 2 else "ArrowLeft")
        take()
    return frames


def shrunk(png: bytes) -> Image.Image:
    """A screenshot in the film's size."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    size = (round(image.width * SCALE), round(image.height * SCALE))
    return image.resize(size, Image.Resampling.LANCZOS)


def save_film(frames: list[tuple[float, Image.Image]], path: Path) -> None:
    """Write the frames as an animated WebP that plays at the run's own speed, in a loop."""
    times = [when for when, _ in frames]
    lasts = [round(1000 * (b - a)) for a, b in pairwise(times)]
    height = max(image.height for _, image in frames)
    pictures = []
    for _, image in frames:
        whole = Image.new("RGB", (image.width, height), image.getpixel((2, image.height // 2)))
        whole.paste(image)
        pictures.append(whole)
    for quality in (70, 55, 40, 25):
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=[*lasts, 2500], loop=0,
            quality=quality, method=4,
        )  # fmt: skip
        if path.stat().st_size <= MOST_BYTES:
            return
    raise SystemExit(f"{path} has {path.stat().st_size} bytes: take fewer frames")


def take(page: Page, lab: Lab, theme: str, folder: Path) -> None:
    """All pictures in one theme; the film in the light one."""
    lab.theme(f"JupyterLab {theme.title()}")
    page.set_viewport_size(SIZE)
    page.add_init_script("localStorage.setItem('outlier_jupyter.hint', 'seen')")
    lab.show(page, f"live-{theme}", *CELLS)
    root = page.locator(".oj-root")
    root.locator(".oj-token").first.wait_for(timeout=120_000)
    if theme == "light":
        save_film(film(page, root), folder / "live.webp")
    wait_until_idle(page)
    root.locator(".oj-pace").wait_for(state="hidden", timeout=120_000)
    root.locator(".oj-token").nth(40).click()
    page.mouse.move(1, 1)
    page.wait_for_timeout(1000)
    save(root, folder / f"live-{theme}.png")
    lab.show(page, f"chat-{theme}", *CHAT)
    page.locator(".oj-assistant").nth(1).wait_for(timeout=120_000)
    wait_until_idle(page)
    page.locator(".oj-chat").evaluate("chat => { chat.style.width = '760px'; }")
    page.wait_for_timeout(500)
    save(page.locator(".oj-chat"), folder / f"chat-{theme}.png")


def save(part: Locator, path: Path) -> None:
    """A picture in 256 colours."""
    image = Image.open(io.BytesIO(part.screenshot())).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> int:
    """Take all pictures and the film."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as home, sync_playwright() as playwright:
        lab = Lab(Path(home))
        try:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
            for theme in ("light", "dark"):
                take(browser.new_page(), lab, theme, folder)
            browser.close()
        finally:
            lab.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
