"""The C++ extension. Private: use the names in `pygrok`."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

__version__: str

def compiled_isas() -> list[str]: ...
def supported_isas() -> list[str]: ...
def available_cpus() -> int: ...
def tensor_types() -> dict[str, tuple[int, int, int]]:
    """Name -> (GGUF number, values per block, bytes per block) of every type the format defines."""

def runnable_types() -> list[str]:
    """Names of the weight types that the engine can multiply with."""

@final
class TensorInfo:
    name: str
    type: str
    shape: tuple[int, ...]  # numpy order: slowest first
    bytes: int
    shard: int
    offset: int

@final
class GgufFile:
    """A GGUF file or split set, mapped read-only. Raises FormatError, OSError."""

    def __init__(self, path: str) -> None: ...
    @property
    def paths(self) -> list[str]: ...
    @property
    def version(self) -> int: ...
    @property
    def file_bytes(self) -> int: ...
    @property
    def tensors(self) -> list[TensorInfo]: ...
    def keys(self) -> list[str]: ...
    def get(self, key: str, default: Any = None) -> Any:
        """A scalar, a str, a numpy array for numeric arrays, a list of bytes for arrays of strings."""
    def data(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes as a read-only view of the mapping.

        Raises KeyError, FormatError if the file could already not be read. What cannot be read turns to zeros:
        `check` after use.
        """
    def check(self) -> None:
        """Raises FormatError (one line) if some of what was read since the file was opened could not be read."""

@final
class MappedFile:
    """A file mapped read-only, which may be cut short or fail while mapped. Raises FormatError, OSError."""

    def __init__(self, path: str | PathLike[str]) -> None: ...
    def __len__(self) -> int: ...
    @property
    def data(self) -> NDArray[np.uint8]:
        """All bytes, a read-only view. What cannot be read turns to zeros: `check` after use.

        Raises FormatError if the file could already not be read.
        """
    def prefetch(self, offset: int, length: int) -> None:
        """Starts reading a range from the disk."""
    def drop(self, offset: int, length: int) -> None:
        """Gives a range's pages back, except those that it shares with what lies beside it."""
    def check(self) -> None:
        """Raises FormatError (one line) if some of what was read since the file was opened could not be read."""

@final
class Config:
    layers: int
    embedding: int
    vocab: int
    context: int
    heads: int
    kv_heads: int
    head_size: int
    experts: int
    experts_used: int
    expert_width: int
    embedding_multiplier: float
    output_multiplier: float
    attention_multiplier: float
    attention_soft_cap: float
    rms_eps: float
    rope_base: float

@final
class Session:
    """Positions in a KV cache. Belongs to the engine that made it."""

    @property
    def position(self) -> int: ...
    @property
    def ids(self) -> NDArray[np.int32]: ...
    @property
    def kv_bytes(self) -> int: ...
    def rewind(self, position: int) -> None: ...
    def fork(self) -> Session: ...
    def save(self, path: str) -> None: ...
    def restore(self, path: str) -> None: ...
    def cancel(self) -> None: ...

@final
class InputSums:
    """Sums of squares of what enters each matrix of a model, in float64, whatever the threads and batches."""

    def __init__(self, config: Config, tied_output: bool) -> None:
        """tied_output: the embedding is the output matrix."""
    def entries(self) -> list[tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.int64]]]:
        """(names of the tensors that share the input, sums [matrices, columns], rows seen [matrices]), copies.

        A call that failed may have added some of its rows.
        """

_Callback: TypeAlias = Callable[[tuple[str, ...], int | None, NDArray[np.float32]], object]

