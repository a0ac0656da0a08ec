from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.config.data import DataConfig
from recipe_exp.data import in_order
from recipe_exp.data.card_file import read_card
from recipe_exp.data.preparation import intake_stage, statistics
from recipe_exp.data.preparation.prepared import PreparedCard, PreparedData
from recipe_exp.data.preparation.sources import Origin, source_name
from recipe_exp.data.preparation.statistics import Statistics
from recipe_exp.data.preparation.stored_record import StoredRecord
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.split import SPLITS
from recipe_exp.data.tokens.cache import open_or_prepare

FRACTIONS = {"validation_fraction": 0.25, "test_fraction": 0.15}
SOURCES = (None, "a book", "https://me:secret@kitchen.example/soup/1", "https://Kitchen.example/soup/2")
SOURCE_NAMES = {None: None, "a book": "a book", SOURCES[2]: "kitchen.example", SOURCES[3]: "kitchen.example"}


def words(seed: int, count: int) -> str:
    dice = random.Random(seed)
    return " ".join("".join(dice.choices("abcdefghijklmnop", k=6)) for _ in range(count))


def recipe(family: int, title: int, source: str | None = None, score: float | None = None) -> dict[str, Any]:
    """All of one family are nearly the same, under titles of their own."""
    text = words(family, 200).split()
    ingredients = [" ".join(text[:3]), " ".join(text[3 : 20 + 9 * family])]
    steps = [" ".join(text[80:99]), " ".join(text[99 : 170 + family])]
    fields = {"title": f"Dish {family} {title}", "ingredients": ingredients, "instructions": steps}
    return {**fields, "source": source, "quality_score": score}


