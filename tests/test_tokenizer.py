"""Tokenizer: SentencePiece's ids from both sources, and a detokenizer that never shows half a character."""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from fake_engine import BOS, EOS, PAD, SMALL, UNK, FakeFile, tokenizer_metadata
from gguf_files import ARRAY, BOOL, F32, I32, STRING, U32, Entry, File
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pygrok import FormatError, ModelError, Tokenizer
from pygrok.detokenizer import Detokenizer
from pygrok.sentencepiece_proto import PIECE_USER_DEFINED, SpecialIds, model_proto

KEY = "tokenizer.ggml."


@pytest.fixture(scope="session")
def released(shared: Path) -> Path:
    return shared / "tokenizer" / "grok-1"


@pytest.fixture(scope="session")
def from_file(released: Path) -> Tokenizer:
    return Tokenizer.from_file(released / "tokenizer.model")


@pytest.fixture(scope="session")
def grok_gguf(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF file with the released tokenizer's pieces, scores and types, and nothing else."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(released / "tokenizer.model"))
    count = sp.vocab_size()
    kinds = [
        2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in range(count)
    ]
    kinds[4:69] = [PIECE_USER_DEFINED] * 65
    entries = [
        Entry("general.architecture", STRING, "grok"),
        Entry(KEY + "model", STRING, "llama"),
        Entry(KEY + "tokens", ARRAY, (STRING, [sp.id_to_piece(i) for i in range(count)])),
        Entry(KEY + "scores", ARRAY, (F32, [sp.get_score(i) for i in range(count)])),
        Entry(KEY + "token_type", ARRAY, (I32, kinds)),
        Entry(KEY + "bos_token_id", U32, 1),
        Entry(KEY + "eos_token_id", U32, 2),
        Entry(KEY + "padding_token_id", U32, 0),
        Entry(KEY + "add_bos_token", BOOL, False),
    ]
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.gguf"
    path.write_bytes(File(entries).encode())
    return path


@pytest.fixture(scope="session")
def from_gguf(grok_gguf: Path) -> Tokenizer:
    return Tokenizer.from_gguf(grok_gguf)


@pytest.fixture(params=["from_file", "from_gguf"])
def grok(request: pytest.FixtureRequest) -> Tokenizer:
    tokenizer: Tokenizer = request.getfixturevalue(request.param)
    return tokenizer


def test_released_samples(grok: Tokenizer, released: Path) -> None:
    samples = json.loads((released / "samples.json").read_text())
    assert len(samples) > 20
    assert [grok.encode(s["text"]) for s in samples] == [s["ids"] for s in samples]
    # SentencePiece takes a written U+2581 for a space, too.
    assert [grok.decode(s["ids"]) for s in samples] == [s["text"].replace("▁", " ") for s in samples]


def test_released_special_ids(grok: Tokenizer) -> None:
    assert (len(grok), grok.pad_id, grok.bos_id, grok.eos_id) == (131072, 0, 1, 2)
    assert grok.end_ids == {2}
    assert grok.control_ids == [0, 1, 2]
    assert not grok.add_bos
    assert (grok.piece(3), grok.piece_id("\n\n"), grok.piece_id("no such piece")) == ("[UNK]", 5, None)


def test_both_sources_agree_on_any_text(from_file: Tokenizer, from_gguf: Tokenizer) -> None:
    generator = np.random.default_rng(0)
    alphabet = [*"abc  \n\n\t09.,é日🤖▁\u200b<|>", "<0x41>", "[EOS]", " the"]
    for _ in range(300):
        text = "".join(generator.choice(alphabet, generator.integers(0, 30)))
        assert from_file.encode(text) == from_gguf.encode(text)
        for prefix in (True, False):
            ids = from_gguf.encode(text, add_dummy_prefix=prefix)
            assert ids == from_file.encode(text, add_dummy_prefix=prefix)


def test_continuing_text_gets_no_space(grok: Tokenizer) -> None:
    assert grok.piece(grok.encode("hello")[0]).startswith("▁")
    ids = grok.encode("hello", add_dummy_prefix=False)
    assert not grok.piece(ids[0]).startswith("▁")
    assert grok.detokenizer(continuing=True).feed_all(ids) == "hello"
    assert grok.encode("\n\nUser", add_dummy_prefix=False)[0] == 5
    assert grok.encode(" hello", add_dummy_prefix=False) == grok.encode("hello")


def test_building_from_gguf_is_quick(grok_gguf: Path) -> None:
    started = time.process_time()
    Tokenizer.from_gguf(grok_gguf)
    assert time.process_time() - started < 1


def test_text_of_control_pieces_is_text(grok: Tokenizer) -> None:
    assert not set(grok.encode("[BOS][EOS][PAD]")) & set(grok.control_ids)


# --- errors --------------------------------------------------------------------------------------------


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lone surrogate U\+D83E at index 2"):
        SMALL.encode("ab\ud83e")


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="bytes: give a str"):
        SMALL.encode(b"abc")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, SMALL.vocab_size], rf"ids\[1\] is {SMALL.vocab_size}: the vocabulary has ids 0 to"),
        ([-1], r"ids\[0\] is -1"),
        ([1, 2, 10**30], r"ids\[2\] is 10000"),
        ([1, 2.0], r"ids\[1\] is 2.0: token ids are whole numbers"),
        ([True], r"ids\[0\] is True"),
        (np.array([0.5]), "dtype float64"),
        (np.zeros((2, 2), np.int32), r"shape \(2, 2\)"),
        ("text", "ids is text"),
    ],
)
def test_bad_ids_are_named(ids: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.decode(ids)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": None}, ModelError, "holds no tokenizer"),
        ({"model": "none"}, ModelError, "holds no tokenizer"),
        ({"model": "gpt2"}, ModelError, "'gpt2': only SentencePiece"),
        ({"tokens": None}, FormatError, "tokens is missing"),
        ({"tokens": []}, FormatError, "tokens is missing, empty"),
        ({"scores": np.zeros(3, np.float32)}, FormatError, "scores is missing or is no array of"),
        ({"token_type": None}, FormatError, "token_type is missing"),
        ({"token_type": np.full(len(SMALL), 9)}, FormatError, "piece 0 has type 9"),
        ({"bos_token_id": 10**6}, FormatError, "bos id is 1000000"),
        ({"eos_token_id": "2"}, FormatError, "eos_token_id is '2'"),
        ({"eot_token_id": 10**6}, FormatError, "eot_token_id is 1000000"),
        ({"tokens": [b"\xff"] * len(SMALL)}, FormatError, "near 0 is not UTF-8"),
        ({"tokens": [b"same"] * len(SMALL)}, FormatError, "not a SentencePiece model"),
        ({"tokens": [b"a", b""] + [b"b"] * (len(SMALL) - 2)}, FormatError, r"tokens\[1\] is empty"),
        ({"token_type": np.ones(len(SMALL), np.int32)}, FormatError, "not a SentencePiece model"),
    ],
)
def test_bad_metadata_is_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    held = tokenizer_metadata(**{KEY + name: value for name, value in change.items()})
    with pytest.raises(error, match=message) as caught:
        Tokenizer.from_gguf(FakeFile(held))  # type: ignore[arg-type]
    assert str(caught.value).startswith("fake.gguf: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\xff\xff\xff\xff\x7f", bytes(1000)])
