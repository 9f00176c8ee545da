"""Which kernel tables there are, how one is chosen, and the limits measured with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pygrok import _core


def test_scalar_is_always_there_and_comes_first() -> None:
    assert _core.compiled_isas()[0] == "scalar"
    supported = _core.supported_isas()
    assert supported[0] == "scalar"
    assert [name for name in _core.compiled_isas() if name in supported] == supported


def test_named_table_is_the_active_one(isa: str) -> None:
    assert _core.kernels.select(isa) == isa


def test_default_is_the_best() -> None:
    assert _core.kernels.select() == _core.supported_isas()[-1]


def test_environment_variable_chooses(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYGROK_ISA", isa)
    assert _core.kernels.select() == isa
    assert _core.kernels.select("scalar") == "scalar"  # an argument comes first


def test_unknown_isa_lists_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = ", ".join(_core.supported_isas())
    with pytest.raises(ValueError, match=f"isa='sse9' is unknown; choose one of: {choices}"):
        _core.kernels.select("sse9")
    monkeypatch.setenv("PYGROK_ISA", "AVX2")
    with pytest.raises(ValueError, match=f"PYGROK_ISA='AVX2' is unknown; choose one of: {choices}"):
        _core.kernels.select()


def test_runnable_types() -> None:
    assert {"f32", "f16", "bf16", "q8_0", "q4_0"} <= set(_core.runnable_types())


def test_dot_rate_of_every_table(isa: str) -> None:
    assert _core.dot_rate(1, isa, 0.01) > 1e8


@pytest.mark.parametrize(
    ("threads", "seconds"), [(-1, 1.0), (5000, 1.0), (1, 0.0), (1, float("nan")), (1, 1e9)]
)
def test_dot_rate_checks_its_arguments(threads: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        _core.dot_rate(threads, "", seconds)


def test_read_bandwidth(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(1_000_003))
    assert _core.read_bandwidth(str(path), 3, 1_000_000, 2) > 1e6
    with pytest.raises(ValueError, match="goes beyond the file's 1000003 bytes"):
        _core.read_bandwidth(str(path), 4, 1_000_000, 1)
    with pytest.raises(ValueError, match="at least 1 byte"):
        _core.read_bandwidth(str(path), 0, 0, 1)
    with pytest.raises(FileNotFoundError, match="absent"):
        _core.read_bandwidth(str(tmp_path / "absent"), 0, 1, 1)
