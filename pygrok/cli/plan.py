"""`pygrok plan`: whether a model would fit this machine and how fast it would run, before anything is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pygrok.cli import plan_output, ui
from pygrok.cli.errors import UsageError
from pygrok.cli.options import AsJson, Debug

if TYPE_CHECKING:
    from pygrok._core import GgufFile
    from pygrok.disk import DiskSpeed
    from pygrok.forecast import Machine, ModelWeights
    from pygrok.machine import Memory, Weights

# From the smallest that is of use to the exact one.
_COMPARED = ("iq2_xs_moe", "iq3_xs", "q3_k_m", "q4_0", "q4_k_m", "q5_k_m", "q8_0")
# Types with less of a token's bytes are not timed: they are taken to run at the bandwidth.
_TIMED_SHARE = 0.01


@dataclass(frozen=True)
class Measured:
    """What was found out about the machine, and how. conversion: values per second by type."""

    machine: Machine
    memory: Memory
    threads: int
    isa: str
    bandwidth_about: str
    disk: DiskSpeed
    free_disk: int
    conversion: Mapping[str, float]


def plan(
    *,
    model: Annotated[
        Path | None,
        typer.Argument(metavar="MODEL", help="A GGUF file that is there already.", show_default=False),
    ] = None,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="NAME",
            help="Grok-1 as this type or mix, such as q4_k_m; several times: a comparison.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            "--context", "-c", min=1, help="Positions of the cache; default: the model's.", show_default=False
        ),
    ] = None,
    kv_type: Annotated[str, typer.Option("--kv-type", help="Key/value cache: f32, f16, bf16, q8_0.")] = "f16",
    disk: Annotated[
        Path | None,
        typer.Option(
            "--disk",
            metavar="DIR|FILE",
            help="Measure this disk; default: MODEL's, or that of the current folder.",
            show_default=False,
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option("--memory", help="Suppose this much memory, such as 64GiB.", show_default=False),
    ] = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            "--bandwidth", help="Suppose this memory bandwidth, such as 80GB/s.", show_default=False
        ),
    ] = None,
    disk_rate: Annotated[
        str | None,
        typer.Option(
            "--disk-rate", help="Suppose a disk that reads this, such as 3GB/s.", show_default=False
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", "-t", min=1, help="Threads; default: all that add speed.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Forecast whether a model fits this machine, and how fast it would load and decode.

    Of a GGUF file, or of Grok-1 in any type or mix of `pygrok-quantize`, without having it; with neither,
    several types are compared. Memory bandwidth, kernels and disk are measured, which takes some seconds; give
    --memory, --bandwidth and --disk-rate to ask about another machine.

    Example: `pygrok plan --type q4_k_m --memory 128GiB`
    """
    del debug
    from pygrok.footprint import KV_BYTES
    from pygrok.forecast import released_weights

    if model is not None and types:
        raise UsageError("give a MODEL or --type, not both")
    if kv_type not in KV_BYTES:
        raise UsageError(f"kv type {kv_type!r} is unknown: choose {', '.join(KV_BYTES)}")
    gguf, place = None, Path()
    if model is not None:
        gguf, found = _open(model)
        plans = [found]
        place = max(map(Path, gguf.paths), key=lambda path: path.stat().st_size)
    else:
        try:
            plans = [released_weights(name) for name in dict.fromkeys(types or _COMPARED)]
        except ValueError as error:
            raise UsageError(f"--type: {error}") from error
    given = {
        "memory": _amount(memory, "--memory"),
        "bandwidth": _amount(bandwidth, "--bandwidth", "/s"),
        "disk": _amount(disk_rate, "--disk-rate", "/s"),
    }
    measured = _measure(plans, gguf, disk or place, given, threads)
    positions = [context or plan.context for plan in plans]
    results = [
        plan_output.forecast(plan, measured, KV_BYTES[kv_type], n)
        for plan, n in zip(plans, positions, strict=True)
    ]
    if as_json:
        ui.print_json({"machine": plan_output.machine(measured), "plans": results})
        return
    plan_output.print_machine(measured)
    if len(results) == 1:
        plan_output.print_one(results[0], measured)
    else:
        plan_output.print_many(results, measured)


