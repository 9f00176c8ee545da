"""`convert`: from any source to GGUF: what is to be written, then a slice at a time, then whether it is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.quantize import report as html_report
from pygrok.quantize.calibration import Calibrator
from pygrok.quantize.calibration_text import TOKENS, calibration_ids
from pygrok.quantize.compensated import write_calibrated
from pygrok.quantize.encode import TensorEncoder
from pygrok.quantize.fingerprint import digest_of_ids, digest_of_measuring, fingerprint_of
from pygrok.quantize.fit import Fit
from pygrok.quantize.hyperparameters import Hyperparameters
from pygrok.quantize.imatrix import ImportanceMatrix
from pygrok.quantize.layout import Layout, make_layout
from pygrok.quantize.metadata import add_metadata
from pygrok.quantize.output_paths import check_destination, check_distinct, check_plan_destination
from pygrok.quantize.plan import Plan, TypeRules
from pygrok.quantize.plan_file import load_plan_file, save_plan_file
from pygrok.quantize.planning import (
    FitOptions,
    check_requantizing,
    choose_types,
    file_type,
    forget_measured,
    measured_path,
    unweighted,
)
from pygrok.quantize.source import SourceModel, open_source
from pygrok.quantize.verify import TensorError, VerificationError, measure_errors
from pygrok.quantize.writer import OutputFiles

__all__ = ["ConversionReport", "convert"]

_NO_TOKENIZER = "no tokenizer goes into the file, which will take and give token ids only"


@dataclass(frozen=True)
class ConversionReport:
    """What was written, or with `dry_run` would be.

    paths: the files, several with `split`. file_bytes: all of them, headers included. resumed_bytes: of the source,
    done by the process that was gone on from. seconds: of this process, without verify_seconds. errors: of every
    tensor in order, with `verify` or `report`. fit: how the types were chosen, if by size.
    """

    paths: tuple[Path, ...]
    plan: Plan
    fit: Fit | None
    source_bytes: int
    resumed_bytes: int
    file_bytes: int
    seconds: float
    verify_seconds: float
    errors: tuple[TensorError, ...] | None
    notices: tuple[str, ...]
    dry_run: bool

    @property
    def path(self) -> Path:
        """The file to load: the only one, or the first of a set."""
        return self.paths[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors written."""
        return self.plan.nbytes

    @property
    def bits_per_weight(self) -> float:
        """Bits of all tensors over their values."""
        return self.plan.bits_per_weight


