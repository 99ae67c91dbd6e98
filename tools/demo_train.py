"""The training loop: a linear schedule, and fake quantisation in the last part."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from demo_corpus import CHAT_SHARE, LATE_CHAT_SHARE
from demo_data import Batches
from demo_model import DemoMoe, Geometry
from demo_optimizer import make_optimizers
from demo_pace import Pace

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """Everything that determines the weights, besides corpus and geometry."""

    seed: int = 20240607
    steps: int = 1050
    horizon: int = 1700
    cool_from: float = 0.65
    tokens_per_step: int = 6144
    length: int = 256
    late_length: int = 512
    late_from: float = 0.8
    chat: float = CHAT_SHARE
    late_chat: float = LATE_CHAT_SHARE
    quantize_from: float = 0.8
    matrix_lr: float = 0.02
    other_lr: float = 3e-3
    balance: float = 3e-3
    warmup: int = 40
    threads: int = 2
    save_every: int = 100

    def rate(self, step: int) -> float:
        """The share of the peak learning rate: a short rise, a slow fall, a steep fall to zero.

        The slow fall does not know ``steps``, so a run can be shortened until the steep one begins.
        """
        rise = min(1.0, (step + 1) / self.warmup)
        steep = (self.steps - step) / (self.steps * (1 - self.cool_from))
        return rise * (1.0 - step / self.horizon) * max(0.0, min(1.0, steep))

    def identity(self, g: Geometry) -> str:
        """The settings that must be equal for a run to resume another's checkpoint."""
        shared = {
            k: v for k, v in asdict(self).items() if k not in ("steps", "threads", "save_every")
        }
        return json.dumps([asdict(g), shared], sort_keys=True)


def save(path: Path, **state: object) -> None:
    """Write a checkpoint atomically, so that no reader sees a part of it."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def train(
    g: Geometry,
    plan: Plan,
    batches: Batches,
    work: Path,
    until: int | None = None,
    start: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Train from scratch or from the last checkpoint of the same plan; returns the checkpoint.

    ``start`` holds the parameters to begin with instead of random ones.

    ``until`` stops at that step, with a checkpoint that can be exported and resumed.
    """
    torch.manual_seed(plan.seed)
    model = DemoMoe(g, plan.seed)
    if start is not None:
        model.load_state_dict(start)
    optimizers = make_optimizers(model, plan.matrix_lr, plan.other_lr)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    path, first, seconds = work / "checkpoint.pt", 0, 0.0
    identity = plan.identity(g)
    if path.exists():
        state = torch.load(path, weights_only=True)
        if state["identity"] == identity:
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            first, seconds = state["step"], state["seconds"]
    last = min(plan.steps, until or plan.steps)
    begun, pace = time.monotonic() - seconds, Pace(plan.threads)
    for step in range(first, last):
        torch.set_num_threads(pace.threads())
        length = plan.late_length if step >= plan.late_from * plan.steps else plan.length
        model.set_quantize(step >= plan.quantize_from * plan.steps)
        chat = plan.late_chat if step >= plan.cool_from * plan.steps else plan.chat
        inputs, targets = batches.batch(step, plan.tokens_per_step // length, length, chat)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * plan.rate(step)
        cross, balance = model.loss(torch.from_numpy(inputs), torch.from_numpy(targets))
        (cross + plan.balance * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds = time.monotonic() - begun
        if step % 10 == 0 or step + 1 == last:
            speed = (step + 1) * plan.tokens_per_step / seconds
            LOG.info("step %d of %d, loss %.3f, balance %.3f, %.0f tokens/s, %d threads, %.0f s",
                     step, plan.steps, cross.item(), balance.item(), speed,
                     torch.get_num_threads(), seconds)  # fmt: skip
        if (step + 1) % plan.save_every == 0 or step + 1 == last:
            save(path, identity=identity, step=step + 1, seconds=seconds,
                 model=model.state_dict(),
                 optimizers=[optimizer.state_dict() for optimizer in optimizers])  # fmt: skip
    return path