@final
class Engine:
    def __init__(
        self,
        path: str,
        *,
        threads: int,
        context: int,
        kv_type: str,
        memory_limit: int,
        isa: str,
        activations: str,
        expert_io: str = "auto",
        lookahead: int = -1,
        route_slack: float = 0.0,
        pin_hot: Sequence[tuple[int, int]] = (),
        piece_bytes: int = 0,
    ) -> None:
        """0 and "" choose: all available threads, the file's context, no limit, the best isa, activations by type.

        expert_io, lookahead (-1: the default), route_slack: as for `pygrok.load`. pin_hot: (layer, expert) that are
        read now. piece_bytes: of a piece of an expert, at most, if not one tile is larger; for tests.
        """
    @property
    def config(self) -> Config: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def kv_type(self) -> str: ...
    @property
    def context(self) -> int: ...
    @property
    def memory_used(self) -> int:
        """Bytes of weights, KV caches and working buffers, as the memory limit counts them."""
    @property
    def kv_block_bytes(self) -> int:
        """Bytes of KV cache for 64 positions."""
    def new_session(self) -> Session: ...
    def feed(
        self,
        sessions: Sequence[Session],
        ids: Sequence[NDArray[np.int32]],
        logits: str,
        observer: InputSums | _Callback | None = None,
    ) -> list[NDArray[np.float32]]:
        """One ragged forward. logits: "none", "last" -> [vocab] each, "all" -> [len(ids), vocab] each.

        observer: sums, or a function that is called with (names, expert or None, rows [n, k]) of every input.
        """
    def score(self, session: Session, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """Feeds ids to the session; [T-1] log-probabilities of each id given those before it."""
    @property
    def tied_output(self) -> bool:
        """Whether the embedding is the output matrix too."""
    def replace_tensor(self, name: str, type: str, data: NDArray[np.uint8]) -> None:
        """Puts a copy of other bytes in a tensor's place. Raises ValueError, MemoryLimit."""
    def restore_tensor(self, name: str) -> None:
        """Goes back to the file's tensor. Raises ValueError if it was not replaced."""
    def paging(self) -> dict[str, Any]:
        """How experts come into memory, and counters since load or reset_paging.

        mode: "map" (all fits, or "map" was asked for), "map-streamed", "direct" or "buffered"; chosen_by: why.
        budget_bytes: the memory limit, 0 for none. resident_bytes: of the file, always in memory. pool_bytes: for
        experts. piece_bytes: of a slot of the pool. expert_bytes: of the largest expert. layers, experts, lookahead.
        tokens computed; routes, and of these routes_changed by route_slack.
        bytes_needed by routed experts, each once a layer and batch; bytes_hit: of these, kept from an earlier use.
        bytes_read, for whatever reason; bytes_predicted_read: of these ahead of need; bytes_wasted: of these, not
        needed the next time their layer came. predictions of experts, and of these predictions_right.
        wait_seconds: a thread waited for the disk, on average over the threads; read_seconds: a read was under way.
        In mode "map" bytes and seconds stay 0.
        """
    def reset_paging(self) -> None:
        """Sets the counters to 0."""
    def resident_experts(self) -> NDArray[np.float32]:
        """[layers, experts] share of each expert's bytes in memory; 1 in mode "map"."""
    def drop_experts(self) -> None:
        """Forgets all experts that were read."""
    def start_trace(self, probabilities: bool = False) -> None:
        """Records each token's routing from now on. Raises ModelError for more than 255 experts."""
    def take_trace(
        self,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8], NDArray[np.float32] | None]:
        """What was recorded since: session ordinals [n], positions [n], experts [n, layers, used], probabilities.

        Tokens of calls that succeeded, in the order of computation; experts by falling probability, 255 where the
        token went no further than the layer's keys and values. probabilities: [n, layers, experts] or None.
        Recording goes on. Raises ModelError if none was started.
        """
    def stop_trace(self) -> None:
        """Records no longer, and forgets what was not taken."""
    def cancel(self) -> None: ...
    def close(self) -> None: ...

@final
class StoreProbe:
    """For tests: the store of expert pieces over a file, `pieces` of `unit` bytes a group, from `offset` on."""

    def __init__(
        self,
        path: str,
        *,
        mode: str,
        layers: int,
        experts: int,
        pieces: int,
        unit: int,
        offset: int,
        capacity: int,
    ) -> None:
        """mode: "direct", "buffered" or "mapped". capacity: bytes, at least 4 slots."""
    def use(self, layer: int, experts: Sequence[int], order: Sequence[int], threads: int) -> bytes:
        """Plans the experts' pieces in this order, takes those at `order` in the plan; all bytes of the plan."""
    def predict(self, layer: int, experts: Sequence[int]) -> None: ...
    def pin(self, groups: Sequence[int]) -> None: ...
    def drop(self) -> None: ...
    def shrink(self, bytes: int) -> int: ...
    def grow(self, bytes: int) -> int: ...
    def counters(self) -> tuple[int, int, int, int, int]:
        """Bytes needed, hit, read, read on predictions, wasted."""
    @property
    def slot_bytes(self) -> int: ...
    @property
    def capacity(self) -> int: ...
    def resident(self) -> list[float]:
        """[layers * experts] shares."""