def convert(
    src: str | Path,
    dst: str | Path,
    type: str = "q4_0",
    *,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    no_tokenizer: bool = False,
    embedding_type: str | None = None,
    tensor_types: Sequence[tuple[str, str]] = (),
    plan_file: str | Path | None = None,
    save_plan: str | Path | None = None,
    imatrix: str | Path | None = None,
    calibrate: Sequence[str | Path] = (),
    calibrate_tokens: int = TOKENS,
    fit: int | None = None,
    fit_text: str | Path | None = None,
    sensitivities: str | Path | None = None,
    split: int | None = None,
    resume: bool = False,
    verify: bool = False,
    report: str | Path | None = None,
    allow_requantize: bool = False,
    threads: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
    notify: Callable[[str], None] | None = None,
    preparing: Callable[[str, int, int], None] | None = None,
    command: str = "",
) -> ConversionReport:
    """Converts a Grok model to a GGUF file, or a set of them, that pygrok and llama.cpp load.

    src: xAI's `ckpt-0` or its parent, a Hugging Face folder, safetensors file or index, or a GGUF file.
    dst: the file to write.

    type: a tensor type or the name of a mix; norms and router stay f32. embedding_type: type of the embedding, which
    is the output matrix too. tensor_types: (regular expression, type), for tensors whose GGUF name it is found in; the
    last that matches counts. plan_file: types by name; save_plan: write such a file, also in a dry run. `TypeRules` has
    the details.
    imatrix: importance matrix, of llama.cpp's or `pygrok imatrix`: columns that are driven harder are rounded better;
    types of few bits need it.
    calibrate: text files; each matrix is rounded so that its errors cancel in its outputs on them
    (`Calibrator` says how). calibrate_tokens: how many of their tokens, spread evenly.
    fit: bytes that all files may have; the types that lose least are chosen, `type` has no say. fit_text: text that a
    GGUF source's sensitivities are measured on, else they are estimated; sensitivities: JSON file that is read, or
    written once they are measured.

    config: JSON file with the model's hyperparameters; default: what a GGUF source says, else Grok-1's own values if
    the shapes are Grok-1's, else config.json beside the checkpoint. tokenizer: a SentencePiece model; default: a GGUF
    source's own, else tokenizer.model beside or above the checkpoint. With none, or no_tokenizer, the file takes and
    gives token ids only, and a notice says so.

    split: write parts NAME-00001-of-0000N.gguf of at most this many bytes each; dst is then NAME.gguf, and stays the
    name if one part is enough. resume: go on with what a stopped conversion of the same source with the same options
    left behind, measured sensitivities included; and leave what is finished when this one fails. verify: read the
    result back, compare it with the source, put it in place only if nothing is wrong (`pygrok.quantize.verify` says
    what is). report: HTML file about errors, sizes and plan (verifies too; needs matplotlib); command: what it shows
    as the command line. allow_requantize: quantize again what a GGUF source holds in a type below q8_0.

    threads: default: all available. force: overwrite dst and report. dry_run: check and plan, write nothing.
    progress: called with (bytes done, bytes in all) after every slice: those of the source, twice with verify.
    notify: called with each of the report's notices as it becomes known. preparing: called with what is being done
    before (a text), steps done and steps in all.

    Anonymous memory stays below 400 MB whatever the size of the model, but for calibrate (about 20 GB for Grok-1) and
    fit_text, which runs the source. dst appears complete or not at all.
    Raises ValueError for a wrong argument; FormatError for a damaged or unsuitable source, config or
    tokenizer; ModelError if values do not fit `type`, another process writes dst, or `resume` finds another
    conversion; VerificationError if the result is not right; FileExistsError if dst exists; OSError if the disk is full
    or a file cannot be read or written.
    """
    started = time.monotonic()
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}, expected 1 or more")
    if no_tokenizer and tokenizer is not None:
        raise ValueError("tokenizer and no_tokenizer exclude each other")
    if no_tokenizer and calibrate:
        raise ValueError(
            "calibrate and no_tokenizer exclude each other: a text is calibrated on as token ids"
        )
    for option, count in (("split", split), ("fit", fit), ("calibrate_tokens", calibrate_tokens)):
        if count is not None and count < 1:
            raise ValueError(f"{option} is {count}, expected 1 or more")
    if fit is None and (fit_text is not None or sensitivities is not None):
        raise ValueError("fit_text and sensitivities say something only about fit")
    notices: list[str] = []

    def tell(notice: str) -> None:
        notices.append(notice)
        if notify is not None:
            notify(notice)

    rules = TypeRules(
        type,
        embedding_type,
        tuple(tensor_types),
        None if plan_file is None else load_plan_file(plan_file),
    )
    destination = Path(dst)
    report_path, plan_path = _path(report), _path(save_plan)
    check_destination(destination, force=force, maybe_unfinished=resume or split is not None)
    if report_path is not None:
        html_report.check_report(report_path, force)
    if plan_path is not None:
        check_plan_destination(plan_path, force)
    source = open_source(src)
    written = {"": destination, "--report": report_path, "--save-plan": plan_path}
    check_distinct(
        written, [*source.files, *(Path(path) for path in (imatrix, *calibrate) if path is not None)]
    )
    model = source.hyperparameters(config)
    vocabulary = None if no_tokenizer else source.vocabulary(tokenizer)
    importance = None if imatrix is None else ImportanceMatrix.load(imatrix)
    ids = None
    if calibrate:
        if vocabulary is None:
            raise ValueError(
                f"{source.path}: no tokenizer, without which no text can be calibrated on; give --tokenizer"
            )
        ids = calibration_ids(source, vocabulary, [Path(text) for text in calibrate], calibrate_tokens)
    named = model.dimensions.embedding == 6144 and fit is None and plan_file is None
    name = f"Grok-1 {type}" if named else destination.stem

    def layout_of(plan: Plan) -> Layout:
        kind = file_type(plan, fit is not None)
        return make_layout(
            destination.name,
            plan.tensors,
            lambda writer: add_metadata(writer, model, vocabulary, kind, name, source.metadata),
            split,
        )

    text, sensitivities_file = _path(fit_text), _path(sensitivities)
    if resume and not dry_run and text is not None and sensitivities_file is None:
        digest = digest_of_measuring(source, text, _path(imatrix), ids is not None)
        sensitivities_file = measured_path(destination, digest)
    plan, fitted = choose_types(
        source,
        model,
        rules,
        importance,
        calibrated=ids is not None,
        fit=None if fit is None else FitOptions(fit, text, sensitivities_file),
        file_bytes=lambda candidate: layout_of(candidate).nbytes,
        threads=threads,
        preparing=preparing,
    )
    check_requantizing(source, plan, allow_requantize)
    layout = layout_of(plan)
    fingerprint = fingerprint_of(
        source, plan, layout, type=type, split=split, imatrix=_path(imatrix), calibration=digest_of_ids(ids)
    )
    output = OutputFiles(destination, layout, fingerprint, force=force, resume=resume, notify=tell)
    output.check_destination()
    if vocabulary is None and not no_tokenizer:
        tell(_NO_TOKENIZER)
    for notice in (*plan.notices, *unweighted(plan, importance)):
        tell(notice)
    if plan_path is not None:
        save_plan_file(plan_path, plan.types)

    now = time.monotonic()
    run = _Run(None, 0, now, now)
    if not dry_run:
        job = _Job(source, model, plan, output, importance, ids, threads or 0)
        run = _write(job, verify or report_path is not None, progress)
    result = ConversionReport(
        paths=output.paths,
        plan=plan,
        fit=fitted,
        source_bytes=source.source_bytes,
        resumed_bytes=run.skipped,
        file_bytes=layout.nbytes,
        seconds=run.written - started,
        verify_seconds=run.verified - run.written,
        errors=run.errors,
        notices=tuple(notices),
        dry_run=dry_run,
    )
    if run.errors is not None:
        if report_path is not None:
            html_report.write_report(report_path, html_report.content_of(result, source, command))
        if any(error.problem for error in run.errors):
            raise VerificationError(destination, run.errors)
    if not dry_run:
        forget_measured(destination)
    return result


