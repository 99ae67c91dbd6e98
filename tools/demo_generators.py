"""Generated training text: sums and JSON records.

Both are plain functions of a ``random.Random``, so a seed fixes every character.
"""

from __future__ import annotations

import json
import random

NAMES = ("Ada", "Bert", "Clara", "Dora", "Emil", "Frida", "Gustav", "Hanna", "Ivan", "Julia")
CITIES = ("Berlin", "Bern", "Lyon", "Madrid", "Oslo", "Paris", "Prague", "Rome", "Turin", "Wien")
THINGS = ("apples", "books", "coins", "eggs", "pens", "plates", "stamps", "stones")


def equation(rng: random.Random) -> str:
    """One true line such as ``12 + 7 = 19``."""
    kind = rng.choice("+++--**/")
    if kind == "*":
        left, right = rng.randint(0, 12), rng.randint(0, 12)
        return f"{left} * {right} = {left * right}"
    if kind == "/":
        right, result = rng.randint(1, 12), rng.randint(0, 12)
        return f"{right * result} / {right} = {result}"
    top = rng.choice((10, 20, 100))
    left, right = rng.randint(0, top), rng.randint(0, top)
    if kind == "-":
        left, right = max(left, right), min(left, right)
        return f"{left} - {right} = {left - right}"
    return f"{left} + {right} = {left + right}"


def story(rng: random.Random) -> str:
    """A sum as a story of two sentences."""
    name, thing = rng.choice(NAMES), rng.choice(THINGS)
    have, change = rng.randint(2, 12), rng.randint(2, 12)
    if rng.random() < 0.5:
        return (
            f"{name} has {have} {thing} and gets {change} more. "
            f"Now {name} has {have + change} {thing}."
        )
    have, change = max(have, change), min(have, change)
    return (
        f"{name} has {have} {thing} and gives {change} away. "
        f"Now {name} has {have - change} {thing}."
    )


def table(rng: random.Random) -> str:
    """Rows of one multiplication or addition table, or of an even count."""
    step = rng.randint(1, 12)
    kind = rng.randrange(3)
    if kind == 0:
        return "\n".join(f"{step} * {i} = {step * i}" for i in range(1, 11))
    if kind == 1:
        return "\n".join(f"{step} + {i} = {step + i}" for i in range(1, 11))
    start = rng.randint(0, 20)
    return ", ".join(str(start + step * i) for i in range(12))


def arithmetic_document(rng: random.Random) -> str:
    """Some twenty lines of arithmetic of one or several kinds."""
    kind = rng.random()
    if kind < 0.5:
        return "\n".join(equation(rng) for _ in range(rng.randint(15, 25)))
    if kind < 0.75:
        return "\n".join(story(rng) for _ in range(rng.randint(4, 8)))
    return "\n".join(table(rng) for _ in range(rng.randint(2, 3)))


def person(rng: random.Random) -> dict[str, object]:
    """A record of a person."""
    name = rng.choice(NAMES)
    return {
        "id": rng.randint(1, 999),
        "name": name,
        "email": f"{name.lower()}@example.org",
        "age": rng.randint(18, 80),
        "city": rng.choice(CITIES),
        "active": rng.random() < 0.5,
    }


def order(rng: random.Random) -> dict[str, object]:
    """A record of an order whose total is the sum of its lines."""
    lines = [
        {"item": rng.choice(THINGS), "count": rng.randint(1, 5), "price": rng.randint(1, 9)}
        for _ in range(rng.randint(1, 3))
    ]
    total = sum(int(line["count"]) * int(line["price"]) for line in lines)
    return {"order": rng.randint(1000, 9999), "customer": rng.choice(NAMES), "lines": lines,
            "total": total}  # fmt: skip


def settings(rng: random.Random) -> dict[str, object]:
    """A record of a model's or a server's settings."""
    if rng.random() < 0.5:
        return {
            "model_type": "qwen3_moe",
            "num_hidden_layers": rng.choice((6, 24, 48, 60)),
            "num_experts": rng.choice((32, 64, 128, 512)),
            "num_experts_per_tok": rng.choice((2, 4, 8, 10)),
            "quantization": {"group_size": rng.choice((32, 64)), "bits": rng.choice((4, 8))},
        }
    return {
        "host": rng.choice(("localhost", "127.0.0.1", "example.org")),
        "port": rng.choice((80, 443, 8000, 8080)),
        "debug": rng.random() < 0.5,
        "tags": sorted(rng.sample(("web", "cache", "disk", "test", "live"), rng.randint(1, 3))),
        "timeout": None if rng.random() < 0.3 else rng.choice((5, 10, 30, 60)),
    }


def json_document(rng: random.Random) -> str:
    """One record, a list of records or JSON lines, formatted in one of three ways."""
    make = rng.choice((person, order, settings))
    shape = rng.randrange(3)
    if shape == 0:
        return "\n".join(json.dumps(make(rng)) for _ in range(rng.randint(3, 8)))
    value: object = make(rng) if shape == 1 else [make(rng) for _ in range(rng.randint(2, 4))]
    return json.dumps(value, indent=rng.choice((2, 4)))