def test_bad_model_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"tokenizer\.model: not a SentencePiece model"):
        Tokenizer.from_file(path)


def test_missing_model_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Tokenizer.from_file(tmp_path / "none.model")


def test_ids_that_mean_none() -> None:
    held = tokenizer_metadata(**{KEY + "padding_token_id": 2**32 - 1, KEY + "bos_token_id": None})
    tokenizer = Tokenizer.from_gguf(FakeFile(held))  # type: ignore[arg-type]
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (None, None, EOS)


def test_metadata_switches() -> None:
    held = tokenizer_metadata(
        **{KEY + "add_bos_token": True, KEY + "add_space_prefix": False, KEY + "eot_token_id": 4}
    )
    tokenizer = Tokenizer.from_gguf(FakeFile(held))  # type: ignore[arg-type]
    assert tokenizer.add_bos
    assert tokenizer.end_ids == {EOS, 4}
    assert tokenizer.encode("hello") == tokenizer.encode("hello", add_dummy_prefix=False)
    assert tokenizer.decode(tokenizer.encode(" hello")) == " hello"


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="1 pieces, 2 scores and 1 types"):
        model_proto([b"a"], np.zeros(2, np.float32), [1], SpecialIds(0))


# --- the streaming detokenizer -------------------------------------------------------------------------

FIRST_BYTE = SMALL.piece_id("<0x00>")
assert FIRST_BYTE is not None


@cache
def reference() -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(SMALL._proto)
    return processor


def byte_ids(raw: bytes) -> list[int]:
    assert FIRST_BYTE is not None
    return [FIRST_BYTE + value for value in raw]


# Bytes of every role in UTF-8, whole characters cut anywhere, control pieces, words.
TOKENS = st.lists(
    st.one_of(
        st.integers(0, SMALL.vocab_size - 1).map(lambda token: [token]),
        st.sampled_from([0x41, 0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5]).map(
            lambda value: byte_ids(bytes([value]))
        ),
        st.text(max_size=3).map(lambda text: byte_ids(text.encode("utf-8", "surrogatepass"))),
        st.sampled_from([[PAD], [BOS], [EOS], [UNK]]),
    ),
    max_size=12,
).map(lambda groups: [token for group in groups for token in group])


@settings(deadline=None)  # the machine may be busy
@given(TOKENS)
@example(byte_ids("\ufffd".encode()))
@example(byte_ids(b"\xe2\x82") + SMALL.encode("x"))
@example(byte_ids(b"\xf0\x90\x80\x80\xf4\x90\x80\x80"))
@example([BOS, *SMALL.encode(" hello")])
def test_streamed_text_is_the_whole_decode(ids: list[int]) -> None:
    detokenizer = SMALL.detokenizer()
    shown = [detokenizer.feed(token) for token in ids]
    shown.append(detokenizer.finish())
    assert "".join(shown) == reference().decode(ids) == SMALL.decode(ids)


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=40).filter(lambda text: text.isprintable()))
def test_no_piece_shows_half_a_character(text: str) -> None:
    detokenizer = SMALL.detokenizer()
    seen = ""
    for token in byte_ids(text.encode()):
        seen += detokenizer.feed(token)
        assert text.startswith(seen)
    assert seen + detokenizer.finish() == text


def test_characters_come_when_they_are_whole() -> None:
    detokenizer = SMALL.detokenizer()
    shown = [detokenizer.feed(token) for token in byte_ids("é🤖".encode())]
    assert shown == ["", "é", "", "", "", "🤖"]
    assert not detokenizer.pending


def test_continuing_keeps_the_space() -> None:
    ids = SMALL.encode("hello")
    assert Detokenizer(SMALL).feed_all(ids) == "hello"
    assert Detokenizer(SMALL, continuing=True).feed_all(ids) == " hello"


@settings(deadline=None)  # the machine may be busy
@given(st.text(alphabet="abc helo worldUserAssistant:\n0123é☃", max_size=60))
def test_round_trip(text: str) -> None:
    assert SMALL.decode(SMALL.encode(text)) == text
    assert SMALL.detokenizer(continuing=True).feed_all(SMALL.encode(text, add_dummy_prefix=False)) == text
