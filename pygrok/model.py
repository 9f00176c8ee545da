"""A loaded model: the file, the engine that computes on it, and its tokenizer."""

from __future__ import annotations

import importlib.resources
import math
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError
from pygrok.expert_profile import load_profile
from pygrok.footprint import footprint
from pygrok.generate import Completion, GenerationChunk, generate, stream
from pygrok.ids import TokenIds, check_ids
from pygrok.memory import default_memory_limit, parse_bytes
from pygrok.route_trace import Recorder
from pygrok.sampling import Sampler, SamplingParams
from pygrok.session import Session
from pygrok.tokenizer import Tokenizer

__all__ = ["InputObserver", "Model", "default_model_path", "load"]

InputObserver: TypeAlias = Callable[[tuple[str, ...], int | None, NDArray[np.float32]], object]
"""What `Model.observe` calls: names of the tensors that share an input, expert or None, rows [n, columns]."""

_KV_BLOCK_POSITIONS = 64  # that one block of the key/value cache holds


def default_model_path() -> Path:
    """The model that the package ships. Raises ModelError if this build has none."""
    path = Path(str(importlib.resources.files("pygrok") / "data" / "nano.gguf"))
    if not path.is_file():
        raise ModelError("this build of pygrok ships no model: give the path of a .gguf file")
    return path


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    context: int | None = None,
    kv_type: str = "f16",
    memory_limit: int | str | None = None,
    isa: str | None = None,
    activations: str | None = None,
    expert_io: str = "auto",
    lookahead: int | None = None,
    route_slack: float = 0.0,
    pin_hot: str | os.PathLike[str] | None = None,
) -> Model:
    """Open a model. A file that fits the memory limit is mapped, not read: opening takes no longer for a large one.

    Of a larger one, what every token needs is read now; experts come when they are routed (docs/paging.md).

    path: a .gguf file, the first of its splits, or None for the model in the package.
    threads: None uses all that this process may use and, by a short measurement, that add speed.
    context: positions a session may hold; None is the model's own limit.
    kv_type: type of the key/value cache: "f32", "f16", "bf16", or "q8_0", about half of f16, for heads that are a
        multiple of 32 (Grok-1's are 128).
    memory_limit: ceiling for weights, key/value caches and working buffers together, in bytes or as "64GiB". None is
        what the machine, or the control group of this process, leaves free, less a margin.
    isa: instruction set of the kernels; None is $PYGROK_ISA, else the best that this processor has.
    activations: precision in products with quantized weights, "int8", "int16" or "int24": one, two or three int8 per
        value. int8 is fastest in prefill, int24 as good as f32; decoding waits for memory and is as fast with each.
        With each of them a result is the same bits however a prompt is cut and whatever shares the batch. None is
        int24 for q8_0 weights, which hold the release exactly, else int8; on processors with AMX 16 rows or more
        take bfloat16 instead, which is several times as fast and more precise than int8 (for q8_0 three of them,
        as good as f32), but there the last digits depend on how rows are put together.

    expert_io: how experts come into memory. "auto": mapped if all fits the limit, else the faster of direct and
        buffered reads. "map" maps always, "direct" and "buffered" always read into memory of their own.
    lookahead: layers ahead whose experts are predicted and read early; 0 for none, None for the default.
    route_slack: above 0, an expert that is not in memory gives way to one that is, if that one's probability is at
        least (1 - route_slack) times its own; never the most probable. Changes results; 0 is off.
    pin_hot: a profile of experts that `pygrok experts --save-hot` wrote, read before the first token.

    Raises OSError, FormatError (damaged file), ModelError (not a model this engine runs), MemoryLimit (the limit is
    below what the model needs at least), ValueError (an option).
    """
    for name, value in (("threads", threads), ("context", context), ("lookahead", lookahead)):
        least = 0 if name == "lookahead" else 1
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} is {value!r}: it must be a whole number, {least} or above, or None")
    for name, text in (
        ("kv_type", kv_type),
        ("isa", isa),
        ("activations", activations),
        ("expert_io", expert_io),
    ):
        if not isinstance(text, str) and (text is not None or name in ("kv_type", "expert_io")):
            raise ValueError(f"{name} is {text!r}: it must be a name")
    if (
        isinstance(route_slack, bool)
        or not isinstance(route_slack, int | float)
        or not 0 <= route_slack < math.inf
    ):
        raise ValueError(f"route_slack is {route_slack!r}: it must be a number, 0 (off) or above")
    name = os.fspath(default_model_path() if path is None else path)
    engine = _core.Engine(
        name,
        threads=threads or 0,
        context=context or 0,
        kv_type=kv_type,
        memory_limit=default_memory_limit() if memory_limit is None else parse_bytes(memory_limit),
        isa=isa or "",
        activations=activations or "",
        expert_io=expert_io,
        lookahead=-1 if lookahead is None else lookahead,
        route_slack=route_slack,
        pin_hot=[] if pin_hot is None else load_profile(pin_hot),
    )
    return Model(engine, _core.GgufFile(name))


