"""BART's byte pairs: no text is changed, whatever is in it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.errors import ModelError
from recipe_exp.recipes import render_markdown

CONTROL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
RECIPES = [render_markdown(recipe) for recipe in itertools.islice(sample_recipes(), 100)]
HARD = ("# Soup\n\n- 1 ½ cups {flour}\n", "a </s> and <pad>, <s><mask>", " two  spaces ", "", "x < y", "é🍲", "\r\n\t")
TEXTS = st.text() | st.text(alphabet="<>/spadmkun \n½{}") | st.sampled_from(HARD)


def bare() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(RECIPES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


@pytest.fixture(scope="module")
def codec() -> RecipeTokenizer:
    return RecipeTokenizer.from_tokenizer(bare())


@given(TEXTS)
def test_every_text_comes_back_as_it_was(codec: RecipeTokenizer, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    first, *inside, last = codec.encode(text)
    assert (first, last) == (0, codec.eos_id) == (0, 2)
    assert not {*range(len(CONTROL))} & {*inside}
    assert codec.decode([first, *inside, last]) == text == codec.normalise(text)
    assert codec.is_normal(text)
    assert codec.encode_batch([text, "a"])[0] == [first, *inside, last]


def test_ids_are_those_that_the_tokenizer_gave() -> None:
    theirs, ours = bare(), RecipeTokenizer.from_tokenizer(bare())
    assert (ours.pad_id, ours.eos_id, ours.unk_id) == (1, 2, 3)
    assert ours.vocab_size == theirs.get_vocab_size()
    for text in RECIPES[:20]:
        assert ours.encode(text) == theirs.encode(text).ids


def test_saved_and_read_again_it_is_itself(codec: RecipeTokenizer, tmp_path: Path) -> None:
    codec.save(tmp_path)
    assert RecipeTokenizer.from_pretrained(tmp_path).fingerprint == codec.fingerprint
    plain = AutoTokenizer.from_pretrained(tmp_path)
    for text in HARD:
        assert plain(text)["input_ids"] == codec.encode(text)
        assert plain.decode(codec.encode(text), skip_special_tokens=True) == text


def test_other_byte_pairs_are_refused() -> None:
    spec = json.loads(bare().to_str())
    vocabulary = spec["model"]["vocab"]
    swapped = {**vocabulary, "<s>": vocabulary["<pad>"], "<pad>": vocabulary["<s>"]}
    without_a_byte = {("other" if piece == "Ċ" else piece): index for piece, index in vocabulary.items()}
    for changed in (swapped, without_a_byte):
        spec["model"] = {"type": "BPE", "vocab": changed, "merges": []}
        with pytest.raises(ModelError, match=r"begins with .* or lacks a byte; expected a byte-level"):
            RecipeTokenizer.from_tokenizer(Tokenizer.from_str(json.dumps(spec)))
