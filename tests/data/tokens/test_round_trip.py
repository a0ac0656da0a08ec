from __future__ import annotations

import json
import threading
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe_exp.config.data import DataConfig
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.tokens import cache_builder
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache
from recipe_exp.data.tokens.round_trip import COMBINATIONS, SPACES, RoundTrips
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.data.tokens.vocabulary import train_unigram

CHARACTERS = st.sampled_from([*"abc1 <>/▁½⅓²☃é™\n\t\r\x0b\x00\xa0⁄-*", "e\u0301", "</s>", "<extra_id_7>", "가", "1½"])
TEXTS = st.one_of(
    st.lists(CHARACTERS, max_size=12).map("".join), st.text(max_size=12), st.text(st.characters(max_codepoint=127))
)


@pytest.fixture(scope="module")
def tokenizer() -> RecipeTokenizer:
    texts = (text for one in islice(sample_recipes(), 60) for text in (one.title, *one.ingredients, *one.instructions))
    return RecipeTokenizer.from_tokenizer(train_unigram([*texts, "é x\u0301 2 1/2 / ⁄ < > * -"], 500))


@pytest.fixture(scope="module")
def lower_casing(tokenizer: RecipeTokenizer) -> RecipeTokenizer:
    """A tokenizer that does not leave plain English as it is."""
    spec = json.loads(tokenizer._backend.to_str())
    spec["normalizer"]["normalizers"].insert(1, {"type": "Lowercase"})
    return RecipeTokenizer(type(tokenizer._backend).from_str(json.dumps(spec)))


@pytest.mark.parametrize("name", ["tokenizer", "lower_casing"])
@given(text=TEXTS)
def test_exact_is_what_decoding_gives_back(name: str, text: str, request: pytest.FixtureRequest) -> None:
    codec: RecipeTokenizer = request.getfixturevalue(name)
    round_trips, ids = RoundTrips(codec), codec.encode(text)
    assert codec.is_normal(text) == (codec.normalise(text) == text)
    assert round_trips.is_exact(text, ids) == (codec.decode(ids) == text)


@given(text=TEXTS)
def test_every_text_that_is_not_exact_has_a_cause(tokenizer: RecipeTokenizer, text: str) -> None:
    round_trips = RoundTrips(tokenizer)
    if round_trips.is_exact(text, tokenizer.encode(text)):
        return
    causes = round_trips.causes(text)
    assert sum(causes.values()) > 0
    for what, count in causes.items():
        if len(what) == 1:
            assert tokenizer.decode(tokenizer.encode(what)) == round_trips.returned(what) != what
            assert count == text.count(what)
    if COMBINATIONS in causes:
        assert causes == {COMBINATIONS: 1}


@pytest.mark.parametrize(
    ("text", "causes"),
    [
        ("a  b   c", {SPACES: 2}),
        (" a\nb ", {SPACES: 2}),
        ("1½ cups, ½ egg ☃", {"½": 2, "☃": 1}),
        ("a\tb", {"\t": 1}),
        ("e\u0301", {COMBINATIONS: 1}),
    ],
)
def test_causes_are_named(tokenizer: RecipeTokenizer, text: str, causes: dict[str, int]) -> None:
    round_trips = RoundTrips(tokenizer)
    assert not round_trips.is_exact(text, tokenizer.encode(text))
    assert dict(round_trips.causes(text)) == causes


STEPS = ("Stir.", "Stir ☃☃ well.", "Add ½ cup.", "Add 1/2 cup, ½ spoon.", "Wait  long.", "Stir.", "Chill ☃.")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """Splits from elsewhere, which nobody cleaned."""
    folder = tmp_path / "splits"
    folder.mkdir()
    lines = [
        json.dumps({"title": f"Dish {n}", "ingredients": ["1 egg"], "instructions": [step]})
        for n, step in enumerate(STEPS)
    ]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name in ("validation", "test"):
        (folder / f"{name}.jsonl").touch()
    return folder


def open_cache(folder: Path, cache_dir: Path, tokenizer: RecipeTokenizer, **changes: object) -> TokenCache:
    config = DataConfig.model_validate({"format": "prepared", "path": str(folder), **changes})
    return build_or_open_cache(config, cache_dir=cache_dir, tokenizer=tokenizer, num_workers=1)


def test_the_card_of_a_cache_tells_the_share_and_the_causes(
    prepared: Path, tmp_path: Path, tokenizer: RecipeTokenizer
) -> None:
    cache = open_cache(prepared, tmp_path, tokenizer)
    card = cache.card.splits["train"]
    texts = [example.target_text for example in cache.examples("train")]
    inexact = [text for text in texts if tokenizer.decode(tokenizer.encode(text)) != text]
    assert card.inexact_target_fraction == pytest.approx(len(inexact) / len(texts)) == pytest.approx(5 / 7)
    assert [(one.what, one.count, one.becomes) for one in card.inexact_causes] == [
        ("☃", 3, ""),
        ("½", 2, "1/2"),
        (SPACES, 1, None),
    ]
    assert cache.card.splits["test"].inexact_target_fraction == 0
    cut = open_cache(prepared, tmp_path, tokenizer, max_target_tokens=8).card.splits["train"]
    assert cut.truncated_target_fraction == 1
    assert cut.inexact_target_fraction == card.inexact_target_fraction, "what is cut counts too"


def test_a_build_that_goes_on_counts_the_same(
    prepared: Path, tmp_path: Path, tokenizer: RecipeTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_cache(prepared, tmp_path / "whole", tokenizer).card
    monkeypatch.setattr(cache_builder, "_CHUNK_EXAMPLES", 2)
    monkeypatch.setattr(cache_builder, "_BLOCK_CHUNKS", 1)
    appended = 0
    append = cache_builder._append

    def interrupt(*arguments: object) -> None:
        nonlocal appended
        appended += 1
        if appended == 3:
            raise KeyboardInterrupt
        append(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_builder, "_append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_cache(prepared, tmp_path / "cut", tokenizer)
    assert open_cache(prepared, tmp_path / "cut", tokenizer).card == whole
    assert appended > 3


def test_threads_may_share_one(tokenizer: RecipeTokenizer) -> None:
    round_trips, found = RoundTrips(tokenizer), Counter[str]()
    lock = threading.Lock()

    def look() -> None:
        for _ in range(50):
            causes = round_trips.causes("☃½²™")
            with lock:
                found.update(causes)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == Counter(dict.fromkeys("☃½²™", 200))
