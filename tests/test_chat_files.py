"""Saved chats: written whole or not at all, read without trust."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_engine import GREEDY, echo_chat, held_text, say

from pygrok import FormatError, PygrokError, SamplingParams
from pygrok.chat import Turn


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    chat, _ = echo_chat(system="Sys é.", stop=["END"], max_tokens=77)
    say(chat, "hello")
    chat.sampling = replace(GREEDY, seed=4, logit_bias={5: -1.5})
    chat.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["chat.json"]
    other, _ = echo_chat()
    say(other, "something else")
    other.load(path)
    assert (other.turns, other.system, other.stop, other.max_tokens) == (chat.turns, "Sys é.", ("END",), 77)
    assert other.sampling == chat.sampling
    assert say(other, "world") == "You said world."
    assert held_text(other).startswith("Sys é.\n\nUser: hello\nAssistant: You said hello.\nUser: world")


def test_save_leaves_the_old_file_on_an_error(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    chat, _ = echo_chat()
    chat.save(path)
    before = path.read_bytes()
    chat.system = "\ud800"
    with pytest.raises(UnicodeEncodeError):
        chat.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["chat.json"]


def good_document() -> dict[str, Any]:
    return {
        "format": "pygrok-chat",
        "version": 1,
        "system": "s",
        "template": None,
        "sampling": {"temperature": 0.5},
        "stop": [],
        "max_tokens": 9,
        "turns": [{"user": "u", "assistant": "a"}],
    }


def test_the_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(good_document()))
    chat, _ = echo_chat()
    chat.load(path)
    assert (chat.turns, chat.sampling) == ([Turn("u", "a")], SamplingParams(temperature=0.5))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"version": 2},
        {"system": None},
        {"system": "\ud800"},
        {"template": 5},
        {"sampling": {"temperature": -1}},
        {"sampling": {"heat": 1}},
        {"sampling": []},
        {"stop": [""]},
        {"stop": "x"},
        {"max_tokens": True},
        {"max_tokens": -1},
        {"turns": [{"user": "x"}]},
        {"turns": ["x"]},
        {"turns": None},
    ],
)
def test_bad_files_leave_the_chat(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**good_document(), **change}))
    check_refused(path, FormatError)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100000])
def test_files_that_are_no_chat(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    check_refused(path, FormatError)


def test_bad_template_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**good_document(), "template": "{% if %}"}))
    check_refused(path, PygrokError)


def check_refused(path: Path, error: type[Exception]) -> None:
    chat, _ = echo_chat()
    say(chat, "hello")
    before = (list(chat.turns), chat.system, chat.stop, chat.max_tokens, chat.sampling)
    with pytest.raises(error) as caught:
        chat.load(path)
    assert "\n" not in str(caught.value)
    assert (list(chat.turns), chat.system, chat.stop, chat.max_tokens, chat.sampling) == before
