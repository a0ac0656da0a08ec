from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipe_exp.config.data import DataConfig
from recipe_exp.data.loader import make_window
from recipe_exp.data.plan import WindowPlan
from recipe_exp.data.preparation.stored_record import StoredRecord, computed_score
from recipe_exp.data.prompts import TEMPLATES
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache

MIX = {"title": 1.0, "title_and_ingredients": 2.0, "Cook {title}!": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def open_cache(folder: Path, **settings: Any) -> TokenCache:
    section = {"format": "sample", "max_examples": 80, "validation_fraction": 0.2, "test_fraction": 0.1, **settings}
    config = DataConfig.model_validate(section)
    return build_or_open_cache(config, cache_dir=folder, tokenizer=None, vocab_size=500, num_workers=1)


def encoded(cache: TokenCache, text: str) -> list[int]:
    return cache.tokenizer.encode_batch([text])[0]


class TestSeveralPrompts:
    def test_each_example_has_one_target_and_a_source_of_each_prompt(self, folder: Path) -> None:
        cache = open_cache(folder, prompts=MIX, prompt="ingredients")
        split = cache.split("train")
        assert split.num_prompts == len(MIX)
        assert split.all_source_lengths.shape == (len(split), len(MIX))
        for prompt, template in enumerate(cache.prompts.templates):
            for index, example in enumerate(cache.examples("train", prompt)):
                assert template.replace("{title}", example.title).partition("{")[0] in example.source_text
                assert split.source(index, prompt).tolist() == encoded(cache, example.source_text)
                assert split.all_source_lengths[index, prompt] == len(encoded(cache, example.source_text))
                assert split.target(index).tolist() == encoded(cache, example.target_text)

    def test_held_out_examples_have_the_prompt_of_evaluation_alone(self, folder: Path) -> None:
        cache = open_cache(folder, prompts=MIX, prompt="ingredients", paraphrase=True)
        split = cache.split("validation")
        assert split.num_prompts == 1
        for index, example in enumerate(cache.examples("validation")):
            assert example.source_text == TEMPLATES["ingredients"].format(
                ingredients=", ".join(example.prompt_ingredients)
            )
            assert split.source(index).tolist() == encoded(cache, example.source_text)

    def test_the_loader_hands_out_the_encoding_of_the_drawn_templates_text(self, folder: Path) -> None:
        cache = open_cache(folder, prompts=MIX)
        split = cache.split("train")
        plan = WindowPlan(len(split), 16, 0, cache.data_fingerprint, cache.prompts.weights)
        examples = [cache.examples("train", prompt) for prompt in range(len(MIX))]
        for step in range(2 * plan.windows_per_epoch):
            drawn = dict(zip(plan.window(step).tolist(), plan.prompts(step).tolist(), strict=True))
            for batch in make_window(split, plan, step, 600, 0, 1).micro_batches:
                sources = batch.source_ids.split(batch.source_lengths.tolist())
                for index, ids in zip(batch.indices.tolist(), sources, strict=True):
                    assert ids.tolist() == encoded(cache, examples[drawn[index]][index].source_text)

    def test_other_weights_open_the_same_cache_and_other_prompts_another(self, folder: Path) -> None:
        cache = open_cache(folder, prompts=MIX)
        reweighted = open_cache(folder, prompts={name: 7.0 - weight for name, weight in MIX.items()})
        assert cache.fingerprint == reweighted.fingerprint
        assert cache.prompts.weights != reweighted.prompts.weights
        others = [
            open_cache(folder),
            open_cache(folder, prompts=MIX, prompt="title"),
            open_cache(folder, prompt="title"),
        ]
        assert len({cache.fingerprint, *(other.fingerprint for other in others)}) == 4
        assert {cache.data_fingerprint} == {other.data_fingerprint for other in others}

    def test_cut_prompts_are_counted_over_all_of_them(self, folder: Path) -> None:
        whole = open_cache(folder, prompts=MIX)
        lengths = whole.split("train").all_source_lengths
        limit = max(int(np.median(lengths)), 8)
        # Another limit leaves the texts that the tokenizer is trained on as they are, so the lengths can be compared.
        cut = open_cache(folder, prompts=MIX, max_source_tokens=limit)
        np.testing.assert_array_equal(cut.split("train").all_source_lengths, np.minimum(lengths, limit))
        share = float(np.mean(lengths > limit))
        assert 0 < share < 1
        assert cut.card.splits["train"].truncated_source_fraction == pytest.approx(share)
        for prompt in range(len(MIX)):
            assert cut.split("train").source(0, prompt)[-1] == cut.tokenizer.eos_id


class TestQualityScores:
    def test_they_are_those_of_the_records(self, tmp_path: Path) -> None:
        given = {f"Soup {number}": number / 64 for number in range(40)}
        recipe = {"ingredients": ["1 onion", "2 cups water"], "instructions": ["Chop the onion.", "Boil it in water."]}
        lines = [{"title": title, **recipe, "quality_score": score} for title, score in given.items()]
        path = tmp_path / "recipes.jsonl"
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
        cache = open_cache(tmp_path / "cache", format="jsonl", path=str(path), max_examples=None, duplicates="keep")
        for name in ("train", "validation", "test"):
            scores = cache.split(name).quality_scores.tolist()
            assert scores == [given[example.title] for example in cache.examples(name)]
            assert scores

    def test_a_record_without_one_gets_the_computed_one(self, tmp_path: Path) -> None:
        whole = StoredRecord("Onion Soup", ("1 onion",), ("Boil the onion in water for 20 minutes.",))
        pair = StoredRecord(input="Cook something.", output="Fry it")
        for split in ("train", "validation", "test"):
            lines = [
                {"title": whole.title, "ingredients": whole.ingredients, "instructions": whole.instructions},
                {"input": pair.input, "output": pair.output},
            ]
            (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        config = DataConfig(format="prepared", path=str(tmp_path))
        cache = build_or_open_cache(
            config, cache_dir=tmp_path / "cache", tokenizer=open_cache(tmp_path / "other").tokenizer, num_workers=1
        )
        expected = [computed_score(whole.content), computed_score(pair.content)]
        assert cache.split("train").quality_scores.tolist() == pytest.approx(expected)
        assert expected[0] > expected[1]