def prepare(folder: Path, files: dict[str, list[str]], num_workers: int = 1, **changes: Any) -> PreparedData:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    for name, lines in files.items():
        (data / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    usual = {"format": "jsonl", "path": str(data), "max_rejected_fraction": 1.0, **FRACTIONS}
    return open_or_prepare(
        DataConfig.model_validate({**usual, **changes}), cache_dir=folder / "cache", num_workers=num_workers
    )


def statistics_of(prepared: PreparedData) -> Statistics:
    assert prepared.card is not None
    return prepared.card.statistics


def kept_in(prepared: PreparedData) -> dict[str, list[StoredRecord]]:
    return {split: list(prepared.records(split)) for split in SPLITS}


ROWS = st.one_of(
    st.builds(
        lambda *parts: json.dumps(recipe(*parts)),
        *(st.integers(0, 5), st.integers(0, 6), st.sampled_from(SOURCES), st.sampled_from([None, 0.15, 0.7, 1.0])),
    ),
    st.sampled_from(["", "{", '{"title": "Tea"}', '{"input": "Toast?", "output": "Toast it. Butter it."}']),
)


@settings(deadline=None, max_examples=60)
@given(files=st.lists(st.lists(ROWS, max_size=8), min_size=2, max_size=2), duplicates=st.sampled_from(["drop", "keep"]))
def test_every_count_is_that_of_the_files(
    files: list[list[str]], duplicates: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("corpus", numbered=True)
    anchor = json.dumps(recipe(99 % 6, 99, "anchor"))
    prepared = prepare(folder, {"a.jsonl": [*files[0], anchor], "b.jsonl": files[1]}, duplicates=duplicates)
    found, kept = statistics_of(prepared), kept_in(prepared)

    num_kept = 0
    for split in SPLITS:
        expected: dict[str, Counter[int]] = defaultdict(Counter)
        totals: Counter[str] = Counter()
        for record in kept[split]:
            if record.output is None:
                texts = {
                    "title": record.title,
                    "ingredients": " ".join(record.ingredients),
                    "instructions": " ".join(record.instructions),
                }
                texts["text"] = " ".join(texts.values())
            else:
                texts = {"text": record.output}
            for part, text in texts.items():
                width, number = statistics.WORD_BINS[part]  # type: ignore[index]
                expected[part][min(len(text.split()) // width, number - 1)] += 1
                totals[part] += len(text.split())
        for part, histogram in found.words[split].items():
            assert Counter(dict(enumerate(histogram.counts))) == expected[part] + Counter()
            assert histogram.mean == pytest.approx(totals[part] / max(sum(expected[part].values()), 1), abs=1e-3)
        scores = [record.quality_score for record in kept[split] if record.quality_score is not None]
        assert len(scores) == len(kept[split]) == prepared.report.num_examples[split]  # type: ignore[index]
        bins = Counter(min(int(score * 20), 19) for score in scores)
        assert Counter(dict(enumerate(found.quality[split].counts))) == bins + Counter()
        assert found.quality[split].largest == pytest.approx(max(scores, default=0), abs=1e-4)
        num_kept += len(scores)

    rejects = [json.loads(line) for line in (prepared.folder / "rejects.jsonl").read_text().splitlines()]
    names = Counter({str(folder / "data" / name): 0 for name in ("a.jsonl", "b.jsonl")})
    for name, lines in zip(names, ([*files[0], anchor], files[1]), strict=True):
        names[name] = sum(bool(line) for line in lines)
    left_out_of = Counter(entry["file"] for entry in rejects)
    assert {(one.name, one.num_records, one.num_kept) for one in found.files.largest} == {
        (name, count, count - left_out_of[name]) for name, count in names.items() if count
    }
    assert sum(one.num_kept for one in found.files.largest) == num_kept

    by_reason = defaultdict(list)
    for entry in rejects:
        by_reason[entry["reason"].partition(" of /")[0]].append(entry)
    assert {one.reason: (one.num_records, one.first, one.beside) for one in found.left_out} == {
        reason: (
            len(entries),
            f"{entries[0]['file']}:{entries[0]['line']}",
            entries[0]["reason"].removeprefix(f"{reason} of ") if " of /" in entries[0]["reason"] else "",
        )
        for reason, entries in by_reason.items()
    }

    wanted = Counter(SOURCE_NAMES.get(record.source, record.source) for records in kept.values() for record in records)
    assert {one.name: one.num_kept for one in found.sources.largest if one.num_kept} == {
        name: count for name, count in wanted.items() if name is not None
    }
    sources = [json.loads(line).get("source") for line in [*files[0], anchor, *files[1]] if "ingredients" in line]
    read = Counter(SOURCE_NAMES.get(source, source) for source in sources if source)
    assert {one.name: one.num_records for one in found.sources.largest} == read

    assert sum(one.num_clusters for one in found.cluster_classes if one.smallest > 1) == prepared.report.num_clusters
    assert sum(one.num_records for one in found.cluster_classes if one.smallest > 1) == prepared.report.num_in_clusters
    assert all(one.smallest <= one.num_records / one.num_clusters for one in found.cluster_classes)
    assert sum(one.num_records for one in found.cluster_classes) == num_kept + sum(
        one.num_records for one in found.left_out if one.beside
    )


def test_the_largest_clusters_have_the_titles_that_stay_first(tmp_path: Path) -> None:
    sizes = {family: 2 + family for family in range(5)}
    lines = [json.dumps(recipe(family, n, score=n / 10)) for family, size in sizes.items() for n in range(size)]
    whole = {"validation_fraction": 0.0, "test_fraction": 0.0}
    found = statistics_of(prepare(tmp_path, {"a.jsonl": lines}, **whole))
    assert [(one.num_records, one.num_kept) for one in found.largest_clusters] == [
        (6, 1),
        (5, 1),
        (4, 1),
        (3, 1),
        (2, 1),
    ]
    assert found.largest_clusters[0].titles == ("Dish 4 5", "Dish 4 0", "Dish 4 1", "Dish 4 2")
    assert [(one.smallest, one.largest, one.num_clusters) for one in found.cluster_classes] == [
        *((size, size, 1) for size in (2, 3, 4)),
        (5, 9, 2),
    ]


def test_places_beyond_the_largest_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "NUM_FILES", 2)
    monkeypatch.setattr(statistics, "NUM_SOURCES", 1)
    files = {
        f"{number}.jsonl": [
            json.dumps(recipe(number, title, source=f"book {number}") | {"title": f"Dish {number} {title}"})
            for title in range(count)
        ]
        for number, count in enumerate((1, 3, 2, 2))
    }
    found = statistics_of(prepare(tmp_path, files, duplicates="keep", validation_fraction=0.0, test_fraction=0.0))
    folder = tmp_path / "data"
    assert found.files.largest == (Origin(f"{folder}/1.jsonl", 3, 3), Origin(f"{folder}/2.jsonl", 2, 2))
    assert (found.files.num_others, found.files.num_other_records, found.files.num_other_kept) == (2, 3, 3)
    assert found.sources.largest == (Origin("book 1", 3, 3),)
    assert (found.sources.num_others, found.sources.num_other_records) == (3, 5)


def test_examples_are_the_same_recipes_whatever_their_order(tmp_path: Path) -> None:
    lines = [
        json.dumps({"title": one.title, "ingredients": one.ingredients, "instructions": one.instructions})
        for one in islice(sample_recipes(), 80)
    ]
    chosen = []
    for number, order in enumerate((lines, lines[::-1])):
        (tmp_path / str(number)).mkdir()
        prepared = prepare(tmp_path / str(number), {"a.jsonl": list(order)}, duplicates="keep")
        chosen.append(statistics_of(prepared).examples)
        titles = [record.title for record in kept_in(prepared)["train"]]
        assert {record.title for record in chosen[-1]} <= {*titles}
    assert len({record.title for record in chosen[0]}) == statistics.NUM_EXAMPLES
    assert [record.title for record in chosen[0]] == [record.title for record in chosen[1]]
    assert [record.title for record in chosen[0]] != titles[:10]


def test_neither_chunks_nor_processes_change_them_and_the_card_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_order, "_CHUNKS_BEFORE_PROCESSES", 1)
    lines = [json.dumps(recipe(family, title, SOURCES[title % 4])) for title in range(6) for family in range(6)]
    found = []
    for chunk_rows, num_workers in ((512, 1), (5, 1), (7, 2)):
        monkeypatch.setattr(intake_stage, "_CHUNK_ROWS", chunk_rows)
        prepared = prepare(tmp_path, {"a.jsonl": ["{", *lines]}, num_workers, verify=True)
        found.append(statistics_of(prepared))
        card = read_card(prepared.folder, PreparedCard)
        assert card is not None
        assert msgspec.json.encode(card.statistics) == msgspec.json.encode(found[-1])
        for file in prepared.folder.iterdir():
            file.unlink()
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("Grandmother", "Grandmother"),
        ("http://a.example", "a.example"),
        ("https://u:p@A.example:80/x/y", "a.example:80"),
        ("https://", "https://"),
        ("https:///x", "https:///x"),
    ],
)
def test_an_address_stands_for_its_host(source: str, name: str) -> None:
    assert source_name(source) == name
