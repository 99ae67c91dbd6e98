"""The bandwidth that the kernels and MLX's own operations reach, beside that of memory.

    python benchmarks/kernels.py

For one token's matrices of Qwen3-30B-A3B geometry, in the formats of checkpoints, it runs in
turn the compiled kernel, MLX's operation in float32 on the same bytes, and a plain read of as many
bytes by all threads. A row for each has the median over the rounds and its spread. The matrices are
larger than the processor's caches, as a model's are.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from results import append

from outlier_jupyter.benchmark.limits import Memory
from outlier_jupyter.cpu.kernels import (
    Activation,
    Bank,
    Cached,
    Experts,
    Format,
    Matrix,
    Stack,
    affine,
    attend,
    experts_many,
    mxfp4,
)
from outlier_jupyter.formatting import three

WIDTH, HIDDEN, SLOTS, K = 2048, 768, 128, 8
ROUNDS = 15
FORMATS = (affine(4, 64, "bf16"), affine(8, 64, "bf16"), affine(6, 64, "bf16"),
           affine(3, 64, "bf16"), affine(2, 64, "bf16"), mxfp4())  # fmt: skip
Subject = tuple[str, int, Callable[[], object]]
"""Name, bytes it must read, and the call."""


def reading() -> Subject:
    """The limit: all threads sum float32 numbers."""
    memory = Memory(1 << 26)
    return "read", memory.nbytes, memory.read


def packed(form: Format, *shape: int) -> tuple[list[mx.array], list[np.ndarray[Any, Any] | None]]:
    """Random bytes as MLX's arrays, with float32 scales, and as the kernels take them."""
    random = np.random.default_rng(0)
    *outer, width = shape
    words = width * form.bits // 32
    codes = random.integers(0, 1 << 32, (*outer, words), np.uint32)
    if form.kind == "mxfp":
        scales = np.full((*outer, width // 32), 120, np.uint8)
        return [mx.array(codes), mx.array(scales)], [codes, scales, None]
    small = np.full((*outer, width // form.group), 0x3C00, np.uint16)
    wide = mx.full(small.shape, 0.0078125)
    return [mx.array(codes), wide, wide], [codes, small, small]


def nbytes(form: Format, rows: int, width: int) -> int:
    """Bytes of `rows` packed rows."""
    biases = 2 if form.kind == "affine" else 1
    return rows * (form.row_bytes(width) + biases * form.scale_bytes(width))


def mode(form: Format) -> dict[str, Any]:
    """The arguments of MLX's operations that describe a format."""
    return {"group_size": form.group, "bits": form.bits,
            "mode": "mxfp4" if form.kind == "mxfp" else "affine"}  # fmt: skip


def dense(form: Format, rows: int) -> list[Subject]:
    """Products with a matrix as large as a layer's attention, another one in each call."""
    height, copies = 9216, 8
    theirs, ours = packed(form, copies * height, WIDTH)
    x = np.random.default_rng(1).normal(size=(rows, WIDTH)).astype(np.float32)
    pieces = [[None if a is None else a[i * height : (i + 1) * height] for a in ours]
              for i in range(copies)]  # fmt: skip
    stacks = [Stack([Matrix(form, height, WIDTH, *piece)]) for piece in pieces]  # type: ignore[arg-type]
    parts, args = [part[:height] for part in theirs], mx.array(x)
    mx.eval(parts)
    turn = iter(range(1 << 30))
    size = nbytes(form, height, WIDTH)
    return [
        (f"linear {form.name} {rows} rows", size,
         lambda: stacks[next(turn) % copies].multiply(x)),
        (f"mlx linear {form.name} {rows} rows", size,
         lambda: mx.eval(mx.quantized_matmul(args, *parts, transpose=True, **mode(form)))),
    ]  # fmt: skip


def experts(form: Format, rows: int) -> list[Subject]:
    """The experts of `rows` tokens, chosen anew in each call."""
    banks, arrays = [], []
    for height, width in ((HIDDEN, WIDTH), (HIDDEN, WIDTH), (WIDTH, HIDDEN)):
        theirs, ours = packed(form, SLOTS, height, width)
        banks.append(Bank(form, height, width, *ours))  # type: ignore[arg-type]
        arrays.append(theirs)
    mx.eval(arrays)
    made = Experts(banks[0], banks[1], banks[2], Activation("swiglu"))
    random = np.random.default_rng(1)
    x = random.normal(size=(rows, WIDTH)).astype(np.float32)
    args = mx.array(x)[:, None, None]
    used = min(SLOTS, rows * K)

    def slots() -> np.ndarray[Any, Any]:
        return np.stack([random.choice(SLOTS, K, replace=False) for _ in range(rows)])

    def theirs_call() -> None:
        ids = mx.array(slots().astype(np.uint32))

        def one(a: mx.array, part: list[mx.array]) -> mx.array:
            return mx.gather_qmm(a, *part, rhs_indices=ids, transpose=True, **mode(form))

        gate = one(args, arrays[1])
        mx.eval(one(gate * mx.sigmoid(gate) * one(args, arrays[0]), arrays[2]))

    call = made.multiply if rows < 16 else lambda x, ids: experts_many(x, ids, made)
    size = used * (2 * nbytes(form, HIDDEN, WIDTH) + nbytes(form, WIDTH, HIDDEN))
    return [(f"experts {form.name} {rows} rows", size, lambda: call(x, slots())),
            (f"mlx experts {form.name} {rows} rows", size, theirs_call)]  # fmt: skip


def attention(tokens: int) -> list[Subject]:
    """32 heads over 4 heads of keys, as in the geometry."""
    random = np.random.default_rng(0)
    q = random.normal(size=(32, 128)).astype(np.float32)
    stored = [mx.array(random.normal(size=(1, 4, tokens, 128))).astype(mx.bfloat16) for _ in "kv"]
    cached = [Cached(np.array(part.view(mx.uint16))[0], "bf16") for part in stored]
    theirs = [mx.array(q)[None, :, None].astype(mx.bfloat16), *stored]
    size = sum(part.nbytes for part in stored)
    return [
        (f"attention {tokens} tokens", size,
         lambda: attend(q[None], *cached, 0.1)),
        (f"mlx attention {tokens} tokens", size,
         lambda: mx.eval(mx.fast.scaled_dot_product_attention(*theirs, scale=0.1))),
    ]  # fmt: skip


def measure(subjects: list[Subject], rounds: int) -> list[dict[str, object]]:
    """Every subject in turn; medians over the rounds after one to warm up."""
    seen: dict[str, list[float]] = {name: [] for name, _, _ in subjects}
    for turn in range(rounds + 1):
        for name, _, call in subjects:
            begin = time.perf_counter()
            call()
            if turn:
                seen[name].append(time.perf_counter() - begin)
    found: list[dict[str, object]] = []
    for name, size, _ in subjects:
        middle = statistics.median(seen[name])
        found.append({"subject": name, "us": three(middle * 1e6),
                      "fastest_us": three(min(seen[name]) * 1e6),
                      "slowest_us": three(max(seen[name]) * 1e6),
                      "gb_per_s": three(size / middle / 1e9), "rounds": rounds})  # fmt: skip
    return found


def main() -> int:
    """Measure, print and append."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--short", action="store_true", help="4 bit alone, and no prompts")
    args = parser.parse_args()
    forms = [form for form in FORMATS[: 1 if args.short else None] if form is not None]
    groups = [[*dense(form, 1), *experts(form, 1)] for form in forms]
    groups += [attention(tokens) for tokens in (256, 4096)]
    if not args.short:
        groups += [[*dense(forms[0], rows), *experts(forms[0], rows)] for rows in (4, 16, 64)]
        groups += [experts(forms[0], 512)[:1]]
    rows: list[dict[str, object]] = []
    for group in groups:
        rows += measure([reading(), *group], args.rounds)
        for one in rows[-len(group) - 1 :]:
            sys.stdout.write(f"{one['subject']:40} {one['us']:>9} µs {one['gb_per_s']:>6} GB/s\n")
    append("kernels", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
