"""Threads, cancellation, Ctrl-C and fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pygrok


@pytest.fixture
def model(tiny_models: dict[str, Path]) -> Iterator[pygrok.Model]:
    with pygrok.load(tiny_models["q8_0"]) as model:
        yield model


def test_many_threads_share_a_model(model: pygrok.Model) -> None:
    prompts = [np.random.default_rng(i).integers(0, model.config.vocab, 5 + 11 * i) for i in range(8)]
    alone = [model.session().feed(p) for p in prompts]

    def work(i: int) -> np.ndarray:
        for _ in range(5):
            result = model.session().feed(prompts[i])
        return result

    with ThreadPoolExecutor(8) as pool:
        for expected, result in zip(alone, pool.map(work, range(8)), strict=True):
            np.testing.assert_array_equal(result, expected)


def long_prompt(model: pygrok.Model) -> np.ndarray:
    return np.random.default_rng(0).integers(0, model.config.vocab, model.context - 10)


@pytest.mark.parametrize("via", ["session", "model"])
def test_cancel_from_another_thread(tiny_models: dict[str, Path], via: str) -> None:
    # The scalar table makes the prefill long enough to be caught in the middle on any machine.
    with pygrok.load(tiny_models["q8_0"], isa="scalar", threads=1) as model:
        session = model.session()
        start = session.feed([1, 2, 3])
        timer = threading.Timer(0.1, session.cancel if via == "session" else model.cancel)
        timer.start()
        with pytest.raises(pygrok.Cancelled):
            session.feed(long_prompt(model))
        timer.join()
        # The cache is as it was, and later calls are not affected.
        assert session.position == 3
        session.rewind(2)
        np.testing.assert_array_equal(session.feed([3]), start)


def test_cancel_also_ends_waiting_calls(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["q8_0"], isa="scalar", threads=1) as model:
        running, waiting = model.session(), model.session()
        prompt = long_prompt(model)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(running.feed, prompt)
            time.sleep(0.05)
            second = pool.submit(waiting.feed, [1])
            time.sleep(0.05)
            waiting.cancel()
            with pytest.raises(pygrok.Cancelled):
                second.result(timeout=60)
            running.cancel()
            with pytest.raises(pygrok.Cancelled):
                first.result(timeout=60)


def run_script(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",  # from the source tree, Python would import the package without its extension
    )


def test_ctrl_c_during_prefill(model: pygrok.Model) -> None:
    child = run_script(
        """
        import sys, numpy as np, pygrok
        model = pygrok.load(sys.argv[1], isa="scalar", threads=1)
        session = model.session()
        prompt = np.zeros(model.context - 10, np.int32)
        print("ready", flush=True)
        try:
            while True:
                session.feed(prompt)
                session.rewind(0)
        except KeyboardInterrupt:
            print("interrupted", session.position, session.feed([1]).shape[0] == model.config.vocab)
        """,
        model.path,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert out == "interrupted 0 True\n"


def test_forked_child_is_refused_clearly(model: pygrok.Model) -> None:
    child = run_script(
        """
        import os, sys, warnings, numpy as np, pygrok
        warnings.simplefilter("ignore")
        model = pygrok.load(sys.argv[1], threads=2)
        prompt = np.zeros(100, np.int32)
        model.logits(prompt)
        pid = os.fork()
        if pid == 0:
            try:
                model.logits(prompt)
            except pygrok.ModelError as error:
                print(error, flush=True)
                os._exit(0 if "fork" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        model.logits(prompt)
        """,
        model.path,
    )
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, out + err


@pytest.mark.parametrize("ending", ["model.close()", "del model", "sys.exit(0)", "os._exit(0)"])
def test_forked_child_lets_go_of_the_model(model: pygrok.Model, ending: str) -> None:
    child = run_script(
        """
        import os, signal, sys, threading, warnings, numpy as np, pygrok
        warnings.simplefilter("ignore")
        model = pygrok.load(sys.argv[1], threads=2, isa="scalar")
        session = model.session()
        prompt = np.zeros(model.context - 10, np.int32)
        def work():
            try:
                session.feed(prompt)
            except pygrok.Cancelled:
                pass
        thread = threading.Thread(target=work)
        thread.start()
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                session.feed([1])
                os._exit(3)
            except pygrok.ModelError:
                pass
            exec(sys.argv[2])
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        model.cancel()
        thread.join()
        print(status)
        """,
        model.path,
        ending,
    )
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, out + err
    assert out == "0\n", err


def test_looking_at_a_session_does_not_wait(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["q8_0"], isa="scalar", threads=1) as model:
        busy, other = model.session(), model.session()
        other.feed([1, 2, 3])
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(busy.feed, long_prompt(model))
            time.sleep(0.1)
            assert other.ids == (1, 2, 3)
            assert "position=3" in repr(other)
            assert not running.done()
            model.cancel()
            with pytest.raises(pygrok.Cancelled):
                running.result(timeout=60)


def test_threads_stay_within_affinity(model: pygrok.Model) -> None:
    cpus = os.sched_getaffinity(0)
    child = run_script(
        """
        import os, sys, pygrok
        os.sched_setaffinity(0, {int(sys.argv[2])})
        print(pygrok.load(sys.argv[1]).info()["threads"])
        """,
        model.path,
        min(cpus),
    )
    out, err = child.communicate(timeout=60)
    assert out == "1\n", err
