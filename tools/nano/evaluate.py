"""Measure Nano, in PyTorch or from a GGUF file: perplexity on held-out prose, exact replies on the test sets.

With ``--compare`` also how far pygrok's logits are from PyTorch's, on a file made from the float32 export.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from backends import Backend, Pygrok, Torch
from data import Data
from numpy.typing import NDArray

WINDOW = 512
TESTS = {
    "trained": "trained phrasings",
    "pairs": "trained phrasings, pairs held out",
    "phrasing": "held-out phrasings",
    "conversation": "conversations",
}


def windows(ids: NDArray[np.int64], size: int = WINDOW) -> NDArray[np.int64]:
    """Consecutive windows, each from the last token of the one before on: every token is scored once."""
    count = (len(ids) - 1) // size
    return np.stack([ids[index * size : (index + 1) * size + 1] for index in range(count)])


def perplexity(backend: Backend, data: Data, characters: int, limit: int | None) -> dict[str, float]:
    """Perplexity per token, and bits per character, which other tokenizers' figures can be compared with."""
    chunks = windows(data.held_out)[:limit]
    scores = backend.score(chunks).astype(np.float64)
    loss = -float(scores.mean())
    share = scores.size / len(data.held_out)
    return {
        "tokens": scores.size,
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_character": loss / math.log(2) * scores.size / (characters * share),
    }


def exact(backend: Backend, items: list[dict[str, str]]) -> dict[str, Any]:
    """Share of replies that are right to the letter, in all and per group, and some that are not."""
    right: dict[str, list[bool]] = defaultdict(list)
    wrong = []
    replies = backend.replies([item["prompt"] for item in items], [item["reply"] for item in items])
    for item, reply in zip(items, replies, strict=True):
        hit = reply.strip() == item["reply"]
        right[item["group"]].append(hit)
        if not hit:
            wrong.append(
                {
                    "prompt": item["prompt"].split("User: ")[-1],
                    "expected": item["reply"],
                    "got": reply.strip(),
                }
            )
    hits = [hit for group in right.values() for hit in group]
    return {
        "count": len(hits),
        "accuracy": sum(hits) / len(hits),
        "groups": {
            group: {"count": len(h), "accuracy": sum(h) / len(h)} for group, h in sorted(right.items())
        },
        "wrong": wrong[:40],
    }


def compare(reference: Torch, other: Pygrok, data: Data, items: list[dict[str, str]]) -> dict[str, Any]:
    """Largest difference of any logit, and how often the most likely token agrees."""
    texts = [reference.encode(item["prompt"]) for item in items[:20]]
    texts += [
        data.held_out[at : at + size].tolist() for at, size in ((0, 1), (100, 64), (5000, 512), (20000, 2048))
    ]
    largest, same, total = 0.0, 0, 0
    for ids in texts:
        expected, got = reference.logits(ids), other.logits(ids)
        largest = max(largest, float(np.abs(expected - got).max()))
        same += int((expected.argmax(-1) == got.argmax(-1)).sum())
        total += len(ids)
    encoded_alike = all(reference.encode(item["prompt"]) == other.encode(item["prompt"]) for item in items)
    return {
        "max_abs_difference": largest,
        "same_argmax": same / total,
        "positions": total,
        "same_ids": encoded_alike,
    }


def table(results: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    prose, tests = results["prose"], results["tests"]
    groups = sorted({group for test in tests.values() for group in test["groups"]})
    lines = [
        f"perplexity on held-out prose: {prose['perplexity']:.2f} a token, "
        f"{prose['bits_per_character']:.3f} bits a character",
        "",
        "| exact replies | " + " | ".join(TESTS[name] for name in tests) + " |",
        "|---|" + "---|" * len(tests),
        "| **all** | "
        + " | ".join(f"**{test['accuracy']:.1%}** of {test['count']}" for test in tests.values())
        + " |",
    ]
    for group in groups:
        cells = [test["groups"].get(group) for test in tests.values()]
        shown = [f"{cell['accuracy']:.1%} of {cell['count']}" if cell else "" for cell in cells]
        lines.append(f"| {group} | " + " | ".join(shown) + " |")
    if "compare" in results:
        found = results["compare"]
        lines += [
            "",
            f"largest difference of a logit from PyTorch's: {found['max_abs_difference']:.2e} "
            f"over {found['positions']} positions; "
            f"same most likely token: {found['same_argmax']:.2%}; same ids: {found['same_ids']}",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("/tmp/nano"))
    parser.add_argument("--checkpoint", type=Path, default=Path("/tmp/nano/run/checkpoint.pt"))
    parser.add_argument("--gguf", type=Path, help="measure this file in pygrok instead of PyTorch")
    parser.add_argument("--kv-type", default="f32", help="pygrok's KV cache (default: f32)")
    parser.add_argument("--compare", action="store_true", help="also compare pygrok's logits with PyTorch's")
    parser.add_argument(
        "--limit", type=int, help="at most so many questions of each set and windows of prose"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = Data(arguments.work, seed=1)
    prose = json.loads((arguments.work / "prose.json").read_text(encoding="utf-8"))["held_out"]
    tests = json.loads((arguments.work / "tests.json").read_text(encoding="utf-8"))
    tests = {name: items[: arguments.limit] for name, items in tests.items()}
    reference = Torch(arguments.checkpoint, arguments.work / "tokenizer.model")
    backend: Backend = reference
    if arguments.gguf:
        backend = Pygrok(arguments.gguf, arguments.threads, kv_type=arguments.kv_type)
    results: dict[str, Any] = {
        "model": str(arguments.gguf or arguments.checkpoint),
        "prose": perplexity(backend, data, sum(map(len, prose.values())), arguments.limit),
        "tests": {name: exact(backend, items) for name, items in tests.items()},
        "expert_shares": {
            "prose": reference.expert_shares(windows(data.held_out, 256)[:64, :-1]),
            "dialogues": reference.expert_shares(data.batch(-1, 64, 256, 0.0).tokens[:, :-1]),
        },
    }
    if arguments.compare:
        if not isinstance(backend, Pygrok):
            parser.error("--compare needs --gguf")
        results["compare"] = compare(reference, backend, data, tests["trained"])
    print(table(results))
    for kind, layers in results["expert_shares"].items():
        print(f"expert shares by layer, {kind}:", *layers, sep="\n  ")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
