"""What bench/paging.py is made of: processes that answer, groups that limit, verdicts that follow from figures."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

from memory_group import MemoryGroup, cached_share, drop_page_cache
from paging_process import Child, Sampler
from synthetic import RandomBytes, router

BENCH = Path(__file__).resolve().parent.parent / "bench"


def test_the_page_cache_is_looked_at_and_dropped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(4 << 20))
    assert cached_share(path) == 1.0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert mapped[0] >= 0  # a page that is mapped stays
    assert drop_page_cache(path) <= 0.01 or os.geteuid() != 0


def test_a_group_is_made_where_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    with MemoryGroup("g", 1 << 30, tmp_path) as group:
        assert (group.folder / "memory.limit_in_bytes").read_text() == str(1 << 30)
        (group.folder / "memory.usage_in_bytes").write_text("5\n")
        (group.folder / "memory.max_usage_in_bytes").write_text("7\n")
        (group.folder / "memory.failcnt").write_text("2\n")
        (group.folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
        assert group.figures() == {"used_bytes": 5, "peak_bytes": 7, "limit_met": 2, "kills": 1}
        for file in group.folder.iterdir():  # a real group's files go with it
            file.unlink()
    assert not group.folder.exists()
    (tmp_path / "cgroup.controllers").write_text("memory")
    with MemoryGroup("g", 1 << 30, tmp_path) as group:
        assert group.version == 2
        assert (group.folder / "memory.max").read_text() == str(1 << 30)
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory"
        (group.folder / "memory.current").write_text("5\n")
        (group.folder / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\n")
        assert group.figures() == {"used_bytes": 5, "peak_bytes": 0, "limit_met": 9, "kills": 0}
        for file in group.folder.iterdir():
            file.unlink()


def test_without_groups_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no memory control groups"):
        MemoryGroup("g", 1, tmp_path)


def test_a_child_decodes_what_it_is_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    from pygrok.route_trace import read_trace

    trace = tmp_path / "routes"
    options = {"threads": 1, "trace": str(trace), "expert_io": "map"}
    (tmp_path / "memory").mkdir()
    with (
        MemoryGroup("g", 1 << 30, tmp_path) as group,
        Child("pygrok", sys.executable, tiny_model, options) as child,
    ):
        with Sampler(child, group) as sampler:
            assert child.hello["paging"]["mode"] == "map"
            got = child.ask({"phase": "decode", "tokens": 3, "seed": 1})
            assert len(got["seconds"]) == 3
            assert got["paging"]["tokens"] == 3
            assert (
                child.ask({"phase": "decode", "tokens": 2, "seed": 1, "apart": False})["paging"]["tokens"]
                == 2
            )
            assert len(child.ask({"phase": "prefill", "tokens": 9, "seed": 2})["seconds"]) == 1
        (group.folder / "memory.limit_in_bytes").unlink()
        (group.folder / "memory.swappiness").unlink(missing_ok=True)
    held = read_trace(trace)
    assert held.positions.tolist() == [0, 0, 0, 1, 2, *range(9)]
    assert sampler.peaks["samples"] > 0
    assert sampler.peaks["resident_bytes"] >= sampler.peaks["anonymous_bytes"] > 0


def test_a_child_that_ends_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(EOFError, match="exit code"), Child("pygrok", sys.executable, tmp_path / "none", {}):
        pass


def test_a_router_favours_experts_as_told() -> None:
    rng = np.random.default_rng(0)
    for skew, least, most in ((0.0, 0.125, 0.15), (1.0, 0.25, 0.5)):
        x = rng.standard_normal((2000, 6144), dtype=np.float32) + np.float32(0.15 if skew else 0)
        x /= np.sqrt((x**2).mean(axis=1, keepdims=True))
        logits = x @ router(skew, 0, 0.15 * np.sqrt(2), np.random.default_rng(1)).T
        assert logits.std(axis=0).mean() == pytest.approx(2, rel=0.2)
        top = np.argsort(logits, axis=1)[:, -2:]
        shares = np.bincount(top.ravel(), minlength=8) / top.size
        assert least < shares.max() < most
    with pytest.raises(ValueError, match="--embedding-type"):
        router(1.0, 0, 0.0, rng)


@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "f16"])
def test_blocks_have_the_mean_that_was_asked_for(kind: str) -> None:
    assert abs(RandomBytes(kind, 0.0125, 0).mean) < 0.01
    assert RandomBytes(kind, 0.0125, 0, drift=True).mean > 0.1


def test_it_says_what_it_needs() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCH / "paging.py"), "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0
    assert "--peer-python" in done.stdout
    done = subprocess.run(
        [sys.executable, str(BENCH / "paging.py"), "missing.gguf", "--no-compute"],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "missing.gguf" in done.stderr