class Model:
    """A model ready to run. Safe to use from several threads; a context manager that closes it."""

    def __init__(self, engine: _core.Engine, file: _core.GgufFile) -> None:
        """For `load`."""
        self._engine: _core.Engine | None = engine
        self._file: _core.GgufFile | None = file
        self.path: str = file.paths[0]
        """The file (the first of its splits)."""
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None
        self._recorder: Recorder | None = None
        self.config = engine.config
        """Hyperparameters; `config.vocab` is the number of logits."""
        self.context: int = engine.context
        """Positions that a session may hold."""

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = (
            "closed" if self._engine is None else f"isa={self._engine.isa}, threads={self._engine.threads}"
        )
        return f"Model({self.path!r}, {state})"

    def close(self) -> None:
        """Let go of the file and the threads. May be called again; running calls raise Cancelled."""
        with self._lock:
            engine, self._engine = self._engine, None
            self._file = None
        if engine is not None:
            engine.close()

    @property
    def engine(self) -> _core.Engine:
        """The native engine. Raises ModelError once the model is closed."""
        engine = self._engine
        if engine is None:
            raise ModelError(f"{self.path}: the model is closed: load it again")
        return engine

    @property
    def file(self) -> _core.GgufFile:
        """The open file. Raises ModelError once the model is closed."""
        file = self._file
        if file is None:
            raise ModelError(f"{self.path}: the model is closed: load it again")
        return file

    @property
    def tokenizer(self) -> Tokenizer:
        """Built from the file on first use. Raises ModelError if the file holds none; ids still work then."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = Tokenizer.from_gguf(self.file)
            return self._tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Whether the file names a tokenizer."""
        kind = self.file.get("tokenizer.ggml.model")
        return kind is not None and not (isinstance(kind, str) and kind in ("none", "no_vocab"))

    def metadata(self, key: str, default: Any = None) -> Any:
        """A value of the file's metadata, such as "general.name"."""
        return self.file.get(key, default)

    def info(self) -> dict[str, Any]:
        """What the file holds and how it runs, for people and JSON. Sizes in bytes.

        bytes_per_token counts the weights one decoded token touches: routed experts only, each once.
        """
        engine, held = self.engine, footprint(self.file)
        return {
            "paths": held.paths,
            "name": held.name,
            "file_bytes": held.file_bytes,
            "hyperparameters": held.hyperparameters,
            "parameters": held.values,
            "active_parameters": held.active_values,
            "bytes_per_token": held.active_bytes,
            "types": {name: asdict(total) for name, total in held.types.items()},
            "tokenizer": held.tokenizer,
            "isa": engine.isa,
            "threads": engine.threads,
            "context": engine.context,
            "kv_type": engine.kv_type,
            "kv_bytes_per_position": engine.kv_block_bytes // 64,
            "memory_used": engine.memory_used,
            "paging": engine.paging(),
        }

    def session(self, path: str | os.PathLike[str] | None = None) -> Session:
        """A new session, empty or restored from a file that `Session.save` wrote."""
        session = Session(self, self.engine.new_session())
        if path is not None:
            session.restore(path)
        return session

    def feed_many(self, batch: Sequence[tuple[Session, TokenIds]]) -> list[NDArray[np.float32]]:
        """Append ids to several sessions in one forward pass; return the logits after each last id, [vocab].

        Raises ValueError (a session twice or of another model, no ids, an id outside the vocabulary),
        ContextOverflow, MemoryLimit, Cancelled; no session has changed then.
        """
        return self._feed(batch, "last")

    def _feed(
        self,
        batch: Sequence[tuple[Session, TokenIds]],
        logits: str,
        observer: _core.InputSums | InputObserver | None = None,
    ) -> list[NDArray[np.float32]]:
        engine = self.engine
        arrays = []
        for index, (session, ids) in enumerate(batch):
            name = "ids" if len(batch) == 1 else f"ids of session {index}"
            if session.model is not self:
                raise ValueError(f"session {index} belongs to another model")
            array = check_ids(ids, self.config.vocab, name=name)
            if not array.size:
                raise ValueError(f"{name} is empty: give at least one token")
            arrays.append(array)
        if len({id(session) for session, _ in batch}) != len(batch):
            raise ValueError("a session stands in the batch twice: join its ids")
        if not batch:
            return []
        result = engine.feed([session._core for session, _ in batch], arrays, logits, observer)
        self._record()
        return result

    def prefill(self, session: Session, ids: TokenIds) -> None:
        """Append ids to a session without computing logits. Raises as `Session.feed`."""
        self._feed([(session, ids)], "none")

    def logits(self, ids: TokenIds, session: Session | None = None) -> NDArray[np.float32]:
        """The logits after every id, float32 [T, vocab]: T x vocab x 4 bytes, so for short texts.

        The ids are appended to the session, if one is given.
        """
        return self._feed([(self.session() if session is None else session, ids)], "all")[0]

    def observe(
        self, batch: Sequence[tuple[Session, TokenIds]], observer: _core.InputSums | InputObserver
    ) -> None:
        """Append ids to sessions and report what enters every matrix product on the way.

        observer: what `input_sums` made, or a function that is called with (names, expert, rows) of every
            input, float32 [rows, columns]: names are the GGUF tensors that share it, such as
            ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"); expert is None except for the
            experts' tensors, whose rows are the tokens routed to that one. Texts longer than 512 tokens come in
            several calls. What the function raises ends the call, and no session has changed.

        The last layer and the output matrix report every token too. Raises as `feed_many`.
        """
        self._feed(batch, "none", observer)

    def input_sums(self) -> _core.InputSums:
        """Empty sums of squared inputs for `observe`; see `pygrok.quantize.imatrix.collect` for their use."""
        return _core.InputSums(self.config, self.engine.tied_output)

    def replace_tensor(self, name: str, type: str, data: NDArray[np.uint8]) -> None:
        """Compute with other bytes in the place of one of the file's tensors, which stays as it is.

        name: a tensor as `pygrok info` or `file.tensors` lists it; a tied token_embd.weight is embedding and output
            matrix at once.
        type: any type that the engine runs; "f32" for norms.
        data: uint8, [..., row_bytes], as `pygrok.quantize` packs rows of that type. Copied; counts towards
            `memory_limit`.

        Sessions that hold positions computed before raise ModelError when fed until they are rewound to 0, or
        until `restore_tensor` brings back the weights they were computed with, when no tensor was replaced then.

        Raises ValueError (no such tensor, wrong type or size), MemoryLimit.
        """
        data = np.asarray(data)
        if data.dtype != np.uint8:
            raise ValueError(f"{name}: data has dtype {data.dtype}: give the packed rows as uint8")
        self.engine.replace_tensor(name, type, np.ascontiguousarray(data))

    def restore_tensor(self, name: str) -> None:
        """Go back to the file's own tensor. Raises ValueError if it was not replaced."""
        self.engine.restore_tensor(name)

    def score(self, ids: TokenIds) -> NDArray[np.float32]:
        """Log-probabilities (natural) of ids[1:], each given those before it: float32 [T-1].

        Memory does not grow with T x vocab.

        Raises ValueError for fewer than 2 ids, ContextOverflow for more than the context holds.
        """
        array = check_ids(ids, self.config.vocab)
        if len(array) < 2:
            raise ValueError(f"ids has {len(array)} tokens: scoring needs at least 2")
        engine = self.engine
        result = engine.score(engine.new_session(), array)
        self._record()
        return result

    @contextmanager
    def trace(self, path: str | os.PathLike[str], *, probabilities: bool = False) -> Iterator[None]:
        """Write which experts every token is routed to into a file while the block runs; see `pygrok experts`.

        probabilities: of all experts, too: four bytes for each of them and layer, beside one for each that is used.

        The file appears when the block is left, also by an exception, with what was computed until then;
        `pygrok.route_trace.read_trace` reads it. Raises OSError, ModelError if a trace is being written already.
        """
        if self._recorder is not None:
            raise ModelError(f"{self.path}: a trace is being written already: end it first")
        recording = Recorder.recording(self.engine, self.file, path, probabilities=probabilities)
        with recording as self._recorder:
            try:
                yield
            finally:
                self._recorder = None

    def _record(self) -> None:
        recorder = self._recorder
        if recorder is not None:
            recorder.drain()

    def stream(
        self,
        prompt: str | TokenIds,
        sampling: SamplingParams | Sampler | None = None,
        *,
        max_tokens: int | None = 256,
        stop: str | Sequence[str] | None = None,
        session: Session | None = None,
        ignore_eos: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Generator[GenerationChunk, None, None]:
        """Continue a prompt, one chunk for each token; see `pygrok.generate.stream`."""
        return stream(
            self,
            prompt,
            sampling,
            max_tokens=max_tokens,
            stop=stop,
            session=session,
            ignore_eos=ignore_eos,
            progress=progress,
        )

    def generate(
        self,
        prompt: str | TokenIds,
        sampling: SamplingParams | Sampler | None = None,
        *,
        max_tokens: int | None = 256,
        stop: str | Sequence[str] | None = None,
        session: Session | None = None,
        ignore_eos: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Completion:
        """Continue a prompt and return the whole; see `pygrok.generate.stream` for the arguments."""
        return generate(
            self,
            prompt,
            sampling,
            max_tokens=max_tokens,
            stop=stop,
            session=session,
            ignore_eos=ignore_eos,
            progress=progress,
        )

    def cancel(self) -> None:
        """From any thread: calls that are computing raise Cancelled within a layer's time."""
        engine = self._engine
        if engine is not None:
            engine.cancel()
