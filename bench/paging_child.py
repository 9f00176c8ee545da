"""The processes that bench/paging.py runs within a memory limit: each reads jobs as JSON lines and answers likewise.

Tokens begin anew, unless the job says "apart": false: what a random model makes of a growing text becomes ever more the
same, and so does its routing.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from typing import Any

import numpy as np


def answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def ids_of(job: dict[str, Any], vocab: int) -> list[int]:
    """Pseudo-random ids, the same for both engines."""
    ids: list[int] = np.random.default_rng(job["seed"]).integers(0, vocab, job["tokens"]).tolist()
    return ids


def run_pygrok(model: str, options: dict[str, Any]) -> None:
    """options: threads, trace (a path), and arguments of `pygrok.load`."""
    import pygrok

    trace = options.pop("trace", None)
    begin = time.perf_counter()
    with ExitStack() as stack:
        loaded = stack.enter_context(pygrok.load(model, **options))
        engine = loaded.engine
        if trace is not None:
            stack.enter_context(loaded.trace(trace))
        answer(
            {
                "load_seconds": time.perf_counter() - begin,
                "paging": engine.paging(),
                "vocab": loaded.config.vocab,
            }
        )
        session = loaded.session()
        for line in sys.stdin:
            job = json.loads(line)
            ids = ids_of(job, loaded.config.vocab)
            if job.get("apart", True) or session.position + len(ids) > loaded.context:
                session.rewind(0)
            engine.reset_paging()
            seconds = []
            if job["phase"] == "prefill":
                begin = time.perf_counter()
                session.feed(ids)
                seconds.append(time.perf_counter() - begin)
            else:
                for token in ids:
                    if job.get("apart", True):
                        session.rewind(0)
                    begin = time.perf_counter()
                    session.feed([token])
                    seconds.append(time.perf_counter() - begin)
            answer({"seconds": seconds, "paging": engine.paging()})


def run_llama(model: str, options: dict[str, Any]) -> None:
    """Answers after each token, so that one can see how far it came."""
    import llama_cpp as peer

    log = peer.llama_log_callback(lambda level, text, data: None)
    peer.llama_log_set(log, None)
    parameters = peer.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.use_extra_bufts = False  # its AMX path crashes on some virtual machines
    begin = time.perf_counter()
    loaded = peer.llama_model_load_from_file(model.encode(), parameters)
    if not loaded:
        raise RuntimeError(f"llama.cpp does not load {model}")
    settings = peer.llama_context_default_params()
    settings.n_ctx = 512
    settings.n_batch = settings.n_ubatch = 64
    settings.n_threads = settings.n_threads_batch = options["threads"]
    context = peer.llama_init_from_model(loaded, settings)
    vocab = peer.llama_vocab_n_tokens(peer.llama_model_get_vocab(loaded))
    answer({"load_seconds": time.perf_counter() - begin, "vocab": vocab})
    for line in sys.stdin:
        job = json.loads(line)
        for token in ids_of(job, vocab):
            peer.llama_memory_clear(peer.llama_get_memory(context), True)
            begin = time.perf_counter()
            status = peer.llama_decode(context, peer.llama_batch_get_one((peer.llama_token * 1)(token), 1))
            if status != 0:
                raise RuntimeError(f"llama_decode gives {status}")
            answer({"seconds": [time.perf_counter() - begin]})


if __name__ == "__main__":
    {"pygrok": run_pygrok, "llama": run_llama}[sys.argv[1]](sys.argv[2], json.loads(sys.argv[3]))
