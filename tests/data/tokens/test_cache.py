from __future__ import annotations

import hashlib
import json
import logging
import random
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from recipe_exp.config.data import DataConfig
from recipe_exp.data import contents
from recipe_exp.data.contents import SAMPLE_VERSION, open_contents
from recipe_exp.data.preparation import intake_stage, pipeline
from recipe_exp.data.preparation.intake import Intake
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.split import SPLITS, split_of
from recipe_exp.data.tokens import cache as cache_module
from recipe_exp.data.tokens import cache_builder
from recipe_exp.data.tokens.cache import TOKENIZER_TRAINING_VERSION, TokenCache, build_or_open_cache
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.data.tokens.vocabulary import train_unigram
from recipe_exp.errors import ConfigError, DataError
from recipe_exp.recipes.recipe import Recipe

NUM_RECIPES = 60
FRACTIONS = {"validation_fraction": 0.2, "test_fraction": 0.1}


def line_of(recipe: Recipe, **more: object) -> str:
    return json.dumps(
        {"title": recipe.title, "ingredients": recipe.ingredients, "instructions": recipe.instructions, **more}
    )


@pytest.fixture(scope="session")
def recipes() -> list[Recipe]:
    return list(islice(sample_recipes(), NUM_RECIPES))


@pytest.fixture(scope="session")
def tokenizer(recipes: list[Recipe]) -> RecipeTokenizer:
    texts = (text for recipe in recipes for text in (recipe.title, *recipe.ingredients, *recipe.instructions))
    return RecipeTokenizer.from_tokenizer(train_unigram(texts, 600))


@pytest.fixture
def data(tmp_path: Path, recipes: list[Recipe]) -> Path:
    path = tmp_path / "data" / "recipes.jsonl"
    path.parent.mkdir()
    path.write_text("".join(line_of(recipe) + "\n" for recipe in recipes), encoding="utf-8")
    return path


def config_of(path: Path, **settings: Any) -> DataConfig:
    return DataConfig.model_validate({"path": str(path), **FRACTIONS, **settings})


