from __future__ import annotations

import hashlib
import itertools
import os
import random
import string
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.tokens import vocabulary
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.data.tokens.vocabulary import CONTROL_PIECES, SENTINELS, train_unigram
from recipe_exp.errors import DataError
from recipe_exp.recipes import render_markdown

SIZE = 800
TEXTS = [render_markdown(recipe) for recipe in itertools.islice(sample_recipes(), 2_000)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_unigram(TEXTS, SIZE)


def encode(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


def test_ids_are_laid_out_as_in_t5(tokenizer: Tokenizer) -> None:
    pieces = [tokenizer.id_to_token(index) for index in range(SIZE)]
    assert tokenizer.get_vocab_size() == SIZE
    assert tokenizer.id_to_token(SIZE) is None
    assert pieces[:3] == ["<pad>", "</s>", "<unk>"] == list(CONTROL_PIECES)
    assert pieces[-100:] == [f"<extra_id_{number}>" for number in range(99, -1, -1)] == list(SENTINELS)
    assert len(set(pieces)) == SIZE


def test_a_sequence_ends_with_the_end_of_sequence_piece(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("flour").tokens[-1] == "</s>"
    assert tokenizer.encode("flour").ids[-1] == 1


def test_control_pieces_and_sentinels_are_not_decoded(tokenizer: Tokenizer) -> None:
    ids = [0, *tokenizer.encode("1 cup flour").ids, SIZE - 1]
    assert tokenizer.decode(ids) == "1 cup flour"


def test_a_recipe_takes_few_tokens(tokenizer: Tokenizer) -> None:
    lines = [line for text in TEXTS[:200] for line in text.split("\n")]
    pieces = sum(len(encode(tokenizer, line)) for line in lines) + len(lines)
    assert pieces / 200 < 130


def test_frequent_words_are_one_piece(tokenizer: Tokenizer) -> None:
    assert encode(tokenizer, "Chop the carrots and serve.") == ["▁Chop", "▁the", "▁carrots", "▁and", "▁serve", "."]


def test_numbers_are_spelt_in_digits(tokenizer: Tokenizer) -> None:
    assert encode(tokenizer, "350 degrees") == ["▁3", "5", "0", "▁degrees"]
    assert not [piece for piece in tokenizer.get_vocab() if sum(map(str.isdigit, piece)) > 1 and piece not in SENTINELS]


def test_the_markup_of_a_recipe_is_made_of_few_pieces(tokenizer: Tokenizer) -> None:
    assert encode(tokenizer, "**Ingredients:**") == ["▁**", "Ingredients", ":", "**"]
    assert encode(tokenizer, "- 1/2 cup") == ["▁-", "▁1", "/", "2", "▁cup"]


def test_text_is_normalised_as_t5_does(tokenizer: Tokenizer) -> None:
    assert encode(tokenizer, " ﬂour\t ２\u200bcups\n") == encode(tokenizer, "flour 2 cups")


def test_unseen_words_are_spelt_without_unknown_pieces(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("Zesty quokka jambalaya").ids) == "Zesty quokka jambalaya"


def test_every_printable_ascii_character_is_known(tokenizer: Tokenizer) -> None:
    known = set(tokenizer.get_vocab())
    assert set(string.printable) - set(string.whitespace) <= known


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20), min_size=1, max_size=5))
def test_every_character_of_the_texts_is_known(texts: list[str]) -> None:
    texts = [*texts, "flour"]
    tokenizer = RecipeTokenizer.from_tokenizer(train_unigram(texts, 1_000))
    assert not any(tokenizer.count_unknown(ids) for ids in tokenizer.encode_batch(texts))


def test_the_same_bytes_in_every_process(tokenizer: Tokenizer) -> None:
    program = (
        "import hashlib, itertools\n"
        "from recipe_exp.data.sample import sample_recipes\n"
        "from recipe_exp.data.tokens.vocabulary import train_unigram\n"
        "from recipe_exp.recipes import render_markdown\n"
        "texts = map(render_markdown, itertools.islice(sample_recipes(), 2_000))\n"
        "print(hashlib.sha256(train_unigram(texts, 800).to_str().encode()).hexdigest())"
    )
    expected = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        finished = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert finished.stdout.strip() == expected


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_texts_plays_no_part(draws: random.Random) -> None:
    shuffled = TEXTS[:60]
    draws.shuffle(shuffled)
    assert train_unigram(shuffled, 400).to_str() == train_unigram(TEXTS[:60], 400).to_str()


def test_of_too_many_words_the_frequent_ones_are_learnt_and_every_character_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vocabulary, "_MAX_COUNTED_WORDS", 200)
    monkeypatch.setattr(vocabulary, "_TEXTS_AT_ONCE", 10)
    rare = [chr(0x4E00 + number) for number in range(3000)]
    texts = [f"butter flour {word} sugar" for word in rare]
    words, characters = vocabulary._count_words(texts)
    assert len(words) < 300
    assert words["▁butter"] == words["▁flour"] == words["▁sugar"] == 3000
    assert characters >= {*rare}
    tokenizer = train_unigram(texts, 4000)
    assert tokenizer.encode("butter flour sugar").tokens[:3] == ["▁butter", "▁flour", "▁sugar"]


def test_ten_thousand_recipes_take_seconds() -> None:
    start = time.perf_counter()
    train_unigram(TEXTS * 5, SIZE)
    assert time.perf_counter() - start < 10


def test_texts_without_enough_pieces_give_fewer_ids_without_gaps() -> None:
    tokenizer = train_unigram(["salt and oil"], 10_000)
    size = tokenizer.get_vocab_size()
    assert size < 300
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))
    assert tokenizer.id_to_token(size - 1) == "<extra_id_0>"


@pytest.mark.parametrize("texts", [[], ["", " \n "]])
def test_no_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(DataError, match="no text"):
        train_unigram(texts, SIZE)


def test_a_vocabulary_without_room_for_the_characters_is_refused_with_the_size_that_has() -> None:
    with pytest.raises(DataError, match=r"vocab_size=150: .* at least 198 pieces"):
        train_unigram(["flour"], 150)
    assert train_unigram(["flour"], 198).get_vocab_size() == 198
