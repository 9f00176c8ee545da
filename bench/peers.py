"""pygrok and llama.cpp on the same file with the same threads, in one run, taking turns.

    python bench/peers.py MODEL.gguf --threads 2 [--prefill 512] [--decode 64] [--sessions 1,4,8] [--repeats 5] [--json]

llama.cpp can use some types' weights as they are or repack them at load, and which is faster differs between phases:
both ways take part, and the faster one counts. Prints medians, their ratio, and the shares of what this machine can do
at best, measured in the same run: decoding by the rate at which the mapped file can merely be read, prefill by the rate
of dot products on registers. Loading and memory are measured in a fresh process each. Needs llama-cpp-python.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

VNNI = "avx512_vnni"
WAYS = ("as it is", "repacked")  # in which llama.cpp takes weights


def token_ids(vocab: int, count: int, seed: int) -> list[int]:
    """The same pseudo-random ids for both engines."""
    ids: list[int] = np.random.default_rng(seed).integers(0, vocab, count).tolist()
    return ids


class Ours:
    """pygrok."""

    def __init__(self, model: str, threads: int, context: int, sessions: int) -> None:
        import pygrok

        self.model = pygrok.load(model, threads=threads, context=context)
        self.vocab = self.model.config.vocab
        self.sessions = [self.model.session() for _ in range(sessions)]

    def reset(self) -> None:
        for session in self.sessions:
            session.rewind(0)

    def prefill(self, ids: list[int]) -> None:
        self.sessions[0].feed(ids)

    def step(self, ids: list[int]) -> None:
        """One token to each of the first len(ids) sessions."""
        self.model.feed_many([(s, [i]) for s, i in zip(self.sessions, ids, strict=False)])


class Theirs:
    """llama.cpp."""

    def __init__(self, model: str, threads: int, context: int, sessions: int, *, repack: bool = True) -> None:
        import llama_cpp as peer

        self.peer = peer
        self.log = peer.llama_log_callback(lambda level, text, data: None)
        peer.llama_log_set(self.log, None)
        options = peer.llama_model_default_params()
        options.n_gpu_layers = 0
        options.use_extra_bufts = repack
        self.model = peer.llama_model_load_from_file(model.encode(), options)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {model}")
        self.vocab = peer.llama_vocab_n_tokens(peer.llama_model_get_vocab(self.model))
        options = peer.llama_context_default_params()
        options.n_ctx = context * sessions
        options.n_batch = options.n_ubatch = 512
        options.n_seq_max = sessions
        options.n_threads = options.n_threads_batch = threads
        self.context = peer.llama_init_from_model(self.model, options)
        self.batch = peer.llama_batch_init(512, 0, 1)
        self.position = [0] * sessions

    def reset(self) -> None:
        self.peer.llama_memory_clear(self.peer.llama_get_memory(self.context), True)
        self.position = [0] * len(self.position)

    def _decode(self, entries: list[tuple[int, int, bool]]) -> None:
        """(token, session, whether its logits are wanted) each."""
        self.batch.n_tokens = len(entries)
        for i, (token, session, wanted) in enumerate(entries):
            self.batch.token[i] = token
            self.batch.pos[i] = self.position[session]
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = session
            self.batch.logits[i] = wanted
            self.position[session] += 1
        status = self.peer.llama_decode(self.context, self.batch)
        if status != 0:
            raise RuntimeError(f"llama_decode gives {status}")
        self.peer.llama_get_logits_ith(self.context, len(entries) - 1)  # waits for the result

    def prefill(self, ids: list[int]) -> None:
        for first in range(0, len(ids), 512):
            part = ids[first : first + 512]
            self._decode([(t, 0, first + i + 1 == len(ids)) for i, t in enumerate(part)])

    def step(self, ids: list[int]) -> None:
        self._decode([(token, session, True) for session, token in enumerate(ids)])


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def child(engine: str, model: str, threads: int, context: int) -> dict[str, float]:
    """Seconds from opening the file to the first token's logits, and anonymous memory after that."""
    if engine == "ours":
        import pygrok  # noqa: F401  # importing is not loading
    else:
        import llama_cpp  # noqa: F401
    begin = time.perf_counter()
    runner = (
        Ours(model, threads, context, 1)
        if engine == "ours"
        else Theirs(model, threads, context, 1, repack=engine == "repacked")
    )
    loaded = time.perf_counter() - begin
    runner.step([1])
    return {"load": loaded, "first_token": time.perf_counter() - begin, "anonymous": anonymous_bytes()}


def in_child(engine: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, args.model, "--threads", str(args.threads), "--child", engine]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return figures


