"""`task=prepare`: the data that training opens."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest

from recipe_exp.__main__ import main
from recipe_exp.data.preparation.prepared import DUPLICATES_FILE, PREPARED_FILES
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.split import SPLITS
from recipe_exp.evaluation.scoring import SCORES_FOLDER
from recipe_exp.reports.data_card import DATA_CARD_FILES

NUM_RECIPES = 500
SHAPE = ("model.shape.vocab_size=700", "hardware=cpu", "hardware.num_threads=1", "hardware.num_workers=2")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes with duplicates and lines that are rejected."""
    recipes = [
        {"title": recipe.title, "ingredients": list(recipe.ingredients), "instructions": list(recipe.instructions)}
        for recipe in islice(sample_recipes(), NUM_RECIPES)
    ]
    lines = [json.dumps(recipe) for recipe in [*recipes, *recipes[:50]]]
    lines[10:10] = ["{", '{"title": "Toast"}']
    path = tmp_path_factory.mktemp("corpus") / "recipes.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def arguments(corpus: Path, output_dir: Path) -> list[str]:
    usual = ["task=prepare", "data=jsonl", f"data.path={corpus}", f"output_dir={output_dir}"]
    return [*usual, "tracking=journal_only", *SHAPE]


def test_it_says_what_it_found_and_where_the_cache_lies(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(corpus, tmp_path)) == 0
    first, *_, card, made, last = capsys.readouterr().out.splitlines()
    assert first.startswith("data  4")
    assert "2 rejected" in first
    assert "50 duplicates" in first
    word, folder = last.split(maxsplit=1)
    assert (word, Path(folder).parent) == ("cache", tmp_path / "cache")
    assert (Path(folder) / "card.json").is_file()
    fingerprint = json.loads((Path(folder) / "card.json").read_text(encoding="utf-8"))["data_fingerprint"]
    (recorded,) = (tmp_path / "data_cards").iterdir()
    assert card == f"card  {recorded / 'data_card.html'}"
    assert json.loads((recorded / "run.json").read_text())["data"]["data_fingerprint"] == fingerprint
    assert (Path(made.split(maxsplit=1)[1]) / "rejects.jsonl").is_file()
    before = (Path(folder) / "card.json").stat().st_mtime_ns
    assert main(arguments(corpus, tmp_path)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == last
    assert (Path(folder) / "card.json").stat().st_mtime_ns == before, "it was built again"
    assert [*(tmp_path / "data_cards").iterdir()] == [recorded], "it was recorded again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data_cards"]


def test_training_opens_what_was_prepared(small_run: list[str], tmp_path: Path) -> None:
    own_cache = f"data.cache_dir={tmp_path / 'cache'}"
    assert main([*small_run, own_cache, "task=prepare"]) == 0
    folders = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(folders) == 2, "the splits and their tokens"
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}
    assert main([*small_run, own_cache, "training.max_steps=3"]) == 0
    assert {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")} == before
    others = {path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()} - {path.name for path in folders}
    assert others <= {SCORES_FOLDER}


def test_an_output_has_the_splits_and_the_data_card_and_is_data_itself(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "my recipes"
    usual = arguments(corpus, tmp_path / "outputs")
    assert main([*usual, f"task.output={output}"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert f"card  {output / 'data_card.html'}" in shown
    assert shown[-1] == f"copy  {output}; train on it with data=prepared data.path={output}"
    assert {path.name for path in output.iterdir()} == {*PREPARED_FILES, *DATA_CARD_FILES} - {DUPLICATES_FILE}
    (recorded,) = (tmp_path / "outputs" / "data_cards").iterdir()
    assert (recorded / "data_card.html").read_bytes() == (output / "data_card.html").read_bytes()
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    assert main([*usual, f"task.output={output}"]) == 0, "it may be written again"
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before

    # The same splits come to a machine that has nothing but the copy, which is also where its data card is put.
    elsewhere = ["task=prepare", "data=prepared", f"data.path={output}", f"output_dir={tmp_path / 'other'}", *SHAPE]
    assert main([*elsewhere, f"task.output={output}"]) == 0
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_splits_that_were_edited_are_copied_without_a_card_that_speaks_of_others(corpus: Path, tmp_path: Path) -> None:
    edited, copy = tmp_path / "edited", tmp_path / "copy"
    assert main([*arguments(corpus, tmp_path / "outputs"), f"task.output={edited}"]) == 0
    train = edited / "train.jsonl"
    train.write_bytes(b"".join(train.read_bytes().splitlines(keepends=True)[1:]))
    shutil.copytree(edited, copy)
    command = ["task=prepare", "data=prepared", f"data.path={edited}", f"output_dir={tmp_path / 'other'}", *SHAPE]
    for _ in range(2):
        assert main([*command, f"task.output={copy}"]) == 0
        assert {path.name for path in copy.iterdir()} == {*(f"{split}.jsonl" for split in SPLITS), *DATA_CARD_FILES}
    assert (copy / "train.jsonl").read_bytes() == train.read_bytes()
    assert json.loads((copy / "data_card.json").read_text(encoding="utf-8"))["statistics"] is None


def test_a_folder_of_somebody_else_is_left_alone(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "letters"
    output.mkdir()
    (output / "letter.txt").touch()
    assert main([*arguments(corpus, tmp_path / "outputs"), f"task.output={output}"]) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["letter.txt"]


def test_what_the_tokenizer_does_not_give_back_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipes = [
        {"title": recipe.title, "ingredients": recipe.ingredients, "instructions": recipe.instructions}
        for recipe in islice(sample_recipes(), 100)
    ]
    recipes[0]["ingredients"] = ("1 cup Sugar™", *recipes[0]["ingredients"])
    file = tmp_path / "recipes.jsonl"
    whole = ["data.validation_fraction=0", "data.test_fraction=0", "evaluation.every_n_steps=null"]
    for number, said in ((100, ""), (99, "      1.01% of the recipes do not come back from the tokenizer exactly: ™")):
        file.write_text("".join(f"{json.dumps(recipe)}\n" for recipe in recipes[:number]), encoding="utf-8")
        assert main([*arguments(file, tmp_path / "outputs"), *whole]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if "come back" in line]
        assert [line.partition(" (")[0] for line in lines] == ([said] if said else [])


def test_a_mistake_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jsonl").write_text('{"title": "Toast"}\n' * 20)
    assert main(arguments(tmp_path / "bad.jsonl", tmp_path / "outputs")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "20 of 20 records were rejected" in line


def test_the_tracker_gets_the_card_and_the_digest_of_the_data_once(corpus: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    tracked = [*arguments(corpus, tmp_path), "tracking=mlflow"]
    for _ in range(2):
        assert main(tracked) == 0
    # A busy machine sends it after the command has ended.
    assert main([f"output_dir={tmp_path}", "task=sync"]) == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.tags["recipe_exp.kind"] == "data"
    assert run.data.params["data.path"] == str(corpus)
    (recorded,) = (tmp_path / "data_cards").iterdir()
    digest = json.loads((recorded / "run.json").read_text())["data"]["data_fingerprint"]
    datasets = {one.dataset.name: one.dataset.digest for one in run.inputs.dataset_inputs}
    assert set(datasets) == {"recipes/train", "recipes/validation", "recipes/test"}
    assert all(digest.startswith(found) for found in datasets.values())
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {*DATA_CARD_FILES}
