"""From the arguments of `convert` to the type of every tensor, and what is worth telling about it."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrok.errors import ModelError
from pygrok.files import read_text
from pygrok.quantize.fit import Fit, fit_plan, sensitivities_of
from pygrok.quantize.hyperparameters import Hyperparameters
from pygrok.quantize.imatrix import ImportanceMatrix
from pygrok.quantize.metadata import FILE_TYPES
from pygrok.quantize.plan import Importance, Plan, TypeRules, make_plan
from pygrok.quantize.source import SourceModel, some
from pygrok.quantize.tensor_types import FLOATS

__all__ = [
    "FitOptions",
    "check_requantizing",
    "choose_types",
    "file_type",
    "forget_measured",
    "measured_path",
    "unweighted",
]

_DIGITS = 12  # of a digest, in a file's name


@dataclass(frozen=True)
class FitOptions:
    """budget: bytes of all files. text: to measure sensitivities on. sensitivities: file that keeps them."""

    budget: int
    text: Path | None = None
    sensitivities: Path | None = None


class _EvenImportance:
    """For plans whose rounding is calibrated: it needs no importance matrix, though the types do otherwise."""

    def __init__(self, source: SourceModel) -> None:
        self._columns = {tensor.name: tensor.columns for tensor in source.tensors}

    def importance(self, tensor_name: str, expert: int | None) -> NDArray[np.float32] | None:
        """The same for all columns."""
        del expert
        return np.ones(self._columns[tensor_name], np.float32)


def choose_types(
    source: SourceModel,
    model: Hyperparameters,
    rules: TypeRules,
    importance: ImportanceMatrix | None,
    *,
    calibrated: bool,
    fit: FitOptions | None,
    file_bytes: Callable[[Plan], int],
    threads: int | None,
    preparing: Callable[[str, int, int], None] | None,
) -> tuple[Plan, Fit | None]:
    """By the rules, or by the fit. Raises as `make_plan`, `sensitivities_of` and `fit_plan` do."""
    known: Importance | None = importance
    if known is None and calibrated:
        known = _EvenImportance(source)
    if fit is None:
        return make_plan(source, rules, known), None
    text = None if fit.text is None else read_text(fit.text)
    sensitivities = sensitivities_of(
        source,
        model.embedding_multiplier,
        file=fit.sensitivities,
        text=text,
        importance=known,
        threads=threads,
        progress=preparing,
    )
    fitted = fit_plan(
        source,
        rules,
        fit.budget,
        sensitivities,
        file_bytes=file_bytes,
        importance=known,
        threads=threads,
        progress=preparing,
    )
    return fitted.plan, fitted


def measured_path(destination: Path, digest: str) -> Path:
    """Where --resume finds what an earlier process measured for `destination`, under the same circumstances."""
    return destination.with_name(f".{destination.name}.{digest[:_DIGITS]}.sensitivities")


def forget_measured(destination: Path) -> None:
    """Removes such files: the conversion is done."""
    digest = "[0-9a-f]" * _DIGITS
    for path in destination.parent.glob(f".{glob.escape(destination.name)}.{digest}.sensitivities"):
        path.unlink(missing_ok=True)


def check_requantizing(source: SourceModel, plan: Plan, allowed: bool) -> None:
    """To widen to floats or to copy is no second rounding. Raises ModelError for one that is not allowed."""
    again = [
        t for t in plan.tensors if t.source.quantized and t.type not in FLOATS and t.type != t.source.dtype
    ]
    if again and not allowed:
        raise ModelError(
            f"{source.path}: {len(again)} tensors are quantized already ({again[0].name} is {again[0].source.dtype}), "
            "and to round them again loses more: start from the checkpoint or a q8_0 or wider file, or allow it with "
            "--allow-requantize"
        )


def file_type(plan: Plan, fitted: bool) -> str:
    """What general.file_type tells: the mix, unless the plan departs from it; else the type of most bytes."""
    rules = plan.rules
    if rules.default in FILE_TYPES and not rules.overrides and rules.plan_file is None and not fitted:
        return rules.default
    sizes: Counter[str] = Counter()
    for tensor in plan.tensors:
        sizes[tensor.type] += tensor.nbytes
    return sizes.most_common(1)[0][0]


def unweighted(plan: Plan, importance: ImportanceMatrix | None) -> list[str]:
    """Tells which quantized tensors an importance matrix says nothing of."""
    if importance is None:
        return []
    names = [
        t.name
        for t in plan.tensors
        if t.type not in FLOATS and importance.importance(t.name, columns=t.shape[-1]) is None
    ]
    if not names:
        return []
    what = "tensor is" if len(names) == 1 else "tensors are"
    return [f"{len(names)} {what} not in the importance matrix, and rounded without: {some(names)}"]
