"""What README.md states is what the project computes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_are_those_of_the_tool() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for table in tool("size_table").table().split("\n\n"):
        assert table in readme


def test_the_tool_counts_the_released_tensors() -> None:
    # 770 files: the expert tensors' int8 payloads alone are 64 x 3 x 1,610,612,736 values.
    assert tool("size_table").parameters().experts == 64 * 3 * 1_610_612_736
