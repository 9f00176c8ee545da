"""`pygrok info`: what a model file holds and what running it takes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pygrok.cli import ui
from pygrok.cli.options import AsJson, Debug, ModelFile

if TYPE_CHECKING:
    from pygrok.footprint import Footprint


def info(
    *,
    model: ModelFile = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    context: Annotated[
        int | None,
        typer.Option("--context", "-c", min=1, help="Estimate the cache for this many positions, too."),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what a model file holds: hyperparameters, tensors, tokenizer, bytes read per token, memory.

    Reads the header only, so it takes no time on a file of any size, and also describes files that pygrok
    cannot run.

    Example: `pygrok info grok-1-q4_0.gguf --context 4096`
    """
    del debug
    from pygrok._core import GgufFile
    from pygrok.footprint import footprint
    from pygrok.model import default_model_path

    described = footprint(GgufFile(str(default_model_path() if model is None else Path(model))))
    if as_json:
        ui.print_json(_as_dict(described, context, tensors))
    else:
        _print(described, context, tensors)


def _contexts(described: Footprint, asked: int | None) -> list[int]:
    full = int(described.hyperparameters.get("context", 0))
    return sorted({n for n in (1024, full, asked or 0) if n and (n <= full or n == asked)})


def _as_dict(described: Footprint, context: int | None, tensors: bool) -> dict[str, Any]:
    from pygrok.footprint import KV_BYTES

    result: dict[str, Any] = {
        "paths": described.paths,
        "file_bytes": described.file_bytes,
        "gguf_version": described.version,
        "architecture": described.architecture,
        "name": described.name,
        "runnable": described.runnable,
        "unsupported_types": described.unsupported,
        "hyperparameters": described.hyperparameters,
        "parameters": described.values,
        "active_parameters": described.active_values,
        "bytes_per_token": described.active_bytes,
        "types": {name: asdict(total) for name, total in described.types.items()},
        "kv_bytes": {
            kv_type: {str(n): int(described.kv_values * width * n) for n in _contexts(described, context)}
            for kv_type, width in KV_BYTES.items()
        },
        "tokenizer": described.tokenizer,
    }
    if tensors:
        result["tensors"] = [
            {
                "name": t.name,
                "type": t.type,
                "shape": list(t.shape),
                "bytes": t.bytes,
                "shard": t.shard,
                "offset": t.offset,
            }
            for t in described.tensors
        ]
    return result


def _print(described: Footprint, context: int | None, tensors: bool) -> None:
    more = f" and {len(described.paths) - 1} more parts" if len(described.paths) > 1 else ""
    runs = "yes"
    if described.architecture != "grok":
        runs = f"no: architecture {described.architecture!r}, not 'grok'"
    elif described.unsupported:
        runs = f"no: weights of type {', '.join(described.unsupported)}"
    ui.print_pairs(
        [
            ("file", f"{described.paths[0]}{more}"),
            ("size", f"{ui.size(described.file_bytes)} ({described.file_bytes:,} bytes)"),
            ("format", f"GGUF {described.version}, architecture {described.architecture}"),
            ("name", ui.harmless(described.name) or "-"),
            ("runs in pygrok", runs),
            (
                "parameters",
                f"{ui.scaled(described.values)}, {ui.scaled(described.active_values)} used per token",
            ),
            ("read per token", f"{ui.size(described.active_bytes)} of weights"),
        ]
    )
    print("\nHyperparameters")
    ui.print_pairs(
        [
            (name, f"{value:g}" if isinstance(value, float) else str(value))
            for name, value in described.hyperparameters.items()
        ],
        indent="  ",
    )
    print("\nTokenizer")
    if described.tokenizer is None:
        print("  none in the file")
    else:
        ui.print_pairs([(k, ui.harmless(str(v))) for k, v in described.tokenizer.items()], indent="  ")
    print("\nTensors by type")
    ordered = sorted(described.types.items(), key=lambda item: -item[1].bytes)
    ui.print_table(
        ["  type", "tensors", "values", "size", ""],
        [
            [
                f"  {name}",
                str(total.count),
                ui.scaled(total.values),
                ui.size(total.bytes),
                "not supported" if name in described.unsupported else "",
            ]
            for name, total in ordered
        ],
    )
    _print_cache(described, context)
    if tensors:
        print("\nTensors")
        ui.print_table(
            ["  name", "type", "shape", "size"],
            [
                [f"  {ui.harmless(t.name)}", t.type, " x ".join(map(str, t.shape)), ui.size(t.bytes)]
                for t in described.tensors
            ],
        )


def _print_cache(described: Footprint, context: int | None) -> None:
    from pygrok.footprint import KV_BYTES

    contexts = _contexts(described, context)
    if not described.kv_values or not contexts:
        return
    print("\nMemory for a session's key/value cache (weights stay in the file's pages, which may be dropped)")
    ui.print_table(
        ["  positions", *KV_BYTES],
        [
            [f"  {n}", *(ui.size(int(described.kv_values * width * n)) for width in KV_BYTES.values())]
            for n in contexts
        ],
    )
