"""Finds where a checkpoint pickle keeps its arrays, without unpickling it.

A pickle is a program for a stack machine. This module walks that program over the mapped file, follows only
the instructions that numpy arrays need, and notes where each array's bytes lie. Nothing that the file names
is imported or called.

Meaning of the opcodes: https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import FormatError
from pygrok.quantize import pickle_objects as objects
from pygrok.quantize.pickle_objects import FileBytes, RefusedError, StoredTensor

__all__ = ["read_tensor_file"]

# Far above what a tensor file needs (110 instructions, 40 memo entries, names of 21 letters), far below what
# could hurt.
MAX_INSTRUCTIONS = 10_000
MAX_STACK = 256
MAX_TEXT = 256

_MARK = object()
_NAMES = {ord(op.code): op.name for op in pickletools.opcodes}


def read_tensor_file(path: Path) -> StoredTensor:
    """The place, type and shape of the arrays in one tensor file, pickle protocols 2 to 5.

    Raises FormatError, naming the file and the byte, for anything but the expected content; OSError if it
    cannot be read.
    """
    if path.stat().st_size == 0:
        raise FormatError(f"{path}: the file is empty; copy it again")
    file = _core.MappedFile(path)
    machine = _Machine(file.data)
    try:
        tensor = objects.tensor_of(path, machine.run())
    except RefusedError as refused:
        file.check()
        raise FormatError(f"{path}: byte {machine.op_at}: {refused}") from None
    file.check()
    return tensor


class _Machine:
    """The stack machine. `at` is the next unread byte, `op_at` where the current instruction began."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data = data
        self.size = len(data)
        self.at = 0
        self.op_at = 0
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        """Carries out the program and returns the object it describes."""
        if self.data[:1].tobytes() != b"\x80":
            raise RefusedError("not a pickle of protocol 2 or later, so not a tensor file of xAI's")
        for _ in range(MAX_INSTRUCTIONS):
            self.op_at = self.at
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                value = self.pop()
                if self.stack:
                    raise RefusedError("values left over at the end")
                if self.at != self.size:
                    raise RefusedError(f"{self.size - self.at} bytes after the end of the pickle")
                return value
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise RefusedError(
                    f"instruction {_NAMES.get(code, hex(code))}, which no Grok-1 checkpoint uses"
                )
            instruction(self)
        raise RefusedError(f"more than {MAX_INSTRUCTIONS} instructions")

    # Reading, always within the file.

    def take(self, n: int) -> bytes:
        missing = n - (self.size - self.at)
        if missing > 0:
            raise RefusedError(f"the file ends at least {missing} bytes too early; copy it again")
        self.at += n
        return self.data[self.at - n : self.at].tobytes()

    def uint(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")

    def text(self, length: int) -> str:
        if length > MAX_TEXT:
            raise RefusedError(f"a text of {length} bytes, expected names of at most {MAX_TEXT}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise RefusedError("a text that is not UTF-8") from None

    def line(self) -> str:
        length = self.data[self.at : self.at + MAX_TEXT].tobytes().find(b"\n")
        if length < 0:
            raise RefusedError("a name without an end")
        text = self.text(length)
        self.at += 1
        return text

    def file_bytes(self, length: int) -> FileBytes:
        left = self.size - self.at
        if length > left:
            raise RefusedError(f"an array of {length} bytes where the file has {left} left; copy it again")
        self.at += length
        return FileBytes(self.at - length, length)

    # The stack and the memo.

    def push(self, value: object) -> None:
        if len(self.stack) >= MAX_STACK:
            raise RefusedError(f"more than {MAX_STACK} values at a time")
        self.stack.append(value)

    def pop(self) -> object:
        if not self.stack or self.stack[-1] is _MARK:
            raise RefusedError("an instruction without a value to work on")
        return self.stack.pop()

    def pop_many(self, n: int) -> tuple[object, ...]:
        return tuple(self.pop() for _ in range(n))[::-1]

    def pop_to_mark(self) -> tuple[object, ...]:
        values: list[object] = []
        while self.stack:
            value = self.stack.pop()
            if value is _MARK:
                return tuple(values[::-1])
            values.append(value)
        raise RefusedError("a list without a beginning")

    def remember(self, key: int) -> None:
        if key > MAX_INSTRUCTIONS:
            raise RefusedError(f"memo entry {key}, expected fewer than {MAX_INSTRUCTIONS}")
        value = self.pop()
        self.memo[key] = value
        self.push(value)

    def recall(self, key: int) -> None:
        if key not in self.memo:
            raise RefusedError(f"memo entry {key}, which was never set")
        self.push(self.memo[key])

    # Instructions that work on more than one value.

    def protocol(self) -> None:
        version = self.uint(1)
        if not 2 <= version <= 5:
            raise RefusedError(f"pickle protocol {version}, expected 2 to 5")

    def frame(self) -> None:
        length = self.uint(8)
        if length > self.size - self.at:
            raise RefusedError(
                f"a frame of {length} bytes where the file has {self.size - self.at} left; copy it again"
            )

    def set_items(self, items: tuple[object, ...]) -> None:
        target = self.pop()
        if not isinstance(target, dict) or len(items) % 2:
            raise RefusedError("items for something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise RefusedError("a dictionary key that is not text")
            target[key] = value
        self.push(target)

    def build(self) -> None:
        target, state = self.pop_many(2)
        objects.build(target, state)
        self.push(target)


_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    # constants
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): lambda m: m.push(m.uint(1)),
    ord("M"): lambda m: m.push(m.uint(2)),
    ord("J"): lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    0x8A: lambda m: m.push(int.from_bytes(m.take(m.uint(1)), "little", signed=True)),  # LONG1
    0x8C: lambda m: m.push(m.text(m.uint(1))),  # SHORT_BINUNICODE
    ord("X"): lambda m: m.push(m.text(m.uint(4))),  # BINUNICODE
    0x8D: lambda m: m.push(m.text(m.uint(8))),  # BINUNICODE8
    ord("C"): lambda m: m.push(m.file_bytes(m.uint(1))),  # SHORT_BINBYTES
    ord("B"): lambda m: m.push(m.file_bytes(m.uint(4))),  # BINBYTES
    0x8E: lambda m: m.push(m.file_bytes(m.uint(8))),  # BINBYTES8
    # tuples and dictionaries
    ord("("): lambda m: m.push(_MARK),
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.push(m.pop_many(1)),
    0x86: lambda m: m.push(m.pop_many(2)),
    0x87: lambda m: m.push(m.pop_many(3)),
    ord("t"): lambda m: m.push(m.pop_to_mark()),
    ord("}"): lambda m: m.push({}),
    ord("s"): lambda m: m.set_items(m.pop_many(2)),
    ord("u"): lambda m: m.set_items(m.pop_to_mark()),
    # memo
    0x94: lambda m: m.remember(len(m.memo)),
    ord("q"): lambda m: m.remember(m.uint(1)),
    ord("r"): lambda m: m.remember(m.uint(4)),
    ord("h"): lambda m: m.recall(m.uint(1)),
    ord("j"): lambda m: m.recall(m.uint(4)),
    # objects
    ord("c"): lambda m: m.push(objects.find_global(m.line(), m.line())),
    0x93: lambda m: m.push(objects.find_global(*m.pop_many(2))),  # STACK_GLOBAL
    ord("R"): lambda m: m.push(objects.call(*m.pop_many(2))),
    0x81: lambda m: m.push(objects.new_object(*m.pop_many(2))),
    ord("b"): _Machine.build,
}