def open_cache(path: Path, tokenizer: RecipeTokenizer | None, **settings: Any) -> TokenCache:
    return build_or_open_cache(
        config_of(path, **settings),
        cache_dir=path.parent.parent / "cache",
        tokenizer=tokenizer,
        vocab_size=None if tokenizer else 500,
        num_workers=1,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """What every file below a folder holds, by its path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def forbid_building(monkeypatch: pytest.MonkeyPatch) -> Any:
    def forbid() -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("built again")

        monkeypatch.setattr(cache_module, "build_cache", refuse)
        monkeypatch.setattr(cache_module, "prepare", refuse)

    return forbid


class TestContent:
    def test_every_recipe_is_there_with_its_texts_and_tokens(
        self, data: Path, tokenizer: RecipeTokenizer, recipes: list[Recipe]
    ) -> None:
        cache = open_cache(data, tokenizer)
        titles = []
        for name in SPLITS:
            split, examples = cache.split(name), cache.examples(name)
            assert len(split) == len(examples) == cache.report.num_examples[name] > 0
            for index, example in enumerate(examples):
                assert split.source(index).tolist() == tokenizer.encode_batch([example.source_text])[0]
                assert split.target(index).tolist() == tokenizer.encode_batch([example.target_text])[0]
                assert split_of(example.title, 0.2, 0.1) == name
                titles.append(example.title)
        assert sorted(titles) == sorted(recipe.title for recipe in recipes)

    def test_examples_are_a_sequence(self, data: Path, tokenizer: RecipeTokenizer) -> None:
        examples = open_cache(data, tokenizer).examples("train")
        everything = list(examples)
        assert examples[-1] == everything[-1]
        assert examples[2:9:3] == everything[2:9:3]
        with pytest.raises(IndexError):
            examples[len(examples)]

    def test_truncation_keeps_the_end_of_sequence_and_is_reported(self, data: Path, tokenizer: RecipeTokenizer) -> None:
        whole = open_cache(data, tokenizer).split("train")
        limit_source, limit_target = int(np.median(whole.source_lengths)), int(np.median(whole.target_lengths))
        cache = open_cache(data, tokenizer, max_source_tokens=limit_source, max_target_tokens=limit_target)
        split = cache.split("train")
        np.testing.assert_array_equal(split.source_lengths, np.minimum(whole.source_lengths, limit_source))
        np.testing.assert_array_equal(split.target_lengths, np.minimum(whole.target_lengths, limit_target))
        for index in range(len(split)):
            for cut, full in ((split.source(index), whole.source(index)), (split.target(index), whole.target(index))):
                assert cut[-1] == tokenizer.eos_id
                assert cut[:-1].tolist() == full[: len(cut) - 1].tolist()
        card = cache.card.splits["train"]
        assert card.truncated_source_fraction == pytest.approx(np.mean(whole.source_lengths > limit_source))
        assert card.truncated_target_fraction == pytest.approx(np.mean(whole.target_lengths > limit_target))

    def test_the_card_counts_tokens_without_padding_and_unknown_ones(
        self, data: Path, tokenizer: RecipeTokenizer
    ) -> None:
        with data.open("a", encoding="utf-8") as file:
            file.write(line_of(Recipe("Toast", ("bread",), ("Toast it ☃ ☃.",))) + "\n")
        cache = open_cache(data, tokenizer, validation_fraction=0.0, test_fraction=0.0)
        split, card = cache.split("train"), cache.card.splits["train"]
        num_tokens = int(split.source_lengths.sum() + split.target_lengths.sum())
        assert card.num_examples == NUM_RECIPES + 1
        assert card.num_source_tokens + card.num_target_tokens == num_tokens
        ids = [text.tolist() for index in range(len(split)) for text in (split.source(index), split.target(index))]
        assert card.unknown_token_fraction == pytest.approx(sum(map(tokenizer.count_unknown, ids)) / num_tokens)
        assert card.unknown_token_fraction > 0
        on_disk = json.loads((cache.folder / "card.json").read_text())
        assert on_disk["splits"]["train"]["num_target_tokens"] == card.num_target_tokens

    def test_an_empty_split_is_empty(self, data: Path, tokenizer: RecipeTokenizer) -> None:
        cache = open_cache(data, tokenizer, test_fraction=0.0)
        assert len(cache.split("test")) == len(cache.examples("test")) == 0
        assert list(cache.examples("test")) == []

    def test_threads_change_nothing(
        self, data: Path, tokenizer: RecipeTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cache_builder, "_CHUNK_EXAMPLES", 7)
        caches = [
            build_or_open_cache(
                config_of(data), cache_dir=data.parent / f"{count}", tokenizer=tokenizer, num_workers=count
            )
            for count in (1, 4)
        ]
        assert caches[0].card == caches[1].card
        assert files_of(caches[0].folder) == files_of(caches[1].folder)

    def test_progress_is_reported(self, data: Path, tokenizer: RecipeTokenizer) -> None:
        calls: list[tuple[str, int]] = []
        cache = build_or_open_cache(
            config_of(data),
            cache_dir=data.parent / "cache",
            tokenizer=tokenizer,
            progress=lambda stage, count: calls.append((stage, count)),
        )
        last = dict(calls)
        assert last["reading"] == NUM_RECIPES
        assert last["tokenizing train"] == cache.report.num_examples["train"]

    def test_the_sample_needs_no_file(self, tmp_path: Path, tokenizer: RecipeTokenizer) -> None:
        config = DataConfig(format="sample", max_examples=30)
        cache = build_or_open_cache(config, cache_dir=tmp_path, tokenizer=tokenizer)
        assert sum(cache.report.num_examples.values()) == 30
        more = build_or_open_cache(
            DataConfig(format="sample", max_examples=31), cache_dir=tmp_path, tokenizer=tokenizer
        )
        assert more.data_fingerprint != cache.data_fingerprint


class TestTrainedTokenizer:
    def test_it_is_trained_on_the_training_split_and_kept(
        self, data: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: RecipeTokenizer
    ) -> None:
        seen: list[str] = []

        def record(texts: Any, vocab_size: int) -> Any:
            seen.extend(texts)
            return train_unigram(iter(seen), vocab_size)

        monkeypatch.setattr(cache_builder, "train_unigram", record)
        cache = open_cache(data, None)
        assert seen == [text for one in cache.examples("train") for text in (one.source_text, one.target_text)]
        assert cache.tokenizer.vocab_size <= 500

    def test_a_second_opening_reads_the_same_tokenizer(self, data: Path, forbid_building: Any) -> None:
        first = open_cache(data, None)
        forbid_building()
        second = open_cache(data, None)
        split, examples = second.split("validation"), second.examples("validation")
        assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
        assert [split.target(index).tolist() for index in range(len(split))] == second.tokenizer.encode_batch(
            [example.target_text for example in examples]
        )

    def test_the_vocabulary_size_is_part_of_the_address(self, data: Path) -> None:
        caches = [
            build_or_open_cache(config_of(data), cache_dir=data.parent, tokenizer=None, vocab_size=size)
            for size in (400, 500)
        ]
        assert caches[0].fingerprint != caches[1].fingerprint
        assert caches[0].data_fingerprint == caches[1].data_fingerprint

    def test_nothing_to_train_on_is_one_line(self, tmp_path: Path) -> None:
        title = next(f"Toast {number}" for number in range(100) if split_of(f"Toast {number}", 0.0, 0.9) == "test")
        path = tmp_path / "data" / "a.jsonl"
        path.parent.mkdir()
        path.write_text(line_of(Recipe(title, ("bread",), ("Do.",))))
        with pytest.raises(DataError, match="no example is left in the training split"):
            open_cache(path, None, validation_fraction=0.0, test_fraction=0.9)

    def test_a_version_stands_for_the_trained_vocabulary(self, recipes: list[Recipe]) -> None:
        """Caches are found by this version: if the digest has to change, the version has to rise with it."""
        texts = [
            text for recipe in TRAINING_RECIPES for text in (recipe.title, *recipe.ingredients, *recipe.instructions)
        ]
        trained = RecipeTokenizer.from_tokenizer(train_unigram(texts, 300))
        digest = hashlib.sha256(repr(trained.encode_batch(["\n".join(texts), *texts])).encode()).hexdigest()
        assert (TOKENIZER_TRAINING_VERSION, digest[:16]) == (1, "8fd35a2a028715fc")


TRAINING_RECIPES = (
    Recipe(
        "Buttered Toast", ("2 slices of bread", "1 1/2 tablespoons butter"), ("Toast the bread.", "Butter the toast.")
    ),
    Recipe("Bread and Butter Pudding", ("8 slices of bread", "2 oz. butter", "3 eggs"), ("Bake it for 40 minutes.",)),
)


class TestAddress:
    @pytest.mark.parametrize(
        "change",
        [{"max_source_tokens": 255}, {"max_target_tokens": 511}, {"prompt": "title"}],
        ids=lambda change: next(iter(change)),
    )
    def test_a_key_that_changes_tokens_alone_changes_the_fingerprint_of_the_cache(
        self, data: Path, tokenizer: RecipeTokenizer, change: dict[str, Any]
    ) -> None:
        one, other = open_cache(data, tokenizer), open_cache(data, tokenizer, **change)
        assert one.fingerprint != other.fingerprint
        assert one.data_fingerprint == other.data_fingerprint
        assert one.prepared.folder == other.prepared.folder

    @pytest.mark.parametrize(
        "change",
        [
            {"min_quality_score": 1.0, "max_rejected_fraction": 1.0},
            {"validation_fraction": 0.5},
            {"test_fraction": 0.5},
            {"max_examples": NUM_RECIPES - 1},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_a_key_that_changes_the_splits_changes_both_fingerprints(
        self, data: Path, tokenizer: RecipeTokenizer, change: dict[str, Any]
    ) -> None:
        with data.open("a", encoding="utf-8") as file:
            file.write(line_of(Recipe("Toast", ("2 slices bread",), ("Toast it.",)), quality_score=1.0) + "\n")
        one, other = open_cache(data, tokenizer), open_cache(data, tokenizer, **change)
        assert one.data_fingerprint != other.data_fingerprint
        assert one.fingerprint != other.fingerprint

    def test_settings_that_leave_the_splits_the_same_share_the_tokens(
        self, data: Path, tokenizer: RecipeTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = open_cache(data, tokenizer)
        monkeypatch.setattr(cache_module, "build_cache", lambda *_: pytest.fail("tokenized again"))
        for change in ({"min_quality_score": 0.01}, {"max_examples": NUM_RECIPES}, {"duplicates": "keep"}):
            other = open_cache(data, tokenizer, **change)
            assert other.folder == one.folder
            assert other.prepared.folder != one.prepared.folder
            assert other.data_fingerprint == one.data_fingerprint

    def test_one_letter_of_the_data_changes_both_fingerprints(self, data: Path, tokenizer: RecipeTokenizer) -> None:
        before = open_cache(data, tokenizer)
        data.write_bytes(data.read_bytes().replace(b"a", b"o", 1))
        after = open_cache(data, tokenizer)
        assert before.fingerprint != after.fingerprint
        assert before.data_fingerprint != after.data_fingerprint

    def test_another_tokenizer_is_another_cache(self, data: Path, tokenizer: RecipeTokenizer) -> None:
        other = RecipeTokenizer.from_tokenizer(train_unigram(["another text"], 300))
        assert open_cache(data, tokenizer).fingerprint != open_cache(data, other).fingerprint

    def test_where_the_data_lies_and_what_is_tolerated_change_nothing(
        self, data: Path, tokenizer: RecipeTokenizer, forbid_building: Any
    ) -> None:
        before = open_cache(data, tokenizer)
        forbid_building()
        moved = data.with_name("elsewhere.jsonl")
        data.rename(moved)
        template = "Write a recipe for {title} using: {ingredients}"
        after = open_cache(moved, tokenizer, max_rejected_fraction=1.0, cache_dir="unused", prompt=template)
        assert after.fingerprint == before.fingerprint

    def test_the_sample_version_stands_for_its_recipes(self) -> None:
        """Caches are found by `SAMPLE_VERSION`: if this digest has to change, the version has to rise with it."""
        digest = hashlib.sha256(repr(list(islice(sample_recipes(), 2000))).encode()).hexdigest()
        assert (SAMPLE_VERSION, digest[:16]) == (1, "b76662e810c6a73a")


class TestContents:
    def config(self, path: Path) -> DataConfig:
        return DataConfig(path=str(path))

    def test_a_known_file_is_not_read_again(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(contents, "_SETTLED_SECONDS", -1.0)
        before = open_contents(self.config(data), tmp_path).fingerprint
        hashed: list[Path] = []
        monkeypatch.setattr(contents, "hash_of", lambda file: hashed.append(file) or "other")
        assert open_contents(self.config(data), tmp_path).fingerprint == before
        assert not hashed
        data.write_bytes(data.read_bytes())
        assert open_contents(self.config(data), tmp_path).fingerprint != before
        assert hashed == [data]

    def test_a_file_that_was_just_written_is_not_trusted(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_contents(self.config(data), tmp_path)
        hashed: list[Path] = []
        monkeypatch.setattr(contents, "hash_of", lambda file: hashed.append(file) or "other")
        open_contents(self.config(data), tmp_path)
        assert hashed == [data]

    def test_a_damaged_memory_of_hashes_is_no_harm(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(contents, "_SETTLED_SECONDS", -1.0)
        before = open_contents(self.config(data), tmp_path).fingerprint
        (tmp_path / "file_hashes.json").write_text("{")
        assert open_contents(self.config(data), tmp_path).fingerprint == before

    def test_a_file_that_changes_while_it_is_read_is_refused(self, data: Path, tmp_path: Path) -> None:
        rows = open_contents(self.config(data), tmp_path).rows()
        next(rows)
        with data.open("ab") as file:
            file.write(b"\n")
        with pytest.raises(DataError, match="was changed while it was read"):
            list(rows)

    def test_a_file_that_goes_while_it_is_read_is_refused(self, data: Path, tmp_path: Path) -> None:
        rows = open_contents(self.config(data), tmp_path).rows()
        next(rows)
        data.unlink()
        with pytest.raises(DataError, match="was changed while it was read"):
            list(rows)

    def test_a_missing_path_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^data\.path: is missing"):
            open_contents(DataConfig(), tmp_path)


class TestSafety:
    def test_a_second_opening_builds_nothing_and_takes_no_time(
        self, data: Path, tokenizer: RecipeTokenizer, forbid_building: Any
    ) -> None:
        first = open_cache(data, tokenizer)
        forbid_building()
        start = time.perf_counter()
        second = open_cache(data, tokenizer)
        assert time.perf_counter() - start < 0.1
        assert second.card == first.card
        assert second.tokenizer is tokenizer

    def test_a_build_that_dies_at_its_end_is_finished_by_the_next_one(
        self, data: Path, tokenizer: RecipeTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in (pipeline, cache_builder):
            with monkeypatch.context() as patch:
                patch.setattr(module, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    open_cache(data, tokenizer)
            caches = data.parent.parent / "cache"
            left = [path.suffix for path in caches.iterdir() if path.is_dir() and path.suffix]
            assert left == [".building"]
        again = open_cache(data, tokenizer)
        assert not list(caches.glob("*.building"))
        assert files_of(again.folder) == files_of(
            build_or_open_cache(config_of(data), cache_dir=data.parent, tokenizer=tokenizer).folder
        )

    def test_reading_goes_on_where_it_ended(
        self, data: Path, tokenizer: RecipeTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake_stage, "_CHUNK_ROWS", 10)
        with pytest.raises(KeyboardInterrupt):
            self.build_until(data, tokenizer, "reading", 30)
        taken: list[object] = []
        take_one = Intake.take_one
        monkeypatch.setattr(Intake, "take_one", lambda self, row: taken.append(row) or take_one(self, row))
        again = open_cache(data, tokenizer)
        assert len(taken) == NUM_RECIPES - 30
        assert sum(again.report.num_examples.values()) == NUM_RECIPES

    def test_what_was_read_counts_for_nothing_once_a_file_was_touched(
        self, data: Path, tokenizer: RecipeTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where it was another one for a moment, the same content as before says nothing of what was read meanwhile."""
        monkeypatch.setattr(intake_stage, "_CHUNK_ROWS", 10)
        good = data.read_bytes()
        read = contents.open_contents

        def open_and_change(*arguments: Any) -> Any:
            found = read(*arguments)
            data.write_bytes(good.replace(b"a", b"o"))
            return found

        with monkeypatch.context() as patch:
            patch.setattr(cache_module, "open_contents", open_and_change)
            with pytest.raises(DataError, match="was changed while it was read"):
                open_cache(data, tokenizer)
        assert list((data.parent.parent / "cache").glob("prepared-*.building"))
        data.write_bytes(good)
        again = open_cache(data, tokenizer)
        other = build_or_open_cache(config_of(data), cache_dir=data.parent / "other", tokenizer=tokenizer)
        assert files_of(again.prepared.folder) == files_of(other.prepared.folder)

    def test_tokenizing_goes_on_where_it_ended(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cache_builder, "_CHUNK_EXAMPLES", 4)
        monkeypatch.setattr(cache_builder, "_BLOCK_CHUNKS", 2)
        whole = build_or_open_cache(config_of(data), cache_dir=data.parent, tokenizer=None, vocab_size=500)
        with pytest.raises(KeyboardInterrupt):
            self.build_until(data, None, "tokenizing train", 20)
        monkeypatch.setattr(cache_builder, "train_unigram", lambda *_: pytest.fail("trained again"))
        encoded: list[str] = []
        encode = RecipeTokenizer.encode_batch
        monkeypatch.setattr(
            RecipeTokenizer, "encode_batch", lambda self, texts: encoded.extend(texts) or encode(self, texts)
        )
        again = open_cache(data, None)
        num_examples = sum(again.report.num_examples.values())
        assert len(encoded) == 2 * (num_examples - 16), "two blocks of eight were complete"
        assert files_of(again.folder) == files_of(whole.folder)

    def build_until(self, data: Path, tokenizer: RecipeTokenizer | None, stage: str, count: int) -> None:
        """Interrupts a build once a stage has done so much."""

        def interrupt(name: str, done: int) -> None:
            if name == stage and done >= count:
                raise KeyboardInterrupt

        build_or_open_cache(
            config_of(data),
            cache_dir=data.parent.parent / "cache",
            tokenizer=tokenizer,
            vocab_size=None if tokenizer else 500,
            num_workers=1,
            progress=interrupt,
        )

    def test_what_a_killed_build_left_is_no_part_of_the_next_one(self, data: Path, tokenizer: RecipeTokenizer) -> None:
        cache = open_cache(data, tokenizer)
        before = files_of(cache.folder)
        shutil.rmtree(cache.folder)
        stale = cache.folder.with_name(f"{cache.folder.name}.building")
        (stale / "train").mkdir(parents=True)
        (stale / "train" / "tokens.u16").write_text("half")
        (stale / "card.json").write_text("{}")
        again = open_cache(data, tokenizer)
        assert again.card == cache.card
        assert files_of(again.folder) == before
        assert not stale.exists()

    @pytest.mark.parametrize("damage", ["truncated", "missing", "no card", "broken card", "empty"])
    @pytest.mark.parametrize("kind", ["tokens", "prepared"])
    def test_what_is_damaged_is_made_again_with_one_warning(
        self, data: Path, tokenizer: RecipeTokenizer, kind: str, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache = open_cache(data, tokenizer)
        folder, name, said = {
            "tokens": (cache.folder, "train/tokens.u16", "this token cache is damaged and is built again"),
            "prepared": (cache.prepared.folder, "train.jsonl", "this prepared data is damaged and is made again"),
        }[kind]
        before = files_of(folder)
        match damage:
            case "truncated":
                (folder / name).write_bytes(before[name][:-2])
            case "missing":
                (folder / name).unlink()
            case "no card":
                (folder / "card.json").unlink()
            case "broken card":
                (folder / "card.json").write_text('{"fingerprint": ')
            case "empty":
                shutil.rmtree(folder)
                folder.mkdir()
        with caplog.at_level(logging.WARNING):
            again = open_cache(data, tokenizer)
        assert again.card == cache.card
        assert files_of(folder) == before
        assert [record.getMessage() for record in caplog.records] == [f"{folder}: {said}"]

    @pytest.mark.parametrize("name", ["train.jsonl", "rejects.jsonl", "train/tokens.u16", "test/text_ends.i64"])
    def test_verify_notices_a_flipped_byte_and_makes_the_files_again(
        self, data: Path, tokenizer: RecipeTokenizer, name: str
    ) -> None:
        with data.open("a") as file:
            file.write('{"title": 3}\n')
        cache = open_cache(data, tokenizer)
        folder = cache.folder if "/" in name else cache.prepared.folder
        before = files_of(folder)
        flipped = bytearray(before[name])
        flipped[len(flipped) // 2] ^= 1
        (folder / name).write_bytes(flipped)
        assert open_cache(data, tokenizer).card == cache.card, "sizes alone say nothing"
        assert open_cache(data, tokenizer, verify=True).card == cache.card
        assert files_of(folder) == before

    def test_verify_makes_nothing_again_that_is_whole(
        self, data: Path, tokenizer: RecipeTokenizer, forbid_building: Any
    ) -> None:
        first = open_cache(data, tokenizer, verify=True)
        forbid_building()
        assert open_cache(data, tokenizer, verify=True).card == first.card

    @pytest.mark.parametrize("verify", ["", "verify"])
    def test_several_processes_share_one_build(
        self, data: Path, tokenizer: RecipeTokenizer, tmp_path: Path, verify: str
    ) -> None:
        tokenizer.save(tmp_path / "tokenizer")
        script = """
import sys
from pathlib import Path
from recipe_exp.config.data import DataConfig
from recipe_exp.data import RecipeTokenizer, build_or_open_cache
folder, stages = Path(sys.argv[1]), []
config = DataConfig(path=str(folder / "data"), verify=bool(sys.argv[2]))
tokenizer = RecipeTokenizer.from_pretrained(folder / "tokenizer")
print("ready", flush=True)
sys.stdin.readline()
cache = build_or_open_cache(config, cache_dir=folder / "cache", tokenizer=tokenizer,
                            progress=lambda stage, count: stages.append(stage))
print(cache.fingerprint, bool(stages), len(cache.split("train")))
"""
        command = [sys.executable, "-c", script, str(tmp_path), verify]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen(command, **pipes) for _ in range(3)]
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate()[0].split() for process in processes]
        assert sorted(built for _, built, _ in answers) == ["False", "False", "True"]
        assert len({(fingerprint, length) for fingerprint, _, length in answers}) == 1

    def test_ids_take_32_bits_only_where_16_cannot_tell_the_pieces_apart(
        self, data: Path, tokenizer: RecipeTokenizer
    ) -> None:
        spec = json.loads(tokenizer.__reduce__()[1][0].to_str())
        vocabulary = spec["model"]["vocab"]
        # In front of the common pieces, so that texts get ids beyond 16 bits.
        spec["model"]["vocab"] = [*vocabulary[:3], *([f"語{n}", -50.0] for n in range(2**16)), *vocabulary[3:]]
        spec["added_tokens"] = spec["added_tokens"][:3]
        wide = RecipeTokenizer.from_tokenizer(Tokenizer.from_str(json.dumps(spec)))
        narrow_cache, wide_cache = (
            build_or_open_cache(config_of(data), cache_dir=data.parent, tokenizer=each) for each in (tokenizer, wide)
        )
        assert wide_cache.split("train").target(0).max() > 2**16
        for cache, name, absent in ((narrow_cache, "u16", "u32"), (wide_cache, "u32", "u16")):
            tokens = cache.split("train")
            assert (cache.folder / "train" / f"tokens.{name}").is_file()
            assert not (cache.folder / "train" / f"tokens.{absent}").exists()
            text = cache.examples("train")[0].target_text
            assert tokens.target(0).tolist() == cache.tokenizer.encode(text)
            assert tokens.source(1).tolist() == cache.tokenizer.encode(cache.examples("train")[1].source_text)

    def test_a_tokenizer_or_a_size_but_not_both(self, data: Path, tokenizer: RecipeTokenizer) -> None:
        with pytest.raises(ValueError, match="either"):
            build_or_open_cache(config_of(data), cache_dir=data.parent, tokenizer=tokenizer, vocab_size=300)
        with pytest.raises(ValueError, match="either"):
            build_or_open_cache(config_of(data), cache_dir=data.parent, tokenizer=None)

    def test_a_place_that_cannot_be_written_is_one_line(self, data: Path, tokenizer: RecipeTokenizer) -> None:
        with pytest.raises(DataError, match=r"data\.cache_dir=.*cannot be written \(Not a directory\)"):
            build_or_open_cache(config_of(data), cache_dir=data / "cache", tokenizer=tokenizer)


class TestRejections:
    @pytest.fixture
    def bad(self, data: Path) -> Path:
        with data.open("a") as file:
            file.write('{"title": 3}\n' * 30)
        return data

    def test_too_many_stop_before_tokenizing_and_are_kept_for_reading(
        self, bad: Path, tokenizer: RecipeTokenizer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(RecipeTokenizer, "encode_batch", lambda *_: pytest.fail("tokenized"))
        with pytest.raises(DataError, match="30 of 90 records were rejected") as error:
            open_cache(bad, tokenizer)
        kept = Path(str(error.value).rpartition("see ")[2])
        entries = [json.loads(line) for line in kept.read_text().splitlines()]
        assert len(entries) == 30
        assert not list(kept.parent.glob("*.building"))
        reason = "title: expected str, got int"
        assert entries[0] == {"file": str(bad), "line": NUM_RECIPES + 1, "reason": reason}

    def test_files_that_were_put_right_leave_nothing_of_the_refusal(
        self, bad: Path, tokenizer: RecipeTokenizer
    ) -> None:
        with pytest.raises(DataError, match="30 of 90") as error:
            open_cache(bad, tokenizer)
        open_cache(bad, tokenizer, max_rejected_fraction=0.4)
        assert not Path(str(error.value).rpartition("see ")[2]).exists()

    def test_what_was_tolerated_is_in_the_prepared_data(self, bad: Path, tokenizer: RecipeTokenizer) -> None:
        cache = open_cache(bad, tokenizer, max_rejected_fraction=0.4)
        assert cache.report.rejected == {"title: expected str, got int": 30}
        assert len((cache.prepared.folder / "rejects.jsonl").read_text().splitlines()) == 30

    def test_a_stricter_run_does_not_accept_the_cache_of_a_lenient_one(
        self, bad: Path, tokenizer: RecipeTokenizer, forbid_building: Any
    ) -> None:
        open_cache(bad, tokenizer, max_rejected_fraction=0.4)
        forbid_building()
        with pytest.raises(DataError, match="30 of 90 records were rejected"):
            open_cache(bad, tokenizer, max_rejected_fraction=0.1)


def test_memory_does_not_grow_with_the_number_of_recipes(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from recipe_exp.config.data import DataConfig
from recipe_exp.data.tokens.cache import open_or_prepare
folder = Path(sys.argv[1])
def build(name):
    open_or_prepare(DataConfig(path=str(folder / name)), cache_dir=folder / "cache", num_workers=1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
small = build("small.jsonl")
print(build("large.jsonl") - small)
"""
    dice = random.Random(1)
    words = ["".join(dice.choices("aeioustr", k=5)) for _ in range(900)]
    for name, count in (("small.jsonl", 700), ("large.jsonl", 6000)):
        lines = (
            line_of(Recipe(f"Dish {n}", ("bread",), (" ".join(dice.choices(words, k=250)),))) for n in range(count)
        )
        (tmp_path / name).write_text("\n".join(lines))
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    grown_kib = int(result.stdout)
    assert (tmp_path / "large.jsonl").stat().st_size > 8 * 2**20
    assert grown_kib < 4 * 2**10


def test_importing_the_package_or_the_plan_loads_no_torch() -> None:
    script = (
        "import sys; from recipe_exp.data import WindowPlan, build_or_open_cache, plan_micro_batches, read_jsonl;"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules;"
        "import recipe_exp.data as data; [getattr(data, name) for name in data.__all__];"
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