def alternate(work: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Each once to warm up, then in turn."""
    for run in work.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, run in work.items():
            times[name].append(run())
    return times


def line(what: str, times: dict[str, list[float]], tokens: int) -> dict[str, Any]:
    """Medians in tokens/s; the ratio is that of our median and the best of theirs."""
    seconds = {name: statistics.median(runs) for name, runs in times.items()}
    mine = seconds.pop("ours")
    best = min(seconds, key=lambda name: seconds[name])
    return {
        "what": what,
        "ours": tokens / mine,
        "theirs": tokens / seconds[best],
        "their_way": best,
        "ratio": seconds[best] / mine,
        "seconds": mine,
    }


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All phases, one after the other."""
    from pygrok._core import GgufFile, supported_isas
    from pygrok.footprint import footprint
    from pygrok.limits import Limits

    sessions = sorted({int(n) for n in args.sessions.split(",")})
    lengths = [int(n) for n in args.prefill.split(",")]
    context = max(lengths) + args.decode + 8
    ours = Ours(args.model, args.threads, context, max(sessions))
    engines: dict[str, Any] = {"ours": ours}
    for way in WAYS[: 2 if args.repack else 1]:
        engines[way] = Theirs(args.model, args.threads, context, max(sessions), repack=way == "repacked")
    limits = Limits(footprint(GgufFile(args.model)), args.threads, ours.model.engine.isa)
    reads: list[float] = []
    # On a machine with AMX the rate of AVX-512's dot product too: it is what most machines have.
    rates: dict[str, list[float]] = {
        isa: [] for isa in (ours.model.engine.isa, VNNI) if isa in supported_isas()
    }
    lines = []

    for length in lengths:
        ids = token_ids(ours.vocab, length, length)

        def prefill(engine: Any, ids: list[int] = ids) -> float:
            engine.reset()
            for isa, found in rates.items():
                found.append(limits.dot_rate(isa))
            return seconds(lambda: engine.prefill(ids))

        times = alternate({name: lambda e=e: prefill(e) for name, e in engines.items()}, args.repeats)  # type: ignore[misc]
        entry = line(f"prefill {length}", times, length)
        rate = limits.prefill_operations(length) / entry["seconds"]
        entry["shares"] = {isa: rate / statistics.median(found) for isa, found in rates.items()}
        lines.append(entry)
    for count in sessions:
        ids = token_ids(ours.vocab, args.decode * count, count)

        def decode(engine: Any, ids: list[int] = ids, count: int = count) -> float:
            engine.reset()
            reads.append(limits.read_rate())
            return seconds(
                lambda: [engine.step(ids[i * count : (i + 1) * count]) for i in range(args.decode)]
            )

        times = alternate({name: lambda e=e: decode(e) for name, e in engines.items()}, args.repeats)  # type: ignore[misc]
        entry = line(f"decode, {count} sessions", times, args.decode * count)
        if count == 1:
            rate = limits.decode_bytes() * args.decode / entry["seconds"]
            entry["shares"] = {"read": rate / statistics.median(reads)}
        lines.append(entry)

    starts = {name: [in_child(name, args) for _ in range(3)] for name in engines}
    fresh = {
        key: {name: statistics.median(run[key] for run in runs) for name, runs in starts.items()}
        for key in ("load", "first_token", "anonymous")
    }
    return {
        "model": args.model,
        "threads": args.threads,
        "isa": ours.model.engine.isa,
        "read_bytes_per_second": statistics.median(reads),
        "dot_operations_per_second": {isa: statistics.median(found) for isa, found in rates.items()},
        "speed": lines,
        "fresh": fresh,
    }


def report(result: dict[str, Any]) -> None:
    print(
        f"{Path(result['model']).name}, {result['threads']} threads, {result['isa']}: "
        f"reads {result['read_bytes_per_second'] / 1e9:.1f} GB/s, "
        + ", ".join(
            f"{isa} {rate / 1e12:.2f} Top/s" for isa, rate in result["dot_operations_per_second"].items()
        )
        + "\n"
    )
    print("| | pygrok tokens/s | llama.cpp | its weights | ratio | pygrok's share of the limit |")
    print("|---|---:|---:|---|---:|---:|")
    for entry in result["speed"]:
        share = ", ".join(f"{share:.0%} of {limit}" for limit, share in entry.get("shares", {}).items())
        print(
            f"| {entry['what']} | {entry['ours']:.2f} | {entry['theirs']:.2f} | {entry['their_way']} "
            f"| {entry['ratio']:.2f} | {share} |"
        )
    for key, unit, scale in (("first_token", "s", 1.0), ("anonymous", "MB", 1e-6)):
        figures = dict(result["fresh"][key])
        ours = figures.pop("ours")
        name = {"first_token": "open to first token", "anonymous": "anonymous memory"}[key]
        for way, theirs in figures.items():
            print(
                f"| {name} ({unit}) | {ours * scale:.3g} | {theirs * scale:.3g} | {way} | {theirs / ours:.2f} | |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", default="512", help="prompt lengths, comma-separated")
    parser.add_argument("--decode", type=int, default=64, help="tokens")
    parser.add_argument("--sessions", default="1,4,8", help="how many decode at once, comma-separated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--no-repack",
        dest="repack",
        action="store_false",
        help="llama.cpp with its weights as they are only (builds with AMX crash on some virtual machines else)",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=("ours", *WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.model, args.threads, 512)))
        return
    result = compare(args)
    print(json.dumps(result)) if args.json else report(result)


if __name__ == "__main__":
    main()
