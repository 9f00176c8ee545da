"""The store of expert pieces: whatever is asked in whatever order, the right bytes come, within the memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pygrok import FormatError, _core

LAYERS, EXPERTS, PIECES = 3, 4, 3
UNIT = 10_000  # not a multiple of a page, so pieces begin anywhere in one
OFFSET = 1_234
GROUP = PIECES * UNIT
MODES = ("direct", "buffered", "mapped")


@pytest.fixture(scope="module")
def data() -> bytes:
    return np.random.default_rng(0).bytes(OFFSET + LAYERS * EXPERTS * GROUP + 77)


@pytest.fixture(scope="module")
def path(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "experts.bin"
    path.write_bytes(data)
    return path


def probe(path: Path, mode: str = "direct", slots: int = 12, **changes: Any) -> _core.StoreProbe:
    options = {
        "layers": LAYERS,
        "experts": EXPERTS,
        "pieces": PIECES,
        "unit": UNIT,
        "offset": OFFSET,
        "capacity": slots * 16384,
        **changes,
    }
    made = _core.StoreProbe(str(path), mode=mode, **options)
    assert made.slot_bytes <= 16384
    return made


def group_bytes(data: bytes, layer: int, expert: int) -> bytes:
    begin = OFFSET + (layer * EXPERTS + expert) * GROUP
    return data[begin : begin + GROUP]


def use(store: _core.StoreProbe, data: bytes, layer: int, experts: list[int], threads: int = 1) -> None:
    got = store.use(layer, experts, list(range(len(experts) * PIECES)), threads)
    assert got == b"".join(group_bytes(data, layer, expert) for expert in experts)


def settled(store: _core.StoreProbe) -> None:
    """Waits until nothing is read ahead any more."""
    before = None
    while (now := store.counters()) != before:
        before = now
        time.sleep(0.05)


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("use"),
            st.integers(0, LAYERS - 1),
            st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=EXPERTS, unique=True),
            st.randoms(use_true_random=False),
            st.integers(1, 4),
        ),
        st.tuples(
            st.just("predict"),
            st.integers(0, LAYERS - 1),
            st.lists(st.integers(0, EXPERTS - 1), max_size=EXPERTS, unique=True),
        ),
        st.tuples(st.just("shrink"), st.integers(1, 10)),
        st.tuples(st.just("grow"), st.integers(1, 10)),
        st.tuples(st.just("drop")),
    ),
    min_size=1,
    max_size=25,
)


@pytest.mark.parametrize("mode", MODES)
@given(steps=steps, slots=st.integers(0, 40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_gives_the_right_bytes(
    path: Path, data: bytes, mode: str, steps: list[tuple[Any, ...]], slots: int
) -> None:
    store = probe(path, mode, slots)
    assert store.capacity >= 4 * store.slot_bytes
    for step in steps:
        if step[0] == "use":
            _, layer, experts, random, threads = step
            order = list(range(len(experts) * PIECES))
            random.shuffle(order)
            got = store.use(layer, experts, order, threads)
            assert got == b"".join(group_bytes(data, layer, expert) for expert in experts)
        elif step[0] == "predict":
            store.predict(step[1], step[2])
        elif step[0] == "drop":
            store.drop()
        else:
            before = store.capacity
            change = getattr(store, step[0])(step[1] * store.slot_bytes)
            assert store.capacity == before + (change if step[0] == "grow" else -change)
            assert store.capacity >= 4 * store.slot_bytes
        # No more is in memory than there are slots.
        held = sum(store.resident()) * PIECES
        assert held <= store.capacity / store.slot_bytes + 1e-6
    needed, hit, read, predicted, wasted = store.counters()
    assert 0 <= hit <= needed
    assert 0 <= wasted <= predicted <= read


@pytest.mark.parametrize("mode", MODES)
def test_what_is_kept_is_not_read_again(path: Path, data: bytes, mode: str) -> None:
    store = probe(path, mode, slots=40)
    use(store, data, 0, [0, 1])
    needed, hit, read, _, _ = store.counters()
    assert (needed, hit) == (2 * GROUP, 0)
    # Each piece is widened to whole pages: at most one more at each end.
    assert 2 * GROUP <= read <= 2 * GROUP + 6 * 8192
    use(store, data, 0, [1, 0], threads=3)
    use(store, data, 0, [1, 2])
    assert store.counters()[:2] == (6 * GROUP, 3 * GROUP)
    assert store.counters()[2] <= 3 * GROUP + 9 * 8192
    store.drop()
    assert not any(store.resident())
    use(store, data, 0, [1])
    assert store.counters()[1] == 3 * GROUP


def test_frequent_experts_stay(path: Path, data: bytes) -> None:
    """With room for half the experts: one that every token uses is never read twice."""
    store = probe(path, slots=LAYERS * EXPERTS * PIECES // 2)
    rng = np.random.default_rng(1)
    for token in range(60):
        if token == 20:
            before = store.counters()
        for layer in range(LAYERS):
            use(store, data, layer, [0, int(rng.integers(1, EXPERTS))])
    needed, hit = (now - then for now, then in zip(store.counters()[:2], before[:2], strict=True))
    # Of the others, 3 of 9 fit at once: without knowing the future about a third of them are hits.
    assert 0.6 < hit / needed < 0.9
    assert all(store.resident()[layer * EXPERTS] == 1 for layer in range(LAYERS))


def test_partial_experts_use_all_of_the_memory(path: Path, data: bytes) -> None:
    store = probe(path, slots=4)  # one expert and a third
    use(store, data, 0, [0])
    use(store, data, 0, [1])
    assert sum(store.resident()) == pytest.approx(4 / PIECES)
    hits = store.counters()[1]
    use(store, data, 0, [0])
    assert store.counters()[1] == hits + UNIT  # its first piece had stayed


def test_predictions_are_read_counted_and_given_up(path: Path, data: bytes) -> None:
    store = probe(path, slots=40)
    use(store, data, 0, [0])
    store.predict(1, [2, 3])
    settled(store)
    _, _, read, predicted, wasted = store.counters()
    assert 2 * GROUP <= predicted < read
    assert wasted == 0
    use(store, data, 1, [2, 1])
    needed, hit, after, _, wasted = store.counters()
    assert hit == 0  # what was predicted and is used the first time counts as read for it
    assert wasted == GROUP  # expert 3
    assert GROUP <= after - read < GROUP + 3 * 8192  # only expert 1
    use(store, data, 1, [2, 3])
    assert store.counters()[1] == 2 * GROUP  # both are in memory now, and hits
    store.predict(2, [0])
    store.predict(2, [])  # replaced before, or given up after it is read
    settled(store)
    assert needed == 3 * GROUP


def test_predictions_do_not_displace_what_is_needed_sooner(path: Path, data: bytes) -> None:
    store = probe(path, slots=2 * PIECES)
    store.pin([1 * EXPERTS + 0, 1 * EXPERTS + 1])
    assert store.resident()[EXPERTS : EXPERTS + 2] == [1, 1]
    store.predict(1, [0, 1])  # next in turn
    store.predict(2, [0, 1])  # later
    settled(store)
    assert store.resident()[EXPERTS : EXPERTS + 2] == [1, 1]


def test_pinned_groups_are_read_as_far_as_they_fit(path: Path, data: bytes) -> None:
    store = probe(path, slots=2 * PIECES)
    store.pin([0, 5, 9])
    resident = store.resident()
    assert sum(resident) == pytest.approx(2)
    assert resident[0] == resident[5] == 1  # in the order of the file
    read = store.counters()[2]
    use(store, data, 0, [0])
    assert store.counters()[2] == read
    # They are worth more than what a token uses now and then.
    for expert in (1, 2, 3, 1, 2, 3):
        use(store, data, 2, [expert])
    assert store.resident()[0] > 0.5


def test_shrinking_and_growing(path: Path, data: bytes) -> None:
    store = probe(path, slots=20)
    for layer in range(LAYERS):
        use(store, data, layer, [0, 1])
    slot = store.slot_bytes
    capacity = store.capacity
    assert store.shrink(1) == slot
    assert store.shrink(5 * slot) == 5 * slot
    assert store.capacity == capacity - 6 * slot
    assert sum(store.resident()) * PIECES <= store.capacity / slot + 1e-6
    assert store.shrink(1000 * slot) == capacity - 10 * slot
    assert store.capacity == 4 * slot
    assert store.shrink(slot) == 0
    use(store, data, 1, [0, 1, 2, 3], threads=4)
    assert store.grow(3 * slot) == 3 * slot
    assert store.capacity == 7 * slot
    use(store, data, 2, [3, 2], threads=2)


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_is_cut_short(data: bytes, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "experts.bin"
    path.write_bytes(data)
    store = probe(path, mode, slots=40)
    use(store, data, 0, [0, 1])
    with path.open("r+b") as file:
        file.truncate(OFFSET + 4 * GROUP)
    for threads in (1, 3):
        with pytest.raises(FormatError, match=r"was cut from [0-9]+ to [0-9]+ bytes") as caught:
            store.use(2, [1, 0], list(range(2 * PIECES)), threads)
        assert str(path) in str(caught.value)
    store.predict(1, [0, 1])  # a failed guess is nobody's error
    settled(store)
    if mode != "mapped":  # the store lives on, and so does what it had read
        use(store, data, 0, [0, 1])
        path.write_bytes(data)
        use(store, data, 2, [1, 0])


def test_refusals(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode 'fast' is unknown"):
        probe(path, "fast")
    with pytest.raises(FileNotFoundError):
        probe(tmp_path / "none")
