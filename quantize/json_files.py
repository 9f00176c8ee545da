"""JSON files of pygrok's own formats, which somebody else may have written: every fault is one clear FormatError."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pygrok.errors import FormatError
from pygrok.files import replacing

__all__ = ["load_json", "quoted", "save_json"]

_MOST_BYTES = 16 << 20  # plans and sensitivities of Grok-1 itself take 50 kB
_SHOWN = 80  # characters of a file's own text in a message


def load_json(path: Path, file_format: str, version: int, remedy: str) -> dict[str, Any]:
    """The object in a file that says {"format": file_format, "version": version, ...}.

    Raises FormatError naming the file, the place and the remedy, also for a key that an object has twice; OSError.
    """
    with path.open("rb") as file:
        raw = file.read(_MOST_BYTES + 1)
    if len(raw) > _MOST_BYTES:
        raise FormatError(f"{path}: larger than {_MOST_BYTES >> 20} MiB, so no {file_format} file; {remedy}")
    try:
        document = json.loads(raw, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise FormatError(f"{path}: {place}: {error.msg}; correct it, or {remedy}") from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: byte {error.start} is no UTF-8; {remedy}") from None
    except _Duplicate as error:
        raise FormatError(f"{path}: {quoted(error.key)} stands there twice; remove one") from None
    except RecursionError:
        raise FormatError(f"{path}: nested too deeply; {remedy}") from None
    except ValueError:  # a number of more digits than Python takes
        raise FormatError(f"{path}: a number is too long; {remedy}") from None
    if not isinstance(document, dict) or document.get("format") != file_format:
        raise FormatError(f"{path}: 'format' is not '{file_format}', so it is another kind of file; {remedy}")
    found = document.get("version")
    if type(found) is not int or found != version:
        raise FormatError(f"{path}: 'version' is {quoted(found)}, expected {version}; {remedy}")
    return document


def save_json(path: Path, file_format: str, version: int, content: Mapping[str, Any]) -> None:
    """Writes what `load_json` reads, in one step. Raises OSError."""
    document = {"format": file_format, "version": version, **content}
    with replacing(path) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def quoted(value: Any) -> str:
    """A value of the file, short and in printable ASCII, for messages."""
    if isinstance(value, (dict, list)):  # however large or deep
        return "an object" if isinstance(value, dict) else "a list"
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class _Duplicate(Exception):  # noqa: N818  # never leaves this file
    def __init__(self, key: str) -> None:
        self.key = key


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Duplicate(key)
        found[key] = value
    return found
