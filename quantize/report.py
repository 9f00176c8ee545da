"""One self-contained HTML file about a conversion: errors and sizes as pictures, the plan, the command line."""

from __future__ import annotations

import base64
import errno
import html
import importlib.util
import io
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import pygrok
from pygrok.errors import PygrokError
from pygrok.files import replacing
from pygrok.quantize.plan import PlannedTensor
from pygrok.quantize.units import format_bytes
from pygrok.quantize.verify import TensorError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pygrok.quantize.conversion import ConversionReport
    from pygrok.quantize.source import SourceModel

__all__ = ["ReportContent", "check_report", "content_of", "write_report"]

MOST_LABELLED_LAYERS = 16  # more do not leave room for numbers
_LAYER = re.compile(r"blk\.(\d+)\.(.+)\.weight")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.4em } h2 { font-size: 1.15em; margin-top: 2em }
code, pre { font: 13px/1.4 ui-monospace, monospace; background: #f4f4f2; white-space: pre-wrap }
pre { padding: .7em; overflow-wrap: anywhere } img { max-width: 100% }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .1em .8em .1em 0 } th:first-child, td:first-child { text-align: left }
tr.wrong { color: #b00020; font-weight: bold }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd } code, pre { background: #2a2a2a }
 img { background: #fff } }
"""


@dataclass(frozen=True)
class ReportContent:
    """What a report tells. errors: in the order of tensors; facts: rows of a table, label and text."""

    title: str
    command: str
    facts: Sequence[tuple[str, str]]
    tensors: Sequence[PlannedTensor]
    errors: Sequence[TensorError]
    notices: Sequence[str]


def content_of(result: ConversionReport, source: SourceModel, command: str) -> ReportContent:
    """What there is to tell of a verified conversion."""
    more = f" and {len(result.paths) - 1} more" if len(result.paths) > 1 else ""
    facts = [
        ("source", f"{source.path} ({source.kind}), {format_bytes(source.source_bytes)}"),
        ("files", f"{result.path}{more}"),
        ("size", f"{format_bytes(result.file_bytes)}, {result.bits_per_weight:.3f} bits per weight"),
        ("time", f"{result.seconds:.1f} s, and {result.verify_seconds:.1f} s to verify"),
    ]
    if result.fit is not None:
        fit = result.fit
        facts.append(("fitted to", f"{format_bytes(fit.budget)}; predicted KL {fit.predicted_kl:.4g} nats"))
    return ReportContent(
        result.path.name, command, facts, result.plan.tensors, result.errors or (), result.notices
    )


def check_report(path: Path, force: bool) -> None:
    """Refuses before the work begins what could not be written after it.

    Raises PygrokError if matplotlib is missing; FileExistsError, IsADirectoryError, FileNotFoundError.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise PygrokError(
            "--report draws with matplotlib, which is not installed: pip install 'pygrok[report]'"
        )
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory; give a file name for the report", str(path))
    if path.exists() and not force:
        raise FileExistsError(errno.EEXIST, "exists; --force overwrites it", str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory for the report", str(path.parent))


def write_report(path: Path, content: ReportContent) -> None:
    """Writes the file, in one step. Raises OSError."""
    document = _document(content)
    with replacing(path) as partial:
        partial.write_text(document, encoding="utf-8")


def _document(content: ReportContent) -> str:
    escape = html.escape
    facts = "".join(
        f"<tr><td>{escape(label)}</td><td>{escape(text)}</td></tr>" for label, text in content.facts
    )
    notices = "".join(f"<li>{escape(notice)}</li>" for notice in content.notices)
    weighted = any(error.weighted is not None for error in content.errors)
    columns = ["tensor", "type", "shape", "size", "error", *(["weighted"] if weighted else []), "worst slice"]
    rows = "".join(_row(*pair, weighted) for pair in zip(content.tensors, content.errors, strict=True))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(content.title)}</title><style>{_STYLE}</style></head><body>
<h1>{escape(content.title)}</h1>
<pre>{escape(content.command)}</pre>
<table>{facts}</table>
{f"<h2>Notices</h2><ul>{notices}</ul>" if notices else ""}
<h2>Error by layer and tensor</h2>
<p>Relative error sqrt(sum (x - q)² / sum x²){", squares weighted by importance" if weighted else ""}; a darker
field has lost more. Exact tensors are left out.</p>
{_image("error by layer and tensor", lambda: _draw_errors(content))}
<h2>Bytes by tensor and type</h2>
{_image("bytes by tensor and type", lambda: _draw_sizes(content))}
<h2>All tensors</h2>
<table><tr>{"".join(f"<th>{name}</th>" for name in columns)}</tr>{rows}</table>
<p>Made by pygrok {escape(pygrok.__version__)}.</p>
</body></html>
"""


def _row(tensor: PlannedTensor, error: TensorError, weighted: bool) -> str:
    cells = [
        html.escape(tensor.name),
        tensor.type,
        " x ".join(str(n) for n in tensor.shape),
        format_bytes(tensor.nbytes),
        f"{error.error:.4g}",
        *([f"{error.weighted:.4g}" if error.weighted is not None else ""] if weighted else []),
        f"{error.worst:.4g}",
    ]
    mark = f' class="wrong" title="{html.escape(error.problem)}"' if error.problem else ""
    return f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _place(name: str) -> tuple[str, int]:
    """What row and column of the picture: tensors outside the layers are in column -1."""
    match = _LAYER.fullmatch(name)
    return (match[2], int(match[1])) if match else (name.removesuffix(".weight"), -1)


def _image(description: str, draw: Callable[[], Figure]) -> str:
    buffer = io.BytesIO()
    draw().savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{description}" src="data:image/png;base64,{data}">'


def _draw_errors(content: ReportContent) -> Figure:
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    places = [_place(tensor.name) for tensor in content.tensors]
    layers = max(layer for _, layer in places) + 1
    found = {place: _shown(error) for place, error in zip(places, content.errors, strict=True)}
    # What is exact has no place on a logarithmic scale.
    found = {place: value for place, value in found.items() if 0 < value < np.inf}
    kinds = list(dict.fromkeys(kind for kind, _ in found)) or ["all tensors are exact"]
    values = np.full((len(kinds), layers + 1), np.nan)
    for (kind, layer), value in found.items():
        values[kinds.index(kind), layer + 1] = value

    figure = Figure(
        figsize=(
            max(6.0, 2.5 + (0.6 if layers <= MOST_LABELLED_LAYERS else 0.22) * layers),
            1.2 + 0.28 * len(kinds),
        ),
        layout="constrained",
    )
    axes = figure.add_subplot()
    low, high = min(found.values(), default=1e-3), max(found.values(), default=1.0)
    norm = LogNorm(low / 1.1, high * 1.1)
    image = axes.imshow(np.ma.masked_invalid(values), aspect="auto", cmap="viridis_r", norm=norm)
    axes.set_yticks(range(len(kinds)), kinds)
    step = max(1, layers // 16)
    axes.set_xticks([0, *range(1, layers + 1, step)], ["—", *(str(i) for i in range(0, layers, step))])
    axes.set_xlabel("layer (—: outside the layers)")
    figure.colorbar(image, ax=axes, label="relative error")
    if layers <= MOST_LABELLED_LAYERS:
        for (kind, layer), value in found.items():
            color = "white" if norm(value) > 0.5 else "black"
            at = (layer + 1, kinds.index(kind))
            axes.text(*at, f"{value:.3g}", ha="center", va="center", color=color, fontsize="small")
    return figure


def _shown(error: TensorError) -> float:
    return error.error if error.weighted is None else error.weighted


def _draw_sizes(content: ReportContent) -> Figure:
    from matplotlib.figure import Figure

    sizes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for tensor in content.tensors:
        sizes[tensor.type][_place(tensor.name)[0]] += tensor.nbytes
    kinds = list(dict.fromkeys(_place(tensor.name)[0] for tensor in content.tensors))
    figure = Figure(figsize=(8, 1.0 + 0.28 * len(kinds)), layout="constrained")
    axes = figure.add_subplot()
    left: Any = np.zeros(len(kinds))
    unit, unit_name = (1e9, "GB") if sum(tensor.nbytes for tensor in content.tensors) > 1e9 else (1e6, "MB")
    for type_name, by_kind in sorted(sizes.items(), key=lambda item: -sum(item[1].values())):
        widths = np.array([by_kind.get(kind, 0) for kind in kinds]) / unit
        axes.barh(range(len(kinds)), widths, left=left, label=type_name)
        left = left + widths
    axes.set_yticks(range(len(kinds)), kinds)
    axes.invert_yaxis()
    axes.set_xlabel(unit_name)
    axes.legend(fontsize="small")
    return figure
