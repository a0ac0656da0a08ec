"""ByT5's bytes: the ids are arithmetic, whatever the text."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, ByT5Tokenizer

from recipe_exp.data.tokens.byte_tokenizer import byte_tokenizer, reads_bytes
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer

BYTES = RecipeTokenizer.from_tokenizer(byte_tokenizer())
HARD = ("# Soup\n\n- 1 ½ cups {flour}\n", "a </s> and <pad>, <0x41><extra_id_3>", " two  spaces ", "", "x < y", "é🍲")
TEXTS = st.text() | st.text(alphabet="<>/sx04pad_extri \n½{}") | st.sampled_from(HARD)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_an_id_is_a_byte_and_three(text: str) -> None:
    content = text.encode("utf-8", "replace")
    text = content.decode()
    ids = BYTES.encode(text)
    assert ids == [*(byte + 3 for byte in content), 1]
    assert BYTES.decode(ids) == text == BYTES.normalise(text)
    assert BYTES.is_normal(text)
    assert BYTES.encode_batch([text, "a"]) == [ids, [100, 1]]


def test_it_is_the_one_of_transformers() -> None:
    theirs = ByT5Tokenizer()
    assert BYTES.vocab_size == len(theirs) == 384
    for text in HARD:
        if "<" not in text:
            assert theirs(text)["input_ids"] == BYTES.encode(text)


def test_a_folder_without_a_tokenizers_file_is_read(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    for content, expected in (({"tokenizer_class": "ByT5Tokenizer"}, True), ({"tokenizer_class": "T5"}, False)):
        config.write_text(json.dumps(content))
        assert reads_bytes(tmp_path) is expected
    config.write_text("[")
    assert not reads_bytes(tmp_path)
    config.write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    read = RecipeTokenizer.from_pretrained(tmp_path)
    assert read.fingerprint == BYTES.fingerprint
    read.save(tmp_path / "saved")
    assert RecipeTokenizer.from_pretrained(tmp_path / "saved").fingerprint == BYTES.fingerprint
    plain = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in HARD:
        assert plain(text)["input_ids"] == BYTES.encode(text)
        assert plain.decode(BYTES.encode(text), skip_special_tokens=True) == text
