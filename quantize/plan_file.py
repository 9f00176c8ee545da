"""Plan files: the type of each tensor, saved by `--save-plan` and read by `--plan`.

JSON: {"format": "pygrok-plan", "version": 1, "tensors": {"blk.0.attn_q.weight": "q6_k", "blk.*.ffn_*": "q4_k"}}.
A key is a tensor's GGUF name, or a pattern in which each * stands for any characters, none included; an exact name
goes before every pattern, a later pattern before an earlier one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygrok.errors import FormatError
from pygrok.quantize.json_files import load_json, quoted, save_json
from pygrok.quantize.tensor_types import TYPES

__all__ = ["PlanFile", "load_plan_file", "save_plan_file"]

FORMAT = "pygrok-plan"
VERSION = 1


@dataclass(frozen=True)
class PlanFile:
    """What a plan file says: (key, type) in its order. `path` is for messages."""

    path: Path
    entries: tuple[tuple[str, str], ...]

    def assign(self, names: Sequence[str], always_f32: Collection[str] = ()) -> dict[str, str]:
        """The types of the tensors that the file speaks of.

        Raises FormatError for a key that is none of these, or names one of always_f32 and another type.
        """
        known = set(names)
        types: dict[str, str] = {}
        for key, type_name in self.entries:
            if "*" in key:
                matching = [name for name in names if _matches(key, name)]
                types |= dict.fromkeys(matching, type_name)
            else:
                matching = [key] if key in known else []
                if key in always_f32 and type_name != "f32":
                    raise FormatError(f"{self.path}: {quoted(key)} stays f32; remove it, or say so")
            if not matching:
                raise FormatError(
                    f"{self.path}: {quoted(key)} in 'tensors' is no tensor of this model; correct or remove it "
                    "(--dry-run lists the names)"
                )
        return types | {key: type_name for key, type_name in self.entries if key in known}


def load_plan_file(path: str | Path) -> PlanFile:
    """Reads a plan file. Raises FormatError naming the file, the place and the remedy; OSError."""
    path = Path(path)
    document = load_json(path, FORMAT, VERSION, "--save-plan makes one")
    return PlanFile(path, _entries(path, document))


def save_plan_file(path: str | Path, types: Iterable[tuple[str, str]]) -> None:
    """Writes (tensor name, type) of every tensor, in one step. Raises OSError."""
    save_json(Path(path), FORMAT, VERSION, {"tensors": dict(types)})


def _entries(path: Path, document: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    unknown = sorted(document.keys() - {"format", "version", "tensors"})
    if unknown:
        raise FormatError(f"{path}: unknown key {quoted(unknown[0])}; remove it")
    tensors = document.get("tensors")
    if not isinstance(tensors, dict):
        raise FormatError(f"{path}: 'tensors' is missing or no object; make the file anew with --save-plan")
    for key, type_name in tensors.items():
        if not isinstance(type_name, str) or type_name not in TYPES:
            raise FormatError(
                f"{path}: type {quoted(type_name)} of {quoted(key)} is unknown; choose one of {', '.join(TYPES)}"
            )
    return tuple(tensors.items())


def _matches(pattern: str, name: str) -> bool:
    """Left to right, each piece at its first place: no pattern takes long, whoever wrote the file."""
    first, *middle, last = re.split(r"\*+", pattern)
    if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
        return False
    place, end = len(first), len(name) - len(last)
    for piece in middle:
        place = name.find(piece, place, end)
        if place < 0:
            return False
        place += len(piece)
    return True