def _amount(text: str | None, name: str, suffix: str = "") -> int | None:
    from pygrok.memory import parse_bytes

    if text is None:
        return None
    try:
        return parse_bytes(text.strip().removesuffix(suffix), name=name)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _open(path: Path) -> tuple[GgufFile, ModelWeights]:
    import pygrok
    from pygrok._core import GgufFile
    from pygrok.footprint import footprint
    from pygrok.forecast import weights_of

    with pygrok.load(path, threads=1):  # reads headers only, and refuses what does not run
        gguf = GgufFile(str(path))
        return gguf, weights_of(footprint(gguf))


def _measure(
    plans: list[ModelWeights],
    gguf: GgufFile | None,
    place: Path,
    given: Mapping[str, int | None],
    threads: int | None,
) -> Measured:
    from pygrok import _core, machine
    from pygrok.disk import DiskSpeed, measure_disk
    from pygrok.forecast import Machine

    place.stat()  # raises before the measurements take their time
    count = threads or _core.available_cpus()
    found = machine.memory()
    types = _timed(plans)
    read: dict[str, float] = {}
    rates: dict[str, float] = {}
    sizes: dict[str, int] = {}
    nbytes = machine.sample_bytes(found.available)
    for name in types:
        with _sample(gguf, name, nbytes) as weights:
            read[name] = machine.read_rate(weights, count)
            rates[name] = machine.decode_rate(weights, count)
            sizes[name] = weights.rows.nbytes
    best = max(read, key=lambda name: read[name])
    bandwidth, about = read[best], f"{ui.size(sizes[best])} of {best} read by {count} threads"
    if given["bandwidth"] is not None:
        # What decoding reaches of it is taken from here, moments apart, as machines drift.
        rates = {name: rate / read[name] * given["bandwidth"] for name, rate in rates.items()}
        bandwidth, about = float(given["bandwidth"]), "as given, reached to the same part as here"
    disk = given["disk"]
    speed = measure_disk(place) if disk is None else DiskSpeed(float(disk), None, "as given")
    if given["memory"] is not None:
        found = machine.Memory(given["memory"], given["memory"], "as given")
    conversion = {}
    if gguf is None and len(plans) == 1:
        conversion = {name: machine.conversion_rate(name, count) for name in types}
    folder = os.statvfs(place if place.is_dir() else place.parent)
    return Measured(
        machine=Machine(found.available, bandwidth, rates, speed.read),
        memory=found,
        threads=count,
        isa=_core.kernels.select(),
        bandwidth_about=about,
        disk=speed,
        free_disk=folder.f_bavail * folder.f_frsize,
        conversion=conversion,
    )


def _timed(plans: Iterable[ModelWeights]) -> list[str]:
    """Types that matter for a token's time, those with most bytes first."""
    most: dict[str, float] = {}
    for plan in plans:
        total = sum(plan.token_bytes.values())
        for name, nbytes in plan.token_bytes.items():
            if nbytes >= _TIMED_SHARE * total:
                most[name] = max(most.get(name, 0.0), nbytes)
    return sorted(most, key=lambda name: -most[name])


@contextmanager
def _sample(gguf: GgufFile | None, type: str, nbytes: int) -> Iterator[Weights]:
    """Weights of a type: the file's own, or random ones."""
    from pygrok import _core, machine

    if gguf is None:
        with machine.sample_weights(type, nbytes) as weights:
            yield weights
        return
    tensor = max((t for t in gguf.tensors if t.type == type), key=lambda t: t.bytes)
    _, block, block_bytes = _core.tensor_types()[type]
    columns = tensor.shape[-1]
    rows = gguf.data(tensor.name).reshape(-1, columns // block * block_bytes)
    rows = rows[: max(1, nbytes // rows.shape[1])]
    yield machine.Weights(type, rows, columns, gguf.paths[tensor.shard], tensor.offset)
