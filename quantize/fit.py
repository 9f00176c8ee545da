"""`--fit`: the type of every tensor, so that the file has at most a given size and the predicted loss is least."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pygrok import _core
from pygrok.errors import ModelError
from pygrok.model import Model, load
from pygrok.quantize.knapsack import Infeasible, Option, solve
from pygrok.quantize.layout import aligned
from pygrok.quantize.plan import Importance, Plan, TypeRules, fitting, plan_of
from pygrok.quantize.probing import measure
from pygrok.quantize.sensitivity import (
    Sensitivities,
    estimate,
    is_weight,
    load_sensitivities,
    save_sensitivities,
)
from pygrok.quantize.source import SourceModel, SourceTensor
from pygrok.quantize.tensor_types import NEED_IMPORTANCE, TYPES, row_bytes
from pygrok.quantize.type_errors import type_errors

__all__ = ["Fit", "fit_plan", "sensitivities_of"]

# Of the text that sensitivities are measured on: enough to rank tensors, few enough for one pass to stay short.
TEXT_TOKENS = 2048
# A measured 0 means that the text did not reach the tensor, not that it may hold anything: no less than this share of
# the median.
_FLOOR = 0.01
_MOST_ROUNDS = 20

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Fit:
    """predicted_kl: mean divergence of the predictions from the source's, in nats. errors: relative, by tensor name.

    file_bytes: of all files. gap: what a perfect choice might still gain of predicted_kl.
    """

    plan: Plan
    budget: int
    file_bytes: int
    predicted_kl: float
    gap: float
    errors: dict[str, float]
    sensitivities: Sensitivities


def sensitivities_of(
    source: SourceModel,
    embedding_multiplier: float,
    *,
    file: str | Path | None = None,
    text: str | None = None,
    importance: Importance | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sensitivities:
    """Read from `file` if it is there; else measured on the source, if it is GGUF and a text is given; else estimated.

    file: JSON; what is measured is saved there. text: of the kind that the model is used for; its first 2048 tokens are
    read. progress: called with ("measuring", passes over the text done, in all).

    Measuring runs the source, which needs the memory that running it needs. Raises FormatError for a damaged file or
    one of another model, ModelError for a text that is too short or a source that cannot run, OSError, also if there
    is neither the file nor a text to make it from.
    """
    if file is not None and Path(file).exists():
        return load_sensitivities(file, source)
    converter = _core.Converter(threads or 0)
    if text is None:
        if file is not None:
            raise FileNotFoundError(
                errno.ENOENT, "no such file; --fit-text measures and writes it", str(file)
            )
        return estimate(source, embedding_multiplier, converter)
    if source.kind != "gguf":
        raise ModelError(
            f"{source.path}: --fit-text runs the source, which only a GGUF file can: convert to q8_0 and fit from "
            "that, or leave --fit-text out for an estimate"
        )
    if file is not None and not Path(file).parent.is_dir():  # not after hours of measuring
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(Path(file).parent))
    # Weights alone are to differ, so nothing else is rounded coarsely.
    with load(source.files[0], threads=threads, kv_type="f32", activations="int24") as model:
        ids = _ids(model, text)

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress("measuring", done, total)

        measured = measure(model, source, ids, importance, converter, progress=tell)
    if file is not None:
        save_sensitivities(file, measured)
    return measured


def _ids(model: Model, text: str) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    start = text[: 16 * TEXT_TOKENS]  # no tokenizer makes fewer of it, and long texts take long
    ids = np.array(model.tokenizer.encode(start)[:TEXT_TOKENS], np.int32)
    if len(ids) < 2:
        raise ModelError("the text for the fit has no two tokens: give a text of some thousand")
    return ids


def fit_plan(
    source: SourceModel,
    rules: TypeRules,
    budget: int,
    sensitivities: Sensitivities,
    *,
    file_bytes: Callable[[Plan], int],
    importance: Importance | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Fit:
    """The plan of least predicted KL among those whose files have at most `budget` bytes.

    rules: what the command line and a plan file give a type stays; `rules.default` has no say. file_bytes: of all files
    that a plan makes, headers and padding included. importance: as for the conversion; without one, the types that need
    it are left out. progress: called with ("encoding samples", tensors done, in all).

    Raises ValueError if nothing is small enough; as `make_plan`.
    """
    fixed = _fixed(source, rules)
    converter = _core.Converter(threads or 0)
    open_tensors = [tensor for tensor in source.tensors if is_weight(tensor)]
    errors: dict[str, dict[str, float]] = {}
    for done, tensor in enumerate(open_tensors, 1):
        types = _candidates(tensor, fixed.get(tensor.name), importance)
        errors[tensor.name] = type_errors(tensor, types, importance, converter)
        if progress is not None:
            progress("encoding samples", done, len(open_tensors))
    weights = _weights(sensitivities, errors)
    sizes = {
        tensor.name: {name: _aligned_bytes(tensor, name) for name in errors[tensor.name]}
        for tensor in open_tensors
    }

    def plan_with(chosen: dict[str, str]) -> tuple[Plan, int]:
        plan = plan_of(
            source, rules, dict.fromkeys((t.name for t in source.tensors), "f32") | chosen, importance
        )
        return plan, file_bytes(plan)

    smallest = {name: min(kinds, key=lambda kind: kinds[kind]) for name, kinds in sizes.items()}
    least = plan_with(smallest)[1]
    # What headers, norms and padding take; parts have headers of their own, so that it is known for a plan only.
    beside = least - sum(sizes[name][kind] for name, kind in smallest.items())
    for _ in range(_MOST_ROUNDS):
        options = [
            [Option(size, weights[name] * errors[name][kind]) for kind, size in kinds.items()]
            for name, kinds in sizes.items()
        ]
        try:
            solution = solve(options, budget - beside)
        except Infeasible:
            break
        picks = zip(sizes.items(), solution.choices, strict=True)
        chosen = {name: list(kinds)[choice] for (name, kinds), choice in picks}
        plan, nbytes = plan_with(chosen)
        if nbytes <= budget:
            kept = {name: errors[name][kind] for name, kind in chosen.items()}
            predicted = sensitivities.predict(kept)
            return Fit(plan, budget, nbytes, predicted, solution.gap, kept, sensitivities)
        beside = nbytes - solution.size
    raise ValueError(_too_small(budget, least, importance))


def _fixed(source: SourceModel, rules: TypeRules) -> dict[str, str]:
    """Types that are not the fit's to choose."""
    names = [tensor.name for tensor in source.tensors]
    always_f32 = {tensor.name for tensor in source.tensors if not is_weight(tensor)}
    planned = {} if rules.plan_file is None else rules.plan_file.assign(names, always_f32)
    return planned | rules.overriding(source)


def _candidates(tensor: SourceTensor, fixed: str | None, importance: Importance | None) -> list[str]:
    """Types whose blocks the rows divide into and that can be written."""
    if fixed is not None:
        return [fitting(tensor, fixed)[0]]
    known = importance is not None and (
        importance.importance(tensor.name, 0 if len(tensor.matrices) > 1 else None) is not None
    )
    return [
        name for name in TYPES if fitting(tensor, name)[0] == name and (known or name not in NEED_IMPORTANCE)
    ]


def _weights(sensitivities: Sensitivities, errors: Mapping[str, object]) -> dict[str, float]:
    values = {name: sensitivities.values[name] for name in errors}
    floor = _FLOOR * float(np.median(list(values.values())))
    return {name: max(value, floor) for name, value in values.items()}


def _aligned_bytes(tensor: SourceTensor, type_name: str) -> int:
    return aligned(len(tensor.matrices) * tensor.rows * row_bytes(type_name, tensor.columns))


def _too_small(budget: int, least: int, importance: Importance | None) -> str:
    hint = "" if importance is not None else "; with an importance matrix (--imatrix) there are smaller types"
    return f"a file of {budget} bytes is too small for this model, which takes at least {least} bytes{hint}"
