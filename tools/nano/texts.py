"""Write two texts for measuring quantizers: one to calibrate on, one to judge by.

Both alternate pieces of prose and dialogues, so that any beginning of them is a fair mixture. The text to judge by
takes its prose from the works that training never saw, and no piece of one text occurs in the other.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

from dialogues import dialogues, render

PIECE = 2000  # characters of prose between dialogues
CALIBRATION_SEED, JUDGING_SEED = 7001, 7002


def prose_pieces(works: dict[str, str], size: int) -> list[str]:
    """About `size` characters in pieces that end with a line, taken evenly from every work."""
    share = min(1.0, size / sum(len(text) for text in works.values()))
    pieces = []
    for text in works.values():
        count = max(1, round(share * len(text) / PIECE))
        for i in range(count):
            start = i * len(text) // count
            end = text.find("\n", start + PIECE)
            pieces.append(text[start : end if end > 0 else len(text)].strip())
    return pieces


def dialogue_texts(seed: int, count: int) -> list[str]:
    """Rendered dialogues, replies included."""
    return [
        render(d.system, [(t.user, t.reply) for t in d.turns[:-1]], d.turns[-1].user)
        + f" {d.turns[-1].reply}"
        for d in islice(dialogues(seed), count)
    ]


def mixture(works: dict[str, str], seed: int, size: int, avoid: frozenset[str]) -> str:
    """Two thirds prose, one third dialogues, by characters."""
    prose = prose_pieces(works, size * 2 // 3)
    talk = [text for text in dialogue_texts(seed, size // 300) if text not in avoid]
    parts = []
    for i, piece in enumerate(prose):
        parts += [piece, *talk[i * len(talk) // len(prose) : (i + 1) * len(talk) // len(prose)]]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/nano"), help="folder with prose.json")
    parser.add_argument("--calibration", type=int, default=600_000, help="characters, about")
    parser.add_argument("--judging", type=int, default=100_000, help="characters, about")
    args = parser.parse_args()
    split = json.loads((args.work / "prose.json").read_text())
    calibration = mixture(split["train"], CALIBRATION_SEED, args.calibration, frozenset())
    seen = frozenset(dialogue_texts(CALIBRATION_SEED, args.calibration // 300))
    judging = mixture(split["held_out"], JUDGING_SEED, args.judging, seen)
    for name, text in (("calibration.txt", calibration), ("judging.txt", judging)):
        (args.work / name).write_text(text)
        print(f"{args.work / name}: {len(text)} characters")


if __name__ == "__main__":
    main()
