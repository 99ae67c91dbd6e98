"""Makes the demo model from scratch: corpus, tokenizer, training, export, measurements, card.

    python tools/train_demo.py

takes about an hour on two processor cores with AMX.  A stopped run resumes from its
last checkpoint in the work folder.  ``--continue-from FOLDER`` trains on from an exported model
instead, which is how the shipped one learnt to think.  Besides the package's own requirements it
needs torch, and from Debian the packages debian-handbook, bash-completion, libc6-dev and
linux-libc-dev.
"""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

try:
    import torch
except ImportError:
    sys.exit("missing: run `pip install torch`")
import mlx.core as mx
from demo_card import write_card
from demo_continue import PLAN as CONTINUED
from demo_continue import dequantized, start_of_thinking, trained_before
from demo_corpus import DOMAINS, Document, MissingSourceError, read_corpus
from demo_data import Batches, stream
from demo_evaluate import PROMPTS, evaluate
from demo_export import export
from demo_model import DemoMoe, Geometry
from demo_questions import Item, read_items
from demo_routing import domain_information, guessed_domains, never_used
from demo_tokenizer import add_thinking, train_tokenizer
from demo_train import Plan, train
from tokenizers import Tokenizer

LOG = logging.getLogger(__name__)
ROOT = Path(__file__).parent.parent
LICENCE = Path(__file__).parent / "demo_licence.txt"
PER_DOMAIN = 600_000

Corpus = dict[str, tuple[list[Document], list[Document]]]


def tokenizer_texts(corpus: Corpus, items: list[Item]) -> Iterator[str]:
    """The texts for learning the merges: about as much of each domain, and all answers."""
    for documents, _ in corpus.values():
        size = 0
        for document in documents:
            yield document.text
            size += len(document.text)
            if size > PER_DOMAIN:
                break
    for item in items:
        yield from item.asked
        yield from [item.answer] * 8


def load_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], int, float]:
    """Parameters, steps and seconds of a checkpoint."""
    state = torch.load(path, weights_only=True)
    parameters = {name: value.float().numpy() for name, value in state["model"].items()}
    return parameters, state["step"], state["seconds"]


def sizes(g: Geometry, folder: Path) -> dict[str, object]:
    """Parameters and bytes that the card states."""
    counts = {name: value.numel() for name, value in DemoMoe(g, 0).named_parameters()}
    experts = sum(count for name, count in counts.items() if "switch_mlp" in name)
    total = sum(counts.values())
    share = g.num_experts_per_tok / g.num_experts
    weights = 3 * g.hidden_size * g.moe_intermediate_size
    return {
        "geometry": asdict(g),
        "parameters": total,
        "active_parameters": int(total - experts + experts * share),
        "expert_bytes": weights * g.bits // 8 + weights // g.group_size * 4,
        "weight_bytes": (folder / "model.safetensors").stat().st_size,
    }


def measure(
    folder: Path, g: Geometry, plan: Plan, sides: list[dict[str, np.ndarray]], items: list[Item]
) -> dict[str, object]:
    """The card's numbers about the exported model."""
    found = evaluate(folder, sides[0], sides[1], items)
    routing = found["routing"]
    for kind, answers in found["answers"].items():
        for wrong in answers.wrong:
            LOG.info("wrong (%s): %s", kind, wrong)
    answers = {
        kind: {"asked": a.asked, "right": a.right, "exact": a.exact}
        for kind, a in found["answers"].items()
    }
    samples = {
        name: {"prompt": prompt, "continuation": found["samples"][name]}
        for name, prompt in PROMPTS.items()
    }
    return {
        **sizes(g, folder),
        "perplexity": found["perplexity"],
        "answers": answers,
        "thinking": found["thinking"],
        "domain_information": domain_information(routing, plan.seed),
        "guessed_domains": round(guessed_domains(routing), 4),
        "never_used": round(never_used(routing), 4),
        "samples": samples,
    }


def training_facts(plan: Plan, steps: int, seconds: float) -> dict[str, object]:
    """The card's facts about the training."""
    return {
        "steps": steps,
        "tokens": steps * plan.tokens_per_step,
        "minutes": round(seconds / 60),
        "processor": f"{plan.threads} {platform.machine()} core{'s' * (plan.threads > 1)}",
        "seed": plan.seed,
        "quantized_percent": round(100 * (1 - plan.quantize_from)),
        "torch": torch.__version__.split("+")[0],
        "mlx": mx.__version__,
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work-dir", type=Path, default=ROOT / "build" / "demo")
    parser.add_argument("--out", type=Path, default=ROOT / "outlier_jupyter" / "demo")
    parser.add_argument("--continue-from", type=Path, help="an exported model to train on from")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--until", type=int, help="stop training early, at this step")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--export-only", action="store_true", help="use the last checkpoint as is")
    parser.add_argument("--no-card", action="store_true", help="export without measuring")
    return parser.parse_args()


def main() -> None:
    """Run all steps."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = arguments()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    try:
        corpus = read_corpus()
    except MissingSourceError as error:
        sys.exit(str(error))
    items, g = read_items(), Geometry()
    plan = CONTINUED if options.continue_from else Plan()
    plan = replace(plan, steps=options.steps or plan.steps, threads=options.threads or plan.threads)
    kept, start = options.work_dir / "tokenizer.json", None
    if not kept.exists():
        if options.continue_from:
            tokenizer = Tokenizer.from_file(str(options.continue_from / "tokenizer.json"))
        else:
            tokenizer = train_tokenizer(tokenizer_texts(corpus, items), g.vocab_size)
        add_thinking(tokenizer, g.vocab_size).save(str(kept))
    tokenizer = Tokenizer.from_file(str(kept))
    if options.continue_from:
        start = dequantized(options.continue_from, g)
        start_of_thinking(start, tokenizer)
    sides = [{d.name: stream(tokenizer, corpus[d.name][i]) for d in DOMAINS} for i in (0, 1)]
    checkpoint = options.work_dir / "checkpoint.pt"
    if not options.export_only:
        batches = Batches(tokenizer, sides[0], items, plan.seed)
        checkpoint = train(g, plan, batches, options.work_dir, options.until, start)
    parameters, steps, seconds = load_checkpoint(checkpoint)
    export(parameters, g.config(), tokenizer, options.out)
    (options.out / "LICENSE").write_text(LICENCE.read_text(encoding="utf-8"), encoding="utf-8")
    if not options.no_card:
        training = training_facts(plan, steps, seconds)
        if options.continue_from:
            training["before"] = trained_before(options.continue_from)
        numbers = measure(options.out, g, plan, sides, items)
        write_card(options.out, {**numbers, "training": training})


if __name__ == "__main__":
    main()
