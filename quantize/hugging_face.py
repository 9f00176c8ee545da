"""Grok-1 in Hugging Face folders: safetensors files, one or many, under any of the names they are known by.

Three spellings exist, and all of them store matrices [out, in]:

- xAI's own parameter tree: `transformer.decoder_layer.0.multi_head_attention.query`, `.moe.0.linear`, `.rms_norm`;
- hpcai-tech/grok-1, keyfan/grok-1-hf: `model.layers.0.attn.q_proj`, `.moe_block.experts.0.linear`, `.pre_attn_norm`;
- as Mixtral, of later tools: `model.layers.0.self_attn.q_proj`, `.block_sparse_moe.experts.0.w1`, `.pre_attn_norm`.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from pygrok.errors import FormatError
from pygrok.quantize.assembly import Assembly, Part, Place
from pygrok.quantize.safetensors import SafeTensor, parse_json, read_header, show
from pygrok.quantize.source import SourceModel, some
from pygrok.quantize.tensor_reader import StoredMatrix

__all__ = ["holds_safetensors", "open_safetensors"]

MAX_INDEX_BYTES = 8 << 20
_INDEX = ".safetensors.index.json"
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.safetensors")
_DTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}

_TOP = {
    "embedding": r"transformer\.in_out_embed\.weight|model\.embed_tokens\.weight",
    "output_norm": r"transformer\.rms_norm\.(?:scale|weight)|model\.norm\.(?:scale|weight)",
    "output": r"lm_head\.weight",
}
_ATTENTION = r"(?:multi_head_attention|attn|self_attn)\."
_EXPERT = r"(?:moe|moe_block\.experts|block_sparse_moe\.experts)\.(\d{1,5})\."
_LAYER = {
    "attention_norm": r"(?:rms_norm|pre_attn_norm)\.(?:scale|weight)",
    "attention_output_norm": r"(?:rms_norm_1|post_attn_norm)\.(?:scale|weight)",
    "expert_norm": r"(?:rms_norm_2|pre_moe_norm)\.(?:scale|weight)",
    "expert_output_norm": r"(?:rms_norm_3|post_moe_norm)\.(?:scale|weight)",
    "query": _ATTENTION + r"(?:query|q_proj)\.weight",
    "key": _ATTENTION + r"(?:key|k_proj)\.weight",
    "value": _ATTENTION + r"(?:value|v_proj)\.weight",
    "attention_output": _ATTENTION + r"(?:linear|o_proj)\.weight",
    "router": r"(?:router|moe_block\.gate|block_sparse_moe\.gate)\.weight",
    "expert_gate": _EXPERT + r"(?:linear|w1)\.weight",
    "expert_up": _EXPERT + r"(?:linear_v|w3)\.weight",
    "expert_down": _EXPERT + r"(?:linear_1|w2)\.weight",
}
_IN_LAYER = re.compile(r"(?:transformer\.decoder_layer|transformer\.layers|model\.layers)\.(\d{1,5})\.(.*)")
_TOP_NAMES = {role: re.compile(pattern) for role, pattern in _TOP.items()}
_LAYER_NAMES = {role: re.compile(pattern) for role, pattern in _LAYER.items()}
# Follows from rope_theta.
_IGNORED = re.compile(r".*\.rotary_emb\.inv_freq")


def _place_of(name: str) -> Place | None:
    """What a tensor's name says of its place, None for a name that is not Grok-1's."""
    for role, pattern in _TOP_NAMES.items():
        if pattern.fullmatch(name):
            return Place(role)
    inside = _IN_LAYER.fullmatch(name)
    if inside is None:
        return None
    for role, pattern in _LAYER_NAMES.items():
        match = pattern.fullmatch(inside[2])
        if match:
            return Place(role, int(inside[1]), int(match[1]) if match.groups() else None)
    return None


def holds_safetensors(directory: Path) -> bool:
    """Whether a folder has safetensors files or an index of some."""
    return any(directory.glob("*.safetensors")) or any(directory.glob(f"*{_INDEX}"))


def open_safetensors(path: Path) -> SourceModel:
    """A folder, a file (any shard stands for its set) or an index.

    Raises FormatError if a shard is missing or damaged, if shards and index disagree, or if the tensors do not make up
    one Grok-1 of f32, f16 or bf16; OSError.
    """
    index, files = _find(path)
    tensors: dict[str, tuple[Path, SafeTensor]] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in tensors:
                raise FormatError(
                    f"{file}: tensor {show(name)} is in {tensors[name][0].name} too; download both again"
                )
            tensors[name] = (file, tensor)
    if index is not None:
        _check_index(index, files, tensors)

    assembly = Assembly(path)
    for name, (file, tensor) in tensors.items():
        place = _place_of(name)
        if place is None:
            if not _IGNORED.fullmatch(name):
                assembly.problems.append(f"{show(name)} is not part of Grok-1")
        elif tensor.dtype not in _DTYPES:
            assembly.problems.append(f"{name} is {tensor.dtype}, expected {', '.join(_DTYPES)}")
        elif not tensor.shape or 0 in tensor.shape:
            assembly.problems.append(f"{name} has shape {tensor.shape}")
        elif place.role != "output" or not _same_as_embedding(file, tensor, tensors):
            assembly.add(place, Part(name, tensor.shape, (_matrix(file, tensor),)))
    dimensions, parts = assembly.finish()
    return SourceModel(
        kind="hugging-face",
        path=path,
        directory=files[0].parent,
        files=tuple(files),
        dimensions=dimensions,
        tensors=parts,
    )


def _find(path: Path) -> tuple[Path | None, list[Path]]:
    """The index, if there is one, and the files that hold the tensors."""
    if path.name.endswith(_INDEX):
        return path, _files_of_index(path)
    if path.is_dir():
        indices = sorted(path.glob(f"*{_INDEX}"))
        if len(indices) > 1:
            raise FormatError(f"{path}: several indices; give one of them: {some(i.name for i in indices)}")
        if indices:
            return indices[0], _files_of_index(indices[0])
        files = sorted(path.glob("*.safetensors"))
        shards = {(match[1], match[3]) for file in files if (match := _SHARD.fullmatch(file.name))}
        if len(files) > 1 and not (len(shards) == 1 and all(_SHARD.fullmatch(file.name) for file in files)):
            raise FormatError(
                f"{path}: several models; give the file of one: {some(file.name for file in files)}"
            )
        path = files[0]
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return None, [path]
    index = path.with_name(match[1] + _INDEX)
    if index.is_file():
        return index, _files_of_index(index)
    count = int(match[3])
    names = [f"{match[1]}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    return None, _existing(path.parent, names, path)


def _files_of_index(index: Path) -> list[Path]:
    names = sorted(set(_weight_map(index).values()))
    if not names:
        raise FormatError(f"{index}: weight_map is empty; download the file again")
    return _existing(index.parent, names, index)


def _weight_map(index: Path) -> dict[str, str]:
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise FormatError(f"{index}: larger than {MAX_INDEX_BYTES} bytes; download the file again")
    files = parse_json(index, index.read_bytes(), "index").get("weight_map")
    if not isinstance(files, dict):
        raise FormatError(f"{index}: no object weight_map; download the file again")
    for name, file in files.items():
        plain = isinstance(file, str) and file.endswith(".safetensors") and not set(file) & set("/\\\0")
        if not plain or not file.isprintable():
            raise FormatError(
                f"{index}: weight_map puts {show(name)} into {show(file)}, expected the name of a .safetensors file "
                "beside the index; do not trust this file"
            )
    return files


def _existing(directory: Path, names: list[str], source: Path) -> list[Path]:
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise FormatError(
            f"{source}: {len(missing)} of the {len(names)} files missing: {some(missing)}; "
            "download them to the same folder"
        )
    return [directory / name for name in names]


def _check_index(index: Path, files: list[Path], tensors: dict[str, tuple[Path, SafeTensor]]) -> None:
    """Index and shards must tell the same."""
    wanted = _weight_map(index)
    problems = []
    for name, file in wanted.items():
        if name not in tensors:
            problems.append(f"{show(name)} is missing from {file}")
        elif tensors[name][0].name != file:
            problems.append(f"{show(name)} is in {tensors[name][0].name}, not in {file}")
    problems += [
        f"{show(name)} of {tensors[name][0].name} is not listed" for name in tensors if name not in wanted
    ]
    if problems:
        raise FormatError(
            f"{index}: does not fit the {len(files)} files: {some(problems, '; ')}; download all again"
        )


def _matrix(file: Path, tensor: SafeTensor) -> StoredMatrix:
    rows = tensor.shape[-2] if len(tensor.shape) > 1 else 1
    return StoredMatrix(file, tensor.offset, _DTYPES[tensor.dtype], rows, tensor.shape[-1])


def _same_as_embedding(file: Path, tensor: SafeTensor, tensors: dict[str, tuple[Path, SafeTensor]]) -> bool:
    """Whether the output matrix repeats the embedding, as in Grok-1, where the two are tied: then it is left out."""
    for name, (other_file, other) in tensors.items():
        if not _TOP_NAMES["embedding"].fullmatch(name):
            continue
        if (other.dtype, other.shape) != (tensor.dtype, tensor.shape):
            return False
        with file.open("rb") as left, other_file.open("rb") as right:
            left.seek(tensor.offset)
            right.seek(other.offset)
            step = 1024 * mmap.PAGESIZE
            for done in range(0, tensor.nbytes, step):
                n = min(step, tensor.nbytes - done)
                if left.read(n) != right.read(n):
                    return False
        return True
    return False
