"""llama.cpp's quantizer through llama-cpp-python, for the benchmarks that compare with it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# llama_ftype numbers of the files that are of one type throughout (`pure`), by our names of the types.
# IQ2_S itself goes by the name of the mix IQ2_M there.
PURE = {
    "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 12, "q4_k": 15, "q5_k": 17, "q6_k": 18,
    "iq2_xxs": 19, "iq2_xs": 20, "iq3_xxs": 23, "iq4_nl": 25, "iq3_s": 26, "iq2_s": 29, "iq4_xs": 30, "mxfp4": 38,
}  # fmt: skip
# Its mixes, by their names in lower case.
MIXES = {
    "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17,
    "q6_k": 18, "iq2_xxs": 19, "iq2_xs": 20, "q2_k_s": 21, "iq3_xs": 22, "iq3_xxs": 23, "iq4_nl": 25, "iq3_s": 26,
    "iq3_m": 27, "iq2_s": 28, "iq2_m": 29, "iq4_xs": 30,
}  # fmt: skip


@contextmanager
def silence() -> Iterator[None]:
    """Keeps what llama.cpp writes to standard output and error off the screen."""
    saved = [os.dup(fd) for fd in (1, 2)]
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for fd in (1, 2):
            os.dup2(null, fd)
        yield
    finally:
        for fd, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, fd)
            os.close(copy)
        os.close(null)


def importance_array(importance: Mapping[str, Floats]) -> ctypes.Array[llama_cpp.llama_model_imatrix_data]:
    """As llama_model_quantize wants it: {tensor name: mean squares, experts one after another}."""
    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries


def quantize(
    source: Path,
    destination: Path,
    ftype: int,
    *,
    pure: bool,
    embedding_type: str | None = None,
    importance: Mapping[str, Floats] | None = None,
    threads: int = 0,
) -> None:
    """Runs llama_model_quantize. Raises RuntimeError when it refuses."""
    import gguf

    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = threads
    parameters.ftype = ftype
    parameters.pure = pure
    if embedding_type is not None:
        parameters.token_embedding_type = int(gguf.GGMLQuantizationType[embedding_type.upper()])
    entries = None if importance is None else importance_array(importance)
    if entries is not None:
        parameters.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    with silence():
        status = llama_cpp.llama_model_quantize(
            str(source).encode(), str(destination).encode(), ctypes.byref(parameters)
        )
    if status != 0:
        raise RuntimeError(f"llama.cpp cannot make {destination.name} (ftype {ftype})")


def _ggml() -> ctypes.CDLL:
    folder = Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("libggml-base.so*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        *[ctypes.c_void_p] * 2,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return library


def quantize_rows(type: str, rows: Floats, importance: Floats | None, threads: int) -> NDArray[np.uint8]:
    """Rows [n, k] as ggml_quantize_chunk encodes them, shared out over threads; importance [k]."""
    import gguf

    library = _ggml()
    kind = gguf.GGMLQuantizationType[type.upper()]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n, k = rows.shape
    out = np.empty((n, k // block * block_bytes), np.uint8)
    pointer = None if importance is None else importance.ctypes.data
    library.ggml_quantize_init(int(kind))

    def part(i: int) -> None:
        first, last = n * i // threads, n * (i + 1) // threads
        library.ggml_quantize_chunk(
            int(kind), rows[first:last].ctypes.data, out[first:last].ctypes.data, 0, last - first, k, pointer
        )

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(part, range(threads)))
    return out
