"""What quantizing costs, beside llama.cpp's quantizer: KL divergence from the full model on held-out text.

    python bench/quantize_quality.py nano-f32.gguf --calibration calibration.txt --judging judging.txt --work work

Three comparisons, each a table: files of one type throughout, with the same importance matrix, ours also with
--calibrate; the named mixes; and --fit at sizes between them. All files are scored by the same engine with activations
that lose nothing (int24). In files of one type the embedding, which is the output matrix, is q8_0 in ours and theirs
alike. Needs llama-cpp-python.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import gguf
import llama_peer
import numpy as np
from numpy.typing import NDArray

import pygrok
from pygrok.evaluation import kl_divergence, reference_log_probabilities
from pygrok.quantize import convert
from pygrok.quantize.imatrix import collect

EMBEDDING = "q8_0"
STRIDE = 511  # of windows of 512: every token is computed once
CALIBRATED_BITS = 4.5  # types above gain too little to be worth the time


@dataclass(frozen=True)
class Score:
    """One file."""

    name: str
    maker: str  # "pygrok", "calibrated", "fit" or "llama.cpp"
    bytes: int
    kl: float  # mean, nats
    kl_error: float  # standard error of the mean
    top1: float
    perplexity_ratio: float


class Judge:
    """The held-out text as the full model sees it."""

    def __init__(self, model: Path, text: Path, tokens: int, threads: int | None) -> None:
        self.threads = threads
        with self.load(model) as full:
            self.ids = full.tokenizer.encode(text.read_text())[:tokens]
            self.reference = reference_log_probabilities(full, self.ids, stride=STRIDE)

    def load(self, path: Path) -> pygrok.Model:
        return pygrok.load(path, threads=self.threads, kv_type="f32", activations="int24")

    def score(self, path: Path, name: str, maker: str) -> Score:
        with self.load(path) as model:
            d = kl_divergence(model, self.ids, self.reference, stride=STRIDE)
        score = Score(
            name, maker, path.stat().st_size, d.mean, d.standard_error, d.top1_agreement, d.perplexity_ratio
        )
        print(
            f"{name:10} {maker:10} {score.bytes / 1e6:7.2f} MB  KL {d.mean:.6f} +- {d.standard_error:.6f}",
            flush=True,
        )
        path.unlink()
        return score


def peer_importance(path: Path) -> dict[str, NDArray[np.float32]]:
    """The matrix as llama.cpp's own tool hands it on: mean squares, and 1 for experts never seen."""
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    result = {}
    for key, sums in tensors.items():
        if not key.endswith(".in_sum2"):
            continue
        name = key.removesuffix(".in_sum2")
        counts = np.asarray(tensors[f"{name}.counts"], np.float32).reshape(-1, 1)
        rows = np.asarray(sums, np.float32).reshape(len(counts), -1)
        means = np.divide(rows, counts, out=np.ones_like(rows), where=counts > 0)
        result[name] = np.ascontiguousarray(means.reshape(-1), np.float32)
    return result


