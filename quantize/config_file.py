"""config.json, read field by field, with all that is wrong in one message."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pygrok.errors import FormatError
from pygrok.quantize.safetensors import parse_json

__all__ = ["ConfigFile"]

MAX_BYTES = 1 << 20


class ConfigFile:
    """A JSON object. The readers note problems and go on; `finish` raises them.

    Raises FormatError if the file is no JSON object, OSError if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(f"{path}: larger than {MAX_BYTES} bytes, so not the config of a model")
        self.path = path
        self.problems: list[str] = []
        self._fields = parse_json(
            path,
            path.read_bytes(),
            "config",
            expected="an object with the fields of a model",
            remedy="correct it or give another with --config",
            constants=True,
        )
        self._place = ""

    def has(self, name: str) -> bool:
        """Whether a field is there and says something."""
        return self._fields.get(name) not in (None, False)

    def part(self, name: str) -> ConfigFile:
        """The object in a field; its problems are noted here."""
        fields = self._fields.get(name)
        if not isinstance(fields, dict):
            raise FormatError(f"{self.path}: {name} is not an object")
        part = ConfigFile.__new__(ConfigFile)
        part.path, part.problems, part._fields, part._place = self.path, self.problems, fields, f"{name}."
        return part

    def count(self, *names: str, default: int | None = None) -> int:
        """The first of `names` that is there: a positive whole number."""
        return int(self._read(names, default, _is_count, "a positive whole number"))

    def positive(self, *names: str, default: float | None = None) -> float:
        """The first of `names` that is there: a positive number."""
        return float(self._read(names, default, _is_positive, "a positive number"))

    def token(self, name: str, default: int) -> int:
        """A token id."""
        return int(self._read((name,), default, _is_token, "a token id"))

    def finish(self) -> None:
        """Raises FormatError if there were problems."""
        if self.problems:
            raise FormatError(f"{self.path}: {'; '.join(self.problems)}")

    def _read(
        self, names: tuple[str, ...], default: Any, is_valid: Callable[[Any], bool], wanted: str
    ) -> Any:
        name = next((n for n in names if self._fields.get(n) is not None), names[0])
        value = self._fields.get(name)
        if value is None and default is not None:
            return default
        if is_valid(value):
            return value
        found = "missing" if value is None else repr(value)[:40]
        self.problems.append(
            f"{self._place}{' or '.join(names) if value is None else name} is {found}, expected {wanted}"
        )
        return 1


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value < 1e9


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31
