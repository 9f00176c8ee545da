"""The commands other than chat: output, JSON, exit codes, one-line errors, signals and closed pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from cli_helpers import TEXT, assert_one_line, outcome, start

import pygrok
from pygrok.cli import ui

COMMANDS = ["chat", "generate", "info", "bench", "experts", "perplexity", "imatrix"]
GREEDY = ["--temperature", "0", "-n", "12"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str) -> None:
    code, out, err = outcome(command, "--help")
    assert (code, err) == (0, "")
    assert "--json" in out or command == "chat"
    assert "Example" in out
    assert "--debug" in out


def test_help_lists_the_commands_and_exit_codes() -> None:
    code, out, _ = outcome("--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)
    assert "Exit codes" in out


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pygrok.cli import main\n"
        "assert main(['generate', '--help']) == 0\n"
        "heavy = {'prompt_toolkit', 'gguf', 'pygrok.quantize'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_version() -> None:
    assert outcome("--version") == (0, f"pygrok {pygrok.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["frobnicate"], "frobnicate"),
        (["generate", "--frobnicate"], "--frobnicate"),
        (["generate"], "-p TEXT"),
        (["generate", "-p", "a", "-f", "b"], "-p TEXT"),
        (["generate", "-p", "a", "-n", "many"], "--max-tokens"),
        (["generate", "-p", "a", "--temperature", "-1"], "temperature"),
        (["generate", "-p", "a", "--top-p", "1.5"], "top_p"),
        (["generate", "-p", "a", "--threads", "0"], "--threads"),
        (["perplexity"], "FILE"),
    ],
)
def test_wrong_use_is_one_line_and_2(arguments: list[str], part: str) -> None:
    code, out, err = outcome(*arguments)
    assert (code, out) == (2, "")
    assert_one_line(err, part)


@pytest.mark.parametrize(
    ("option", "value", "part"),
    [("--isa", "vax", "scalar"), ("--kv-type", "q1", "bf16"), ("--memory", "lots", "lots")],
)
def test_model_options_are_checked(tiny_model: Path, option: str, value: str, part: str) -> None:
    code, _, err = outcome("generate", tiny_model, "-p", "a", option, value)
    assert code == 2
    assert_one_line(err, part)


def test_no_command_shows_help_and_2() -> None:
    code, out, _ = outcome()
    assert code == 2
    assert "Usage" in out


@pytest.mark.parametrize("command", [["generate", "-p", "a"], ["info"], ["bench"], ["chat"]])
def test_missing_file_is_one_line_and_1(command: list[str]) -> None:
    code, out, err = outcome(*command, "/nowhere/model.gguf")
    assert (code, out) == (1, "")
    assert_one_line(err, "/nowhere/model.gguf")


def test_damaged_file_is_one_line_and_debug_adds_the_traceback(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 100)
    code, _, err = outcome("info", path)
    assert code == 1
    assert_one_line(err, str(path))
    code, _, err = outcome("info", path, "--debug")
    assert code == 1
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("pygrok: error: ")


# generate


def completion(path: Path, max_tokens: int, **params: float) -> pygrok.Completion:
    with pygrok.load(path) as model:
        return model.generate(TEXT, pygrok.SamplingParams(**params), max_tokens=max_tokens)


def test_generate_prints_what_the_library_makes(tiny_model: Path) -> None:
    expected = completion(tiny_model, 12, temperature=0.0).text
    code, out, err = outcome("generate", tiny_model, "-p", TEXT, *GREEDY)
    assert (code, err) == (0, "")
    assert out == expected if expected.endswith("\n") else out == expected + "\n"


def test_generate_json(tiny_model: Path) -> None:
    expected = completion(tiny_model, 12, temperature=0.8, seed=5)
    code, out, _ = outcome(
        "generate", tiny_model, "-p", TEXT, "-n", "12", "--temperature", "0.8", "--seed", "5", "--json"
    )
    result = json.loads(out)
    assert code == 0
    assert result["text"] == expected.text
    assert result["tokens"] == len(expected.ids)
    assert result["finish_reason"] == expected.finish_reason
    assert result["prompt_tokens"] == len(expected.prompt_ids)
    assert result["timings"]["prefill_tokens_per_second"] > 0


def test_generate_reads_files_and_pipes(tiny_model: Path, tmp_path: Path) -> None:
    _, expected, _ = outcome("generate", tiny_model, "-p", TEXT, *GREEDY)
    file = tmp_path / "prompt.txt"
    file.write_text(TEXT + "\n")
    assert outcome("generate", tiny_model, "-f", file, *GREEDY) == (0, expected, "")
    with start("generate", tiny_model, "-f", "-", *GREEDY, cwd=tmp_path) as process:
        out, err = process.communicate(file.read_bytes())
    assert (process.returncode, out.decode(), err) == (0, expected, b"")


def test_generate_echo_stop_and_stats(tiny_model: Path) -> None:
    _, plain, _ = outcome("generate", tiny_model, "-p", TEXT, *GREEDY)
    _, out, err = outcome("generate", tiny_model, "-p", TEXT, *GREEDY, "--echo", "--stats")
    assert out == TEXT + plain
    assert "tokens/s" in err
    text = plain.rstrip("\n")
    mark = text[len(text) // 2 :][:2]
    assert mark, "this test needs a model that writes something"
    _, out, _ = outcome("generate", tiny_model, "-p", TEXT, *GREEDY, "--stop", mark)
    assert out.rstrip("\n") == plain[: plain.index(mark)].rstrip("\n")


def test_generate_says_where_a_file_is_not_utf8(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9")
    code, _, err = outcome("generate", tiny_model, "-f", file)
    assert code == 1
    assert_one_line(err, str(file), "byte 3")


def test_a_closed_pipe_is_quiet(tiny_model: Path, tmp_path: Path) -> None:
    with start(
        "generate", tiny_model, "-p", TEXT, "-n", "400", "--temperature", "1", cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_ctrl_c_is_130_and_quiet(tiny_model: Path, tmp_path: Path) -> None:
    with start("chat", tiny_model, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert b"base model" in process.stderr.readline()  # start-up is over: it waits for a line
        process.send_signal(signal.SIGINT)
        assert (process.wait(60), process.stderr.read()) == (130, b"\n")


# info


def test_info_json_describes_the_file(tiny_model: Path) -> None:
    code, out, err = outcome("info", tiny_model, "--json", "--tensors", "--context", "77")
    result = json.loads(out)
    assert (code, err) == (0, "")
    reader = gguf.GGUFReader(tiny_model)
    assert len(result["tensors"]) == len(reader.tensors)
    assert result["parameters"] == sum(int(t.n_elements) for t in reader.tensors)
    assert result["file_bytes"] == tiny_model.stat().st_size
    with pygrok.load(tiny_model) as model:
        config = model.config
    hyper = result["hyperparameters"]
    for name in (
        "layers",
        "embedding",
        "vocab",
        "context",
        "heads",
        "kv_heads",
        "head_size",
        "experts",
        "expert_width",
    ):
        assert hyper[name] == getattr(config, name), name
    experts = sum(int(t.n_bytes) for t in reader.tensors if "_exps" in t.name)
    others = sum(int(t.n_bytes) for t in reader.tensors if "_exps" not in t.name)
    assert result["bytes_per_token"] == others + experts * config.experts_used // config.experts
    cached = 77 * config.layers * 2 * config.kv_heads * config.head_size
    assert result["kv_bytes"]["f16"]["77"] == 2 * cached
    assert result["kv_bytes"]["q8_0"]["77"] == cached * 34 // 32
    assert result["runnable"] is True
    assert result["tokenizer"]["pieces"] == config.vocab


def test_info_text(tiny_model: Path) -> None:
    code, out, _ = outcome("info", tiny_model, "--tensors")
    assert code == 0
    assert "token_embd.weight" in out
    assert "\x1b" not in out
    assert "read per token" in out


def test_info_describes_what_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(path, "grok")
    writer.add_block_count(1)
    writer.add_name("na\x1b[31mme")
    writer.add_tensor(
        "token_embd.weight", np.zeros((4, 84), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q2_K
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    code, out, err = outcome("info", path)
    assert (code, err) == (0, "")
    assert "not supported" in out or "runs in pygrok  yes" in out
    assert "\x1b" not in out
    runnable = json.loads(outcome("info", path, "--json")[1])["unsupported_types"]
    assert runnable == ([] if "q2_k" in pygrok._core.runnable_types() else ["q2_k"])


# what the commands print with


def test_sizes_and_counts() -> None:
    assert [ui.size(n) for n in (0, 1023, 1536, 2**20 * 15, 2**30 * 178, 2**40 * 3)] == [
        "0 B", "1023 B", "1.50 KiB", "15.0 MiB", "178 GiB", "3.00 TiB",
    ]  # fmt: skip
    assert [ui.scaled(n) for n in (0, 7, 12.34, 1234, 314e9, 2e12)] == [
        "0",
        "7",
        "12.3",
        "1.23 k",
        "314 G",
        "2.00 T",
    ]


def test_control_characters_cannot_reach_the_terminal() -> None:
    assert ui.harmless("a\tb\n\x1b[2J\x07\x9b3m é漢") == "a\tb\n\ufffd[2J\ufffd\ufffd3m é漢"


def test_output_survives_a_poor_encoding(tiny_model: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "pygrok", "generate", str(tiny_model), "-p", "é漢", "--echo", "-n", "0"],
        cwd=tmp_path, env=environment, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"??\n", b"")
