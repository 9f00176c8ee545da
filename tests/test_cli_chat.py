"""`pygrok chat`: over a pipe, on a pseudo-terminal, its slash commands and its input rules."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_helpers import outcome

import pygrok
from pygrok.cli.chat import Talk
from pygrok.cli.chat_input import LineReader, is_complete, state_dir, turns, unwrap
from pygrok.cli.ui import harmless

GREEDY = ["--temperature", "0", "-n", "8"]
PROMPT = r"(?m)^>"
ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>])")


def piped(model: Path, text: str, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pygrok", "chat", str(model), *options],
        input=text, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False,
    )  # fmt: skip


def replies(model: Path, *messages: str) -> list[str]:
    with pygrok.load(model) as loaded:
        chat = pygrok.Chat(loaded, sampling=pygrok.SamplingParams(temperature=0), max_tokens=8)
        return ["".join(chunk.text for chunk in chat.send(message)) for message in messages]


def lines(texts: list[str]) -> str:
    return "".join(text + "\n" for text in texts if text)


# over a pipe


def test_each_line_is_a_turn_and_only_replies_are_printed(tiny_model: Path, tmp_path: Path) -> None:
    done = piped(tiny_model, "Hello\n\nHow are you?", tmp_path, *GREEDY)
    assert done.returncode == 0
    assert done.stdout == lines(replies(tiny_model, "Hello", "How are you?"))
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert "base model" in done.stderr


def test_several_lines_can_be_one_turn(tiny_model: Path, tmp_path: Path) -> None:
    expected = lines(replies(tiny_model, "one\ntwo", "three\n\nfour", "/five"))
    done = piped(tiny_model, 'one\\\ntwo\n"""three\n\nfour"""\n//five\n', tmp_path, *GREEDY)
    assert (done.returncode, done.stdout) == (0, expected)


def test_commands_over_a_pipe(tiny_model: Path, tmp_path: Path) -> None:
    script = (
        "Hello\n/save chat.json\n/reset\nHello\n/load chat.json\n/retry\n"
        "/system Be kind.\n/system\n/params max_tokens 3 top_k 4\n/stats\n/help\n/quit\nnever answered\n"
    )
    done = piped(tiny_model, script, tmp_path, *GREEDY)
    assert done.returncode == 0, done.stderr
    first = replies(tiny_model, "Hello")
    assert done.stdout == lines(first * 3)
    assert [turn["user"] for turn in json.loads((tmp_path / "chat.json").read_text())["turns"]] == ["Hello"]
    for part in ("Loaded 1 turns", "Be kind.", "top_k               4", "replies  ", "/retry", "Ctrl-C"):
        assert part in done.stderr, part


@pytest.mark.parametrize(
    ("line", "code", "part"),
    [
        ("/frobnicate", 2, "/frobnicate"),
        ("/params warmth 3", 2, "warmth"),
        ("/params top_p 7", 2, "top_p"),
        ("/params top_k", 2, "pairs"),
        ("/params top_k many", 2, "many"),
        ("/params max_tokens 0", 2, "max_tokens"),
        ("/save", 2, "file name"),
        ("/load nowhere.json", 1, "nowhere.json"),
        ("/retry", 1, "no turn"),
    ],
)
def test_an_error_ends_a_piped_chat(
    tiny_model: Path, tmp_path: Path, line: str, code: int, part: str
) -> None:
    done = piped(tiny_model, line + "\nHello\n", tmp_path, *GREEDY)
    assert (done.returncode, done.stdout) == (code, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("pygrok: error: ")
    assert part in last


def test_a_template_file_lays_out_the_turns(tiny_model: Path, tmp_path: Path) -> None:
    template = tmp_path / "layout.jinja"
    source = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}<assistant>"
    template.write_text(source)
    with pygrok.load(tiny_model) as loaded:
        sampling = pygrok.SamplingParams(temperature=0)
        chat = pygrok.Chat(loaded, system="Be kind.", template=source, sampling=sampling, max_tokens=8)
        expected = "".join(chunk.text for chunk in chat.send("Hello"))
    options = ["--template", str(template), "--system", "Be kind."]
    done = piped(tiny_model, "Hello\n", tmp_path, *GREEDY, *options)
    assert (done.returncode, done.stdout) == (0, lines([expected]))
    done = piped(tiny_model, "Hello\n", tmp_path, "--template", "nowhere.jinja")
    assert done.returncode == 1
    assert "nowhere.jinja" in done.stderr.splitlines()[-1]


def test_input_that_is_no_utf8_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pygrok", "chat", str(tiny_model)],
        input=b"caf\xe9\n", capture_output=True, cwd=tmp_path, timeout=120, check=False,
        env={**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert done.returncode == 1
    assert b"standard input is not UTF-8" in done.stderr


# on a terminal


class Terminal:
    """A chat on a pseudo-terminal."""

    def __init__(self, arguments: list[str], home: Path) -> None:
        environment = {
            **os.environ,
            "XDG_STATE_HOME": str(home),
            "TERM": "xterm",
        }
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pygrok", "chat", *arguments],
            stdin=slave, stdout=slave, stderr=slave, cwd=home, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self._master = master
        self.seen = ""

    def read_until(self, pattern: str, seconds: float = 60) -> str:
        """Text without escape codes, up to and with the first match after what was returned before."""
        end = time.monotonic() + seconds
        while True:
            plain = ESCAPE.sub("", self.seen)
            found = re.search(pattern, plain)
            if found:
                self.seen = plain[found.end() :]
                return plain[: found.end()]
            ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"no {pattern!r} in {plain!r}"
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the other side is gone
                data = b""
            assert data, f"the chat ended before {pattern!r}: {plain!r}"
            if b"\x1b[6n" in data:  # where is the cursor?
                self.type("\x1b[1;1R")
            self.seen += data.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait(self) -> int:
        return self._process.wait(60)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tiny_model: Path, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal([str(tiny_model), *GREEDY], tmp_path)
    yield terminal
    terminal.close()


def test_a_conversation_on_a_terminal(terminal: Terminal, tiny_model: Path, tmp_path: Path) -> None:
    terminal.read_until("base model")
    terminal.read_until(PROMPT)
    terminal.type("Hello\r")
    answer = terminal.read_until(r"\[\d+ prompt tokens at [^\]]*tokens/s\]")
    assert harmless(replies(tiny_model, "Hello")[0]) in answer.replace("\r", "")
    terminal.read_until(PROMPT)
    terminal.type("/frobnicate\r")
    terminal.read_until("error: no command '/frobnicate'")  # and goes on
    terminal.read_until(PROMPT)
    terminal.type("\x04")
    assert terminal.wait() == 0
    history = tmp_path / "pygrok" / "chat_history"
    assert "+Hello\n" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_enter_with_a_backslash_or_alt_adds_a_line(terminal: Terminal, tmp_path: Path) -> None:
    terminal.read_until(PROMPT)
    terminal.type("one\\\rtwo\x1b\rthree\r")
    terminal.read_until("tokens/s")
    terminal.read_until(PROMPT)
    terminal.type("/save chat.json\r")
    terminal.read_until("Saved")
    turn = json.loads((tmp_path / "chat.json").read_text())["turns"][0]
    assert turn["user"] == "one\ntwo\nthree"


def test_ctrl_c_clears_the_line_then_leaves(terminal: Terminal) -> None:
    terminal.read_until(PROMPT)
    terminal.type("half a thought")
    terminal.read_until("thought")
    terminal.type("\x03")
    terminal.type("/stats\r")  # alone on the line now: a command
    assert "replies" in terminal.read_until("memory")
    terminal.read_until(PROMPT)
    terminal.type("\x03")
    assert terminal.wait() == 130


def test_ctrl_c_stops_the_reply_and_keeps_what_has_come(
    tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pygrok.load(tiny_model) as loaded:
        # One token for ever: a reply that no end token and no stop string cuts short.
        forced = {loaded.tokenizer.encode("7")[-1]: 1000.0}
        chat = pygrok.Chat(
            loaded, sampling=pygrok.SamplingParams(temperature=0, logit_bias=forced), max_tokens=9
        )
        talk = Talk(chat, editing=True)

        def interrupted():
            for count, chunk in enumerate(chat.send("Hello")):
                yield chunk
                if count == 3:
                    os.kill(os.getpid(), signal.SIGINT)

        talk.show(interrupted())
        out = capfd.readouterr().out
        assert "[stopped; " in out
        assert out.startswith("7777\n")
        assert chat.turns[0].assistant == "7777"
        talk.show(chat.send("Go on"))  # and the chat goes on
        assert [turn.assistant for turn in chat.turns] == ["7777", "7" * 9]


def test_dropped_turns_are_told(tiny_model: Path, tmp_path: Path) -> None:
    with pygrok.load(tiny_model) as loaded:
        preamble = pygrok.Chat(loaded, system="")
        list(preamble.send("Hello", max_tokens=1))
        context = preamble.position + 60
    script = "".join(f"Message number {n} of many.\n" for n in range(6))
    done = piped(tiny_model, script, tmp_path, *GREEDY, "--system", "", "--context", str(context))
    assert done.returncode == 0, done.stderr
    assert "note: the oldest" in done.stderr


# input rules


@pytest.mark.parametrize(
    ("text", "complete", "turn"),
    [
        ("plain", True, "plain"),
        ("more\\", False, "more"),
        ("a\\\nb", True, "a\nb"),
        ('"""', False, ""),
        ('"""a', False, "a"),
        ('"""\na\\\nb\n"""', True, "a\\\nb"),
        ('""""""', True, ""),
        ('say """hi"""', True, 'say """hi"""'),
    ],
)
def test_when_a_turn_is_complete(text: str, complete: bool, turn: str) -> None:
    assert (is_complete(text), unwrap(text)) == (complete, turn)


def test_lines_become_turns() -> None:
    stream = io.StringIO('one\n  \ntwo\\\nthree\n"""\nfour\n\nfive\n"""\nsix\\')
    assert list(turns(LineReader(stream))) == ["one", "two\nthree", "four\n\nfive", "six"]


def test_history_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_dir() == tmp_path / "state" / "pygrok"
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", unset)
        assert state_dir() == tmp_path / ".local" / "state" / "pygrok"


@pytest.mark.parametrize("option", [["--temperature", "-1"], ["--max-tokens", "0"], ["--stop", ""]])
def test_options_are_checked(tiny_model: Path, option: list[str]) -> None:
    code, out, err = outcome("chat", tiny_model, *option)
    assert (code, out, err.count("\n")) == (2, "", 1)
