"""`pygrok plan`: its forecasts follow from sizes and rates, and its measurements say what they are of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from cli_helpers import assert_one_line, outcome
from source_files import write_other_architecture

from pygrok import _core, forecast, machine
from pygrok.cli.plan_output import duration
from pygrok.disk import measure_disk
from pygrok.footprint import footprint
from pygrok.memory import needed, usable

GIVEN = ["--bandwidth", "50GB/s", "--disk-rate", "3GB/s", "--memory", "64GiB"]
EMBEDDING, WIDTH, LAYERS = 6144, 32768, 64


@pytest.fixture(autouse=True)
def _small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures do not matter here."""
    monkeypatch.setattr(machine, "SAMPLE_BYTES", 8 << 20)


def results(*arguments: str | Path) -> dict[str, Any]:
    code, out, err = outcome("plan", *arguments, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def made_up(**changes: Any) -> forecast.ModelWeights:
    """4 GB that every token reads, 80 GB in 8 experts of which it reads 2."""
    values: dict[str, Any] = {
        "name": "x",
        "file_bytes": 84 * 10**9,
        "always": {"q8_0": 3 * 10**9, "f32": 10**9},
        "experts": {"q4_0": 80 * 10**9},
        "values": {"q4_0": 160 * 10**9},
        "expert_count": 8,
        "experts_used": 2,
        "kv_values": 1000,
        "context": 8192,
    }
    return forecast.ModelWeights(**(values | changes))


# The model of speed


def test_the_released_sizes() -> None:
    found = forecast.released_weights("q4_0")
    experts = LAYERS * 8 * 3 * EMBEDDING * WIDTH // 32 * 18
    attention = LAYERS * EMBEDDING * (6144 + 6144 + 1024 + 1024) // 32 * 18
    embedding = 131072 * EMBEDDING // 32 * 34
    plain = 4 * (LAYERS * (4 * EMBEDDING + 8 * EMBEDDING) + EMBEDDING)
    assert found.experts == {"q4_0": experts}
    assert found.always == {"q4_0": attention, "q8_0": embedding, "f32": plain}
    assert found.file_bytes == experts + attention + embedding + plain
    assert found.routed_bytes == experts // 4
    assert found.kv_values == 2 * LAYERS * 8 * 128
    assert not found.needs_importance


@pytest.mark.parametrize(("mix", "gigabytes"), [("q4_k_m", 192.1), ("iq2_m", 103.7), ("q5_k_moe", 219.5)])
def test_mixes_have_the_sizes_of_the_documentation(mix: str, gigabytes: float) -> None:
    found = forecast.released_weights(mix)
    assert found.file_bytes / 1e9 == pytest.approx(gigabytes, abs=0.06)
    assert found.needs_importance == mix.startswith("iq")


def test_a_file_is_read_as_its_footprint_says(tiny_models: dict[str, Path]) -> None:
    for path in tiny_models.values():
        described = footprint(_core.GgufFile(str(path)))
        found = forecast.weights_of(described)
        assert found.always_bytes + found.routed_bytes == pytest.approx(described.active_bytes, abs=1)
        assert sum(found.token_bytes.values()) == pytest.approx(described.active_bytes, abs=1)
        assert found.always_bytes + found.expert_bytes == sum(t.bytes for t in described.tensors)


def test_of_an_input_table_of_its_own_a_token_reads_a_row(tmp_path: Path) -> None:
    path = tmp_path / "untied.gguf"
    writer = gguf.GGUFWriter(path, "grok")
    for name in ("token_embd", "output"):
        writer.add_tensor(f"{name}.weight", np.zeros((16, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert forecast.weights_of(footprint(_core.GgufFile(str(path)))).always == {"f32": (16 + 1) * 64 * 4}


def test_seconds_of_a_token() -> None:
    weights = made_up()
    here = forecast.Machine(64 << 30, 50e9, {"q8_0": 30e9, "q4_0": 40e9}, 2e9)
    computing = 3 / 30 + 1 / 50 + 20 / 40  # f32 was not timed: the bandwidth
    assert forecast.compute_seconds(weights, here) == pytest.approx(computing)
    assert forecast.compute_seconds(weights, here, 10**9) == pytest.approx(computing + 1 / 50)
    half, most = (forecast.streamed(weights, here, rate) for rate in (0.5, 0.95))
    assert half is not None
    assert most is not None
    assert half.missed_bytes == 10 * 10**9
    assert half.tokens_per_second == pytest.approx(
        1 / (3 / 30 + 1 / 50 + 10 / 2)
    )  # the disk takes longer than computing experts
    assert most.tokens_per_second == pytest.approx(1 / computing)  # computing does
    assert forecast.streamed(weights, forecast.Machine(1, 1.0, {}, None), 0.5) is None


def test_room_and_hit_rates() -> None:
    weights = made_up()
    kv_bytes = 10**9

    def holding(expert_bytes: float) -> forecast.Machine:
        return forecast.Machine(
            needed(weights.resident_bytes + kv_bytes + round(expert_bytes)), 50e9, {}, 2e9
        )

    for part in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0):
        here = holding(part * 80e9)
        assert forecast.room_for_experts(weights, here, kv_bytes) == pytest.approx(part * 80e9, abs=2)
        assert forecast.uniform_hit_rate(weights, here, kv_bytes) == pytest.approx(part, abs=1e-9)
        assert not forecast.fits(weights, here, kv_bytes)  # a prompt takes buffers, too
        skewed = forecast.skewed_hit_rate(weights, here, kv_bytes)
        assert skewed == pytest.approx(part, abs=1e-9) if part in (0.0, 1.0) else skewed > part * 1.04
    assert forecast.fits(weights, holding(80e9 + forecast.BUFFER_BYTES), kv_bytes)
    assert forecast.room_for_experts(weights, holding(-(10**6)), kv_bytes) == pytest.approx(-(10**6), abs=2)
    assert forecast.uniform_hit_rate(weights, holding(-(10**6)), kv_bytes) == 0


@pytest.mark.parametrize("wanted", [1, 10**6, 10**9, 10**11])
def test_needed_memory_is_just_enough(wanted: int) -> None:
    assert usable(needed(wanted)) >= wanted
    assert usable(needed(wanted) - 4) < wanted or wanted < 4


@pytest.mark.parametrize(("count", "used", "kept"), [(8, 2, 2), (8, 2, 5), (16, 4, 6), (4, 4, 1)])
def test_skewed_routing_is_drawing_without_replacement(count: int, used: int, kept: int) -> None:
    weights = made_up(expert_count=count, experts_used=used)
    here = forecast.Machine(needed(weights.resident_bytes + kept * 80 * 10**9 // count), 1.0, {}, None)
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(1, count + 1)
    drawn = [rng.choice(count, used, replace=False, p=chances / chances.sum()) for _ in range(4000)]
    hits = float(np.mean(np.array(drawn) < kept))
    assert forecast.skewed_hit_rate(weights, here, 0) == pytest.approx(hits, abs=0.03)


# Measurements


def fake_system(folder: Path, groups: str, files: dict[str, str]) -> tuple[Path, Path]:
    proc, cgroups = folder / "proc", folder / "cgroup"
    files = {
        "proc/meminfo": "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 800 kB\n",
        "proc/self/cgroup": groups,
        **{f"cgroup/{name}": text for name, text in files.items()},
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    cgroups.mkdir(exist_ok=True)
    return proc, cgroups


def test_memory_of_the_machine(tmp_path: Path) -> None:
    found = machine.memory(*fake_system(tmp_path, "0::/\n", {}))
    assert found == (1000 << 10, 800 << 10, "the machine")
    here = machine.memory()
    assert 0 < here.available <= here.total


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        pytest.param(
            "0::/jobs/mine\n",
            {
                "jobs/memory.max": "500000\n",
                "jobs/memory.current": "300000\n",
                "jobs/memory.stat": "anon 5\ninactive_file 100000\nactive_file 50000\n",
                "jobs/mine/memory.max": "max\n",
                "jobs/mine/memory.current": "10\n",
            },
            (500000, 350000, "control group jobs"),
            id="version 2",
        ),
        pytest.param(
            "3:cpu:/mine\n2:memory:/mine\n",
            {
                "memory/mine/memory.limit_in_bytes": "400000\n",
                "memory/mine/memory.usage_in_bytes": "100000\n",
                "memory/mine/memory.stat": "inactive_file 1\ntotal_inactive_file 30000\ntotal_active_file 20000\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "100000\n",
                "cpu/mine/memory.limit_in_bytes": "1\n",
                "cpu/mine/memory.usage_in_bytes": "0\n",
            },
            (400000, 350000, "control group memory/mine"),
            id="version 1",
        ),
    ],
)
def test_memory_of_a_control_group(
    tmp_path: Path, groups: str, files: dict[str, str], expected: tuple[int, int, str]
) -> None:
    assert machine.memory(*fake_system(tmp_path, groups, files)) == expected


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "iq3_xxs", "f32"])
def test_sample_weights_decode_and_convert(kind: str) -> None:
    with machine.sample_weights(kind, 8 << 20) as weights:
        assert 4 << 20 < weights.rows.nbytes <= 8 << 20
        values = _core.dequantize_rows(kind, weights.rows[:64], weights.columns)
        assert 0.5 < np.std(values) * np.sqrt(weights.columns) < 1.5
        assert Path(weights.path).read_bytes() == weights.rows.tobytes()
        assert machine.decode_rate(weights, 1) > 0
        assert machine.read_rate(weights, 1) > 0
    if kind == "q4_0":
        assert machine.conversion_rate(kind, 1) > 1e6


def test_disk_of_a_folder_and_a_file(tmp_path: Path) -> None:
    found = measure_disk(tmp_path, 0.1)
    if found.read is None:
        pytest.skip(f"no direct reads here: {found.about}")
    assert found.read > 1e6
    assert found.write is not None
    assert str(tmp_path) in found.about
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.write_bytes(os.urandom(16 << 20))
    os.sync()
    read = measure_disk(file, 0.1)
    assert read.read is not None
    assert read.write is None
    assert str(file) in read.about


@pytest.mark.parametrize(("length", "reason"), [(1000, "too small"), (1 << 30, "has holes")])
def test_files_that_tell_nothing_of_the_disk(tmp_path: Path, length: int, reason: str) -> None:
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, length)
    found = measure_disk(file, 0.1)
    assert found.read is None
    assert found.about.startswith("not measured: ")
    if "lies in memory" not in found.about:  # a temporary folder in a tmpfs
        assert reason in found.about


# The command


def test_plan_of_a_file(tiny_model: Path) -> None:
    found = results(tiny_model, "--disk-rate", "1GB", "--threads", "1")
    here, plan = found["machine"], found["plans"][0]
    weights = forecast.weights_of(footprint(_core.GgufFile(str(tiny_model))))
    assert plan["file_bytes"] == tiny_model.stat().st_size
    assert here["threads"] == 1
    assert plan["fits"]
    assert "here" not in plan
    rates = here["decode_bytes_per_second"]
    seconds = sum(n / rates.get(t, here["bandwidth"]) for t, n in weights.token_bytes.items())
    seconds += weights.kv_values * 2 * 512 / here["bandwidth"]
    assert plan["resident_tokens_per_second"] == pytest.approx(1 / seconds)
    assert plan["load_seconds"] == pytest.approx(plan["file_bytes"] / 1e9)
    assert plan["kv_bytes"] == weights.kv_values * 2 * 4096
    assert "so small" in outcome("plan", tiny_model, "--disk-rate", "1GB", "--threads", "1")[1]


def test_plan_of_a_type_on_another_machine() -> None:
    found = results("--type", "q4_0", *GIVEN, "--context", "1024")
    here, plan = found["machine"], found["plans"][0]
    assert (here["bandwidth"], here["disk_read"], here["memory"]["available"]) == (50e9, 3e9, 64 << 30)
    assert plan["kv_bytes"] == 256 << 20
    assert not plan["fits"]
    missed = [part["missed_bytes"] for part in plan["streamed"]]
    assert missed[0] == plan["expert_bytes_per_token"]
    rates = here["decode_bytes_per_second"]
    always = forecast.released_weights("q4_0").always
    computing = sum(n / rates.get(t, 50e9) for t, n in always.items()) + (128 << 20) / 50e9
    assert plan["streamed"][0]["tokens_per_second"] == pytest.approx(1 / (computing + missed[0] / 3e9))
    uniform, skewed = plan["here"]["uniform"], plan["here"]["skewed"]
    experts = 4 * plan["expert_bytes_per_token"]
    room = usable(64 << 30) - (plan["file_bytes"] - experts) - (128 << 20)  # keys and values of 512 positions
    assert uniform["hit_rate"] == pytest.approx(room / experts, rel=1e-6)
    assert skewed["hit_rate"] > uniform["hit_rate"]
    assert plan["conversion"]["disk_bytes"] == forecast.RELEASE_BYTES + plan["file_bytes"]
    assert plan["conversion"]["computing_seconds"] > 0
    disk = (forecast.RELEASE_BYTES + plan["file_bytes"]) / 3e9
    assert plan["conversion"]["disk_seconds"] == pytest.approx(disk)


def test_memory_below_what_every_token_reads() -> None:
    plan = results("--type", "q4_0", *GIVEN[:4], "--memory", "1GiB")["plans"][0]
    assert (plan["fits"], plan["runs"], "here" in plan) == (False, False, False)
    least = plan["memory_needed_to_stream"]
    assert 6 << 30 < least < 8 << 30
    code, out, _ = outcome("plan", "--type", "q4_0", *GIVEN[:4], "--memory", "1GiB")
    assert code == 0
    assert "no, not even streamed" in out
    assert results("--type", "q4_0", *GIVEN[:4], "--memory", str(least))["plans"][0]["runs"]


def test_text_of_one_and_of_several() -> None:
    code, out, err = outcome("plan", "--type", "q4_k_m", *GIVEN)
    assert (code, err) == (0, "")
    assert "so small" not in out
    for part in ("192 GB", "53.2 GB", "no: 187 GiB", "2.00 GiB for 8192", "convert", "318 GB", "uniform"):
        assert part in out, part
    code, out, err = outcome("plan", "--type", "q4_0", "--type", "iq3_xs", *GIVEN[:4], "--memory", "160GiB")
    assert (code, err) == (0, "")
    rows = {line.split()[1]: line.split() for line in out.splitlines() if line.startswith("Grok-1")}
    assert "yes" in rows["iq3_xs"]
    assert "no" in rows["q4_0"]
    assert "importance matrix" in out


def test_without_a_disk_rate_nothing_is_said_of_streaming(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"x")
    arguments = ["--type", "q4_0", "--memory", "64GiB", "--disk", str(small)]
    plan = results(*arguments)["plans"][0]
    assert "streamed" not in plan
    code, out, _ = outcome("plan", *arguments)
    assert code == 0
    assert "not measured" in out
    assert "nothing is known of streaming" in out


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["model.gguf", "--type", "q4_0"], 2, "not both"),
        (["--type", "q9"], 2, "q4_k_m"),
        (["--type", "q4_0", "--kv-type", "q8"], 2, "bf16"),
        (["--type", "q4_0", "--memory", "lots"], 2, "--memory"),
        (["--type", "q4_0", "--bandwidth", "0GB/s"], 2, "--bandwidth"),
        (["--type", "q4_0", "--disk-rate", "fast"], 2, "--disk-rate"),
        (["--type", "q4_0", "--disk", "/nowhere/at/all"], 1, "/nowhere/at/all"),
        (["/nowhere/model.gguf"], 1, "/nowhere/model.gguf"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], code: int, part: str) -> None:
    found, out, err = outcome("plan", *arguments)
    assert (found, out) == (code, "")
    assert_one_line(err, part)


def test_a_file_that_does_not_run(tmp_path: Path) -> None:
    path = write_other_architecture(tmp_path / "other.gguf")
    code, out, err = outcome("plan", path)
    assert (code, out) == (1, "")
    assert_one_line(err, str(path), "llama")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "40 ms"),
        (3.26, "3.3 s"),
        (119, "119 s"),
        (121, "2.0 min"),
        (9000, "2.5 h"),
        (200_000, "2.3 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_help() -> None:
    code, out, err = outcome("plan", "--help")
    assert (code, err) == (0, "")
    assert "Example" in out
    assert "--debug" in out