def read_bandwidth(path: str, offset: int, length: int, threads: int) -> float:
    """Bytes per second at which this many threads read a range of a mapped file."""

def dot_rate(threads: int, isa: str, seconds: float) -> float:
    """Multiply-adds x 2 per second that the instruction set's dot product reaches in registers: of int8, with
    avx512_amx of bfloat16 on tiles."""

def quantize_rows(
    type: str,
    rows: NDArray[np.float32],
    threads: int = 1,
    importance: NDArray[np.float32] | None = None,
    isa: str = "",
) -> NDArray[np.uint8]:
    """[rows, k] values -> [rows, bytes of a row]. threads 0 = all available.

    importance: [k] mean squared activation of each column, >= 0, at any scale; None: all columns alike. isa:
    baseline, avx2, avx512 or "" for the best; all give the same bytes.
    Raises ValueError when k does not divide into blocks and for an unknown isa, ModelError for a type that
    cannot be written, for NaN, infinity or values beyond the type's range, for an importance that is negative
    or not finite, and for a type that needs importance and has none.
    """

def compensate_block(
    type: str, x: NDArray[np.float32], factor: NDArray[np.float32], isa: str = ""
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """For tests: error-compensated rounding of one block of up to 16 rows, x [rows, block].

    factor [block, block]: U of inverse Hessian = U^T U. Returns the blocks' bytes and [rows, block] the errors
    (x_i - q_i) / U_ii, x_i with the feedback of the columns before it.
    """

def dequantize_rows(
    type: str, data: NDArray[np.uint8], columns: int, isa: str = ""
) -> NDArray[np.float32]: ...

@final
class Converter:
    """Turns one stored checkpoint tensor into rows of blocks, in C++ threads."""

    def __init__(self, threads: int) -> None:
        """threads 0 = all available."""
    @property
    def threads(self) -> int: ...
    def convert(
        self,
        weight: NDArray[Any],
        scales: NDArray[np.uint16] | None,
        transpose: bool,
        type: str,
        first_row: int,
        out: NDArray[np.uint8],
        importance: NDArray[np.float32] | None = None,
        source_type: str | None = None,
    ) -> None:
        """Rows [first_row, first_row + len(out)) of the result into out [rows, row_bytes].

        weight: [in, out] if transpose else [out, in]; int8, float32, float16 or uint16 (the bits of bfloat16), at
        any alignment. scales: the bits of bfloat16 [groups, out], in equal groups along `in`; only with transpose.
        With source_type, a GGUF type as "q8_0": weight is uint8 [rows, bytes of a row] of its blocks, never
        transposed; blocks that are of the wanted type already are copied.
        importance: as for quantize_rows, one value for each column of the result.
        The bytes do not depend on the number of threads. Raises as quantize_rows does.
        """

@final
class Calibration:
    """Parts of layers on arrays, second-order statistics and error-compensated rounding, on its own threads.

    A matrix is (type, uint8 [rows, bytes of a row]), rows as a GGUF file has them; x is float32 [n, columns]. Numbers
    are those of the engine with an f32 cache and activations="int24", the same for any number of threads. Calls take
    turns.
    Raises ValueError for shapes that do not belong together, ModelError for a type that the engine does not run.
    """

    def __init__(
        self,
        *,
        heads: int,
        kv_heads: int,
        head_size: int,
        attention_multiplier: float,
        attention_soft_cap: float,
        rms_eps: float,
        rope_base: float,
        threads: int = 0,
        isa: str = "",
    ) -> None:
        """threads 0 = all available. isa "" = PYGROK_ISA or the best."""
    @property
    def threads(self) -> int: ...
    def multiply(self, matrix: tuple[str, NDArray[np.uint8]], x: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, rows]."""
    def gate(
        self,
        gate: tuple[str, NDArray[np.uint8]],
        up: tuple[str, NDArray[np.uint8]],
        x: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """gelu(gate x) * (up x), [n, rows]."""
    def attend(
        self,
        q: tuple[str, NDArray[np.uint8]],
        k: tuple[str, NDArray[np.uint8]],
        v: tuple[str, NDArray[np.uint8]],
        x: NDArray[np.float32],
        lengths: Sequence[int],
    ) -> NDArray[np.float32]:
        """Causal attention within sequences of these lengths, [n, heads * head_size]; x is the normed input."""
    def norm(self, x: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
        """RMSNorm."""
    def add_gram(
        self,
        x: NDArray[np.float32],
        y: NDArray[np.float32],
        weights: NDArray[np.float32] | None,
        out: NDArray[np.float64],
    ) -> None:
        """out [columns of x, columns of y] += sum over rows t of weights[t] * outer(x[t], y[t])."""
    def compensate(
        self, type: str, x: NDArray[np.float32], factor: NDArray[np.float32], out: NDArray[np.uint8]
    ) -> None:
        """Rounds rows x [rows, k] to out [rows, bytes of a row] so that sum of (x - q) H (x - q)^T is small.

        factor: float32 [spans, span, span] with spans * span = k; U, upper triangular, of each diagonal block of H,
        whose inverse is U^T U. Raises ModelError for NaN, infinity and values beyond the type's range, and for f32, f16
        and bf16.
        """

class kernels:  # noqa: N801
    """Submodule: single kernels on numpy arrays, for tests and bench/kernels.py.

    `isa` "" means PYGROK_ISA or the best. Bad types, shapes and names raise ValueError; a kernel that writes
    outside its output or scratch, which guard values show, raises RuntimeError.
    """

    @staticmethod
    def select(isa: str = "") -> str:
        """Name of the table that this isa stands for."""
    @staticmethod
    def has_many(type: str, isa: str = "") -> bool:
        """Whether the table has another kernel for 16 or more tokens."""
    @staticmethod
    def matmul(
        type: str, weights: NDArray[np.uint8], x: NDArray[np.float32], isa: str = "", many: bool = False
    ) -> NDArray[np.float32]:
        """x [n, k] times weights [rows, row_bytes] -> [n, rows], x prepared as the table wants it.

        many: with the kernel for many tokens; ValueError without one and for n < 16 or k % 32 != 0.
        """
    @staticmethod
    def time_matmul(
        type: str,
        weights: NDArray[np.uint8],
        x: NDArray[np.float32],
        isa: str,
        threads: int,
        repeats: int,
        many: bool = False,
    ) -> float:
        """Seconds for `repeats` such matmuls, rows shared out over threads as the engine does it."""
    @staticmethod
    def time_attention(
        kv_type: str,
        heads: int,
        kv_heads: int,
        head_size: int,
        past: int,
        rows: int,
        layers: int,
        isa: str,
        threads: int,
        repeats: int,
    ) -> float:
        """Seconds for `repeats` times the attention of `rows` positions after `past` others, layers taking turns."""
    @staticmethod
    def prepare(format: str, x: NDArray[np.float32], isa: str = "") -> NDArray[np.uint8]:
        """Activation rows [n, bytes] as csrc/kernels/activations.h lays them out. format: f32, bf16, q8."""
    @staticmethod
    def attend(
        kv_type: str,
        q: NDArray[np.float32],
        k: NDArray[np.uint8],
        v: NDArray[np.uint8],
        visible: Sequence[int],
        cap: float,
        isa: str = "",
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """q [n_q, d] against k, v [positions <= 64] of kv_store's vectors: sums of p * v [n_q, d] and p [n_q]."""
    @staticmethod
    def kv_store(kv_type: str, x: NDArray[np.float32], isa: str = "") -> NDArray[np.uint8]: ...
    @staticmethod
    def kv_load(kv_type: str, data: NDArray[np.uint8], n: int, isa: str = "") -> NDArray[np.float32]: ...
    @staticmethod
    def rms_norm(
        x: NDArray[np.float32], scale: NDArray[np.float32], eps: float, isa: str = ""
    ) -> NDArray[np.float32]: ...
    @staticmethod
    def gelu_mul(
        gate: NDArray[np.float32], up: NDArray[np.float32], isa: str = ""
    ) -> NDArray[np.float32]: ...
    @staticmethod
    def axpy(
        weight: float, x: NDArray[np.float32], acc: NDArray[np.float32], isa: str = ""
    ) -> NDArray[np.float32]:
        """acc + weight * x."""
    @staticmethod
    def rope(
        x: NDArray[np.float32], cos: NDArray[np.float32], sin: NDArray[np.float32], isa: str = ""
    ) -> NDArray[np.float32]:
        """One head [2 * half] rotated by angles [half]."""
    @staticmethod
    def softmax(x: NDArray[np.float32], isa: str = "") -> NDArray[np.float32]: ...
    @staticmethod
    def log_sum_exp(x: NDArray[np.float32], isa: str = "") -> float: ...
