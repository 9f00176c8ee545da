"""`pygrok bench`: speed and memory of a model, beside what this machine could do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrok.cli import bench_paging, ui
from pygrok.cli.errors import UsageError
from pygrok.cli.options import AsJson, ModelFile, RunOptions, with_options

if TYPE_CHECKING:
    from pygrok.limits import Limits
    from pygrok.model import Model

_SECONDS = 20.0  # without -p or -n, neither phase's repeats should take longer than this together


@with_options
def bench(
    *,
    model: ModelFile = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            "--prompt-tokens", "-p", min=1, help="Tokens to prefill; default: 512, fewer on a slow model."
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", "-n", min=1, help="Tokens to decode; default: 64, fewer on a slow model."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", "-r", min=1, help="Runs; the median counts.")] = 3,
    as_json: AsJson = False,
    run: RunOptions,
) -> None:
    """Measure prefill and decode speed, load time and memory, and compare with the limits of this machine.

    Decode is bound by reading weights: its limit is the bandwidth at which the same threads read the
    model's own file. Prefill is bound by arithmetic: its limit is the rate of the processor's dot product in
    registers, of int8, on AMX of bfloat16 (a q8_0 model takes three for each activation by default, see
    --activations). Both limits are measured in the same run, since a shared machine's speed drifts. The token ids
    are fixed pseudo-random ones. Of a model that is larger than --memory, or than the machine's, it is also told
    what came from the disk, whose rate is measured by direct reads.

    Example: `pygrok bench grok-1-q4_0.gguf -p 256 -n 32 --threads 8`
    """
    from pygrok._core import GgufFile
    from pygrok.footprint import footprint
    from pygrok.limits import Limits

    begin = time.perf_counter()
    with run.opened(model) as loaded:
        load_seconds = time.perf_counter() - begin
        gguf = GgufFile(loaded.path)
        described = footprint(gguf)
        wanted = _lengths(loaded, prompt_tokens, tokens, repeats)
        meter = bench_paging.PagingMeter(loaded.engine)
        mapped = loaded.engine.paging()["mode"] == "map"
        limits = Limits(described, loaded.engine.threads, loaded.engine.isa, experts=mapped)
        result: dict[str, Any] = {
            "model": loaded.path,
            "threads": loaded.engine.threads,
            "isa": loaded.engine.isa,
            "kv_type": loaded.engine.kv_type,
            "load_seconds": load_seconds,
            **_speeds(loaded, *wanted, repeats, meter, limits),
            "paging": meter.result(described.paths),
            "memory": ui.resident(),
        }
    _compare(result, limits)
    bench_paging.compare(result)
    if run.route_slack:
        result["slack"] = bench_paging.slack_divergence(model, run)
    if as_json:
        ui.print_json(result)
    else:
        _print(result)


def _ids(loaded: Model, count: int, seed: int) -> list[int]:
    import numpy as np

    ids: list[int] = np.random.default_rng(seed).integers(0, loaded.config.vocab, count).tolist()
    return ids


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _lengths(loaded: Model, prompt_tokens: int | None, tokens: int | None, repeats: int) -> tuple[int, int]:
    """Prefill and decode lengths: as asked, else what fits the context and the time."""
    context = loaded.context
    asked = (prompt_tokens or 1) + (tokens or 1)
    if asked > context:
        raise UsageError(
            f"-p {prompt_tokens or 1} and -n {tokens or 1} exceed the context of {context} positions"
        )
    session = loaded.session()

    def timed(count: int) -> float:
        session.rewind(0)
        ids = _ids(loaded, count, count)
        return _seconds(lambda: session.feed(ids))

    timed(1)  # touches the weights for the first time
    one = min(timed(1), timed(1))
    share = _SECONDS / repeats
    decode = tokens or max(1, min(64, int(share / one), (context - (prompt_tokens or 0)) // 2))
    prefill = prompt_tokens
    if prefill is None:
        probe = max(1, min(32, int(2 / one), context - decode))
        prefill = max(1, min(512, int(share / timed(probe) * probe), context - decode))
    return prefill, decode


def _speeds(
    loaded: Model, prefill: int, decode: int, repeats: int, meter: bench_paging.PagingMeter, limits: Limits
) -> dict[str, Any]:
    """Each phase `repeats` times, its limit measured before each."""
    prefills: list[float] = []
    decodes: list[float] = []
    dot_rates, read_rates = [], []
    for repeat in range(repeats):
        session = loaded.session()
        prompt = _ids(loaded, prefill, 10 + repeat)
        follow = _ids(loaded, decode, 1000 + repeat)
        dot_rates.append(limits.dot_rate())
        with meter.phase("prefill"):
            prefills.append(prefill / _seconds(lambda s=session, p=prompt: s.feed(p)))  # type: ignore[misc]
        read_rates.append(limits.read_rate())
        with meter.phase("decode"):
            begin = time.perf_counter()
            for token in follow:
                session.feed([token])
            decodes.append(decode / (time.perf_counter() - begin))
    return {
        "prefill": {"tokens": prefill, "tokens_per_second": statistics.median(prefills), "runs": prefills},
        "decode": {"tokens": decode, "tokens_per_second": statistics.median(decodes), "runs": decodes},
        "read_bytes_per_second": statistics.median(read_rates),
        "dot_operations_per_second": statistics.median(dot_rates),
    }


def _compare(result: dict[str, Any], limits: Limits) -> None:
    """Add rates, the limits in tokens/s and the share of them that was reached."""
    prefill, decode = result["prefill"], result["decode"]
    operations = limits.prefill_operations(prefill["tokens"]) / prefill["tokens"]
    bounds = {
        "decode": result["read_bytes_per_second"] / limits.decode_bytes(),
        "prefill": result["dot_operations_per_second"] / operations,
    }
    for phase, bound in bounds.items():
        result[phase]["limit_tokens_per_second"] = bound
        result[phase]["percent_of_limit"] = 100 * result[phase]["tokens_per_second"] / bound
    prefill["operations_per_second"] = prefill["tokens_per_second"] * operations
    decode["bytes_per_second"] = decode["tokens_per_second"] * limits.decode_bytes()
    result["bytes_per_token"] = limits.decode_bytes()
    result["operations_per_prompt_token"] = round(operations)


def _print(result: dict[str, Any]) -> None:
    def speed(phase: str, rate: str) -> str:
        part = result[phase]
        return (
            f"{ui.scaled(part['tokens_per_second'])} tokens/s over {part['tokens']} tokens, {rate}: "
            f"{part['percent_of_limit']:.0f}% of the limit of {ui.scaled(part['limit_tokens_per_second'])} tokens/s"
        )

    memory = result["memory"]
    ui.print_pairs(
        [
            ("model", result["model"]),
            ("run with", f"{result['threads']} threads, {result['isa']}, cache {result['kv_type']}"),
            ("load", f"{result['load_seconds'] * 1000:.0f} ms"),
            ("prefill", speed("prefill", ui.scaled(result["prefill"]["operations_per_second"], "op/s"))),
            ("decode", speed("decode", ui.scaled(result["decode"]["bytes_per_second"], "B/s"))),
            (
                "memory",
                f"{ui.size(memory['anonymous_bytes'])} of its own, "
                f"{ui.size(memory['file_backed_bytes'])} mapped from files, "
                f"{ui.size(memory['peak_bytes'])} together at the peak",
            ),
            *bench_paging.rows(result),
            (
                "limits here",
                f"{ui.scaled(result['read_bytes_per_second'], 'B/s')} read from the file, "
                f"{ui.scaled(result['dot_operations_per_second'], 'op/s')} of dot products",
            ),
            (
                "per token",
                f"{ui.size(result['bytes_per_token'])} read, "
                f"{ui.scaled(result['operations_per_prompt_token'])} operations in prefill",
            ),
        ]
    )