class Bench:
    """Files are made in `work` one at a time, and removed when scored."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.makers = set(args.makers.split(","))
        self.work: Path = args.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.imatrix = self.work / "imatrix.gguf"
        with pygrok.load(args.model, threads=args.threads, kv_type="f32") as model:
            ids = model.tokenizer.encode(args.calibration.read_text())[: args.calibration_tokens]
            collect(model, [ids]).save(self.imatrix)
        self.for_peer = peer_importance(self.imatrix)
        self.judge = Judge(args.model, args.judging, args.tokens, args.threads)

    def ours(self, name: str, maker: str = "pygrok", **options: object) -> Score:
        path = self.work / f"{maker}-{name}.gguf"
        options = {"type": name, **options}
        convert(self.args.model, path, imatrix=self.imatrix, threads=self.args.threads, force=True, **options)  # type: ignore[arg-type]
        return self.judge.score(path, name, maker)

    def theirs(self, name: str, ftype: int, pure: bool) -> Score:
        path = self.work / f"theirs-{name}.gguf"
        llama_peer.quantize(
            self.args.model,
            path,
            ftype,
            pure=pure,
            embedding_type=EMBEDDING if pure else None,
            importance=self.for_peer,
            threads=self.args.threads or 0,
        )
        return self.judge.score(path, name, "llama.cpp")

    def types(self) -> list[Score]:
        scores = []
        for name in self.args.types.split(","):
            if "llama.cpp" in self.makers:
                scores.append(self.theirs(name, llama_peer.PURE[name], True))
            if "pygrok" in self.makers:
                scores.append(self.ours(name, embedding_type=EMBEDDING))
            values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name.upper()]]
            if size * 8 / values <= CALIBRATED_BITS and "calibrated" in self.makers:
                scores.append(
                    self.ours(
                        name,
                        "calibrated",
                        embedding_type=EMBEDDING,
                        calibrate=[self.args.calibration],
                        calibrate_tokens=self.args.calibration_tokens,
                    )
                )
        return scores

    def mixes(self) -> list[Score]:
        scores = []
        for name in self.args.mixes.split(","):
            if name in llama_peer.MIXES and "llama.cpp" in self.makers:
                scores.append(self.theirs(name, llama_peer.MIXES[name], False))
            if "pygrok" in self.makers:
                scores.append(self.ours(name))
        return scores

    def fits(self) -> list[Score]:
        return [
            self.ours(f"{size}", "fit", type="q4_k_m", fit=int(size)) for size in self.args.fit.split(",")
        ]


def type_table(scores: list[Score]) -> str:
    """Mean KL of each type, and ours as a multiple of llama.cpp's."""
    by = {(s.name, s.maker): s for s in scores}
    lines = [
        "| type | llama.cpp | pygrok | ratio | pygrok, calibrated | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(s.name for s in scores):
        peer, ours, calibrated = (by.get((name, m)) for m in ("llama.cpp", "pygrok", "calibrated"))
        cells = [name, *(f"{s.kl:.6f}" if s else "" for s in (peer, ours))]
        cells.append(f"{ours.kl / peer.kl:.3f}" if ours and peer else "")
        cells += (
            [f"{calibrated.kl:.6f}", f"{calibrated.kl / peer.kl:.3f}"] if calibrated and peer else ["", ""]
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def size_table(scores: list[Score]) -> str:
    """Files by size."""
    lines = ["| file | by | MB | mean KL | same most likely token |", "|---|---|---:|---:|---:|"]
    for s in sorted(scores, key=lambda score: score.bytes):
        lines.append(f"| {s.name} | {s.maker} | {s.bytes / 1e6:.3f} | {s.kl:.6f} | {s.top1:.2%} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="GGUF file with f32 weights")
    parser.add_argument("--calibration", type=Path, required=True, help="text for the importance matrix")
    parser.add_argument("--judging", type=Path, required=True, help="text to score on")
    parser.add_argument("--work", type=Path, required=True, help="folder for the files in between")
    parser.add_argument("--types", default=",".join(llama_peer.PURE), help="comma-separated; empty: none")
    parser.add_argument(
        "--mixes", default="q2_k,q3_k_s,q3_k_m,q3_k_l,q4_k_s,q4_k_m,q5_k_s,iq2_m,iq3_m,iq4_xs"
    )
    parser.add_argument("--fit", default="", help="sizes in bytes, comma-separated")
    parser.add_argument("--tokens", type=int, default=24_000, help="of the text to score on")
    parser.add_argument("--calibration-tokens", type=int, default=65_536)
    parser.add_argument("--makers", default="llama.cpp,pygrok,calibrated", help="whose files to make")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="file for all figures")
    args = parser.parse_args()
    bench = Bench(args)
    parts: list[tuple[str, Callable[[], list[Score]], Callable[[list[Score]], str]]] = [
        (args.types, bench.types, type_table),
        (args.mixes, bench.mixes, size_table),
        (args.fit, bench.fits, size_table),
    ]
    everything: list[Score] = []
    tables = []
    for wanted, run, table in parts:
        if wanted:
            scores = run()
            everything += scores
            tables.append(table(scores))
    print("\n" + "\n\n".join(tables))
    if args.json:
        args.json.write_text(json.dumps([asdict(score) for score in everything], indent=1))


if __name__ == "__main__":
    main()
