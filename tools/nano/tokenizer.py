"""Train Nano's tokenizer with Grok-1's settings, only smaller: 4096 SentencePiece BPE pieces."""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path

import sentencepiece
from dialogues import dialogues, render

VOCABULARY = 4096
NEWLINE_RUNS = ["\n" * count for count in range(1, 11)]
TAB_RUNS = ["\t" * count for count in (1, 2, 4)]
DIALOGUES = 60_000


def training_text(work: Path, folder: Path) -> Path:
    """The prose and some dialogues. Newlines are pieces of their own, so reading by line loses nothing."""
    prose = json.loads((work / "prose.json").read_text(encoding="utf-8"))["train"]
    path = folder / "tokenizer-input.txt"
    with path.open("w", encoding="utf-8") as file:
        for text in prose.values():
            file.write(text)
        for sample in islice(dialogues(seed=7), DIALOGUES):
            file.write(render(sample.system, [(t.user, t.reply) for t in sample.turns], "") + "\n")
    return path


def train(work: Path) -> None:
    source = training_text(work, work)
    sentencepiece.set_random_generator_seed(1)
    sentencepiece.SentencePieceTrainer.train(
        input=str(source),
        model_prefix=str(work / "tokenizer"),
        model_type="bpe",
        vocab_size=VOCABULARY,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        byte_fallback=True,
        split_digits=True,
        character_coverage=0.9995,
        allow_whitespace_only_pieces=True,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="[PAD]",
        bos_piece="[BOS]",
        eos_piece="[EOS]",
        unk_piece="[UNK]",
        user_defined_symbols=[*NEWLINE_RUNS, *"0123456789", *TAB_RUNS],
        input_sentence_size=400_000,
        shuffle_input_sentence=True,
        num_threads=2,
        minloglevel=1,
    )
    source.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("/tmp/nano"))
    arguments = parser.parse_args()
    train(arguments.work)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(arguments.work / "tokenizer.model"))
    sample = "User: What is 12 + 7?\nAssistant: 12 + 7 = 19.\n\nIn the beginning God created the heaven."
    print(processor.encode(sample, out_type=str))


if __name__ == "__main__":
    main()
