"""Writes a C++ header with the codebooks of the GGUF types, read from the gguf package, which defines them.

    python tools/make_codebooks.py HEADER

The build runs this (CMakeLists.txt). The tables are data of the format: tables of magnitudes that the IQ types index,
the signs that 7 bits stand for, and the values of the 4-bit types that are not evenly spaced.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from gguf import quants
except ImportError as error:
    raise SystemExit(
        f"make_codebooks.py: {error}; install what pyproject.toml lists under build-system"
    ) from error

HEADER = """// Made by tools/make_codebooks.py from the gguf package. Do not edit.
// Constants of internal linkage: files compiled for an instruction set share nothing with others.
#pragma once

#include <cstdint>

namespace pygrok {
"""

# name, C++ type, what it holds
GRIDS = {
    "IQ2_XXS": ("kIq2XxsGrid", "uint8_t", "magnitudes of 8 values"),
    "IQ2_XS": ("kIq2XsGrid", "uint8_t", "magnitudes of 8 values"),
    "IQ2_S": ("kIq2SGrid", "uint8_t", "magnitudes of 8 values"),
    "IQ3_XXS": ("kIq3XxsGrid", "uint8_t", "magnitudes of 4 values"),
    "IQ3_S": ("kIq3SGrid", "uint8_t", "magnitudes of 4 values"),
    "IQ1_S": ("kIq1Grid", "int8_t", "8 values of -1, 0 or 1, of IQ1_S and IQ1_M"),
}


def lines(values: list[str], width: int = 100) -> str:
    """The values separated by commas, in lines of at most `width` characters."""
    rows = [""]
    for value in values:
        if len(rows[-1]) + len(value) + 2 > width:
            rows.append("")
        rows[-1] += f" {value},"
    return "\n".join("   " + row for row in rows)


def table(name: str, c_type: str, values: Any, comment: str) -> str:
    """The definition of a constant of one or two dimensions."""
    shape = "".join(f"[{n}]" for n in values.shape)
    if values.ndim == 1:
        text = [str(int(v)) for v in values]
    else:
        text = ["{" + ", ".join(str(int(v)) for v in row) + "}" for row in values]
    return f"\n// {comment}\nalignas(64) constexpr {c_type} {name}{shape} = {{\n{lines(text)}\n}};\n"


def grid(kind: str) -> Any:
    """A type's codewords [codewords, values of each], as integers."""
    codec = getattr(quants, kind)
    codec.init_grid()
    return codec.grid.reshape(codec.grid_shape).astype(np.int64)


def header() -> str:
    """The whole header."""
    signs = np.frombuffer(quants.IQ2_XXS.ksigns, dtype=np.uint8)
    parts = [
        table(
            "kIqSigns",
            "uint8_t",
            signs,
            "bit i: value i is negative, the number of bits even; by the 7 bits stored",
        ),
        table("kIq4Values", "int8_t", np.array(quants.IQ4_NL.kvalues), "of IQ4_NL and IQ4_XS"),
        table("kMxfp4Values", "int8_t", np.array(quants.MXFP4.kvalues), "E2M1, doubled"),
    ]
    parts += [table(name, c_type, grid(kind), comment) for kind, (name, c_type, comment) in GRIDS.items()]
    return HEADER + "".join(parts) + "\n}  // namespace pygrok\n"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header(), encoding="ascii")


if __name__ == "__main__":
    main()