@dataclass(frozen=True)
class _Run:
    """errors: None if not verified. skipped: bytes of the source. written, verified: when that was done."""

    errors: tuple[TensorError, ...] | None
    skipped: int
    written: float
    verified: float


@dataclass(frozen=True)
class _Job:
    """All that writing takes. ids: to calibrate on, None not to."""

    source: SourceModel
    model: Hyperparameters
    plan: Plan
    output: OutputFiles
    importance: ImportanceMatrix | None
    ids: list[NDArray[np.int32]] | None
    threads: int


def _write(job: _Job, verifies: bool, progress: Callable[[int, int], None] | None) -> _Run:
    """Everything but what is to be said about it: the files are in place if no error has a problem."""
    output, plan = job.output, job.plan
    advance = _Progress(progress, job.source.source_bytes * (2 if verifies else 1))
    converter = _core.Converter(job.threads)
    with output:
        with TensorEncoder(output, converter, job.importance, advance) as encoder:
            if job.ids is not None:
                calibrator = Calibrator(job.source, job.model, job.ids, threads=job.threads)
                write_calibrated(plan, output, encoder, calibrator, advance)
            else:
                for tensor in plan.tensors:
                    encoder.encode(tensor)
        output.seal()
        written = time.monotonic()
        if not verifies:
            output.place()
            return _Run(None, encoder.skipped, written, written)
        errors = measure_errors(
            output.partial_paths[0],
            plan.tensors,
            converter,
            job.importance,
            calibrated=job.ids is not None,
            advance=advance,
        )
        if any(error.problem for error in errors):
            output.discard()
        else:
            output.place()
        return _Run(tuple(errors), encoder.skipped, written, time.monotonic())


class _Progress:
    """Adds up the bytes that are done."""

    def __init__(self, callback: Callable[[int, int], None] | None, total: int) -> None:
        self._callback = callback
        self._total = total
        self._done = 0

    def __call__(self, nbytes: int) -> None:
        self._done += nbytes
        if self._callback is not None:
            self._callback(self._done, self._total)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
