"""Data cards of runs, as files and as what the tracker is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe_exp.__main__ import main
from recipe_exp.reports.data_card import DATA_CARD_FILES
from recipe_exp.tracking.events import Artifact, DatasetUse, read_events


def the_run(tmp_path: Path) -> Path:
    (run,) = (tmp_path / "outputs" / "runs").iterdir()
    return run


def test_a_run_keeps_its_data_card_and_says_which_recipes_it_read(
    small_run: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*small_run, "training.max_steps=3"]) == 0
    run = the_run(tmp_path)
    assert f"card  {run / 'data_card.html'}\n" in capsys.readouterr().out
    facts = json.loads((run / "data_card.json").read_text(encoding="utf-8"))
    data = json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]
    assert facts["data_fingerprint"] == data["data_fingerprint"]
    assert facts["cache_fingerprint"] == data["fingerprint"]
    assert facts["report"]["num_examples"] == data["num_examples"]
    assert {path.name for path in run.glob("*data_card*")} == {*DATA_CARD_FILES}

    events = list(read_events(run / "journal.jsonl"))
    sent = [event.path for event in events if isinstance(event, Artifact)]
    assert [path for path in sent if path in DATA_CARD_FILES] == [*DATA_CARD_FILES]
    uses = [event for event in events if isinstance(event, DatasetUse)]
    assert [(use.name, use.context) for use in uses] == [
        ("recipes/train", "training"),
        ("recipes/validation", "validation"),
    ]
    for use in uses:
        split = use.name.removeprefix("recipes/")
        assert use.digest == data["data_fingerprint"]
        assert use.profile == {
            "num_examples": data["num_examples"][split],
            "num_source_tokens": facts["tokens"][split]["num_source_tokens"],
            "num_target_tokens": facts["tokens"][split]["num_target_tokens"],
            "token_cache": data["fingerprint"],
        }


def test_a_run_that_is_not_evaluated_uses_no_validation_recipes(small_run: list[str], tmp_path: Path) -> None:
    unevaluated = ["data.validation_fraction=0", "evaluation.every_n_steps=null"]
    assert main([*small_run, "training.max_steps=3", *unevaluated]) == 0
    uses = [event for event in read_events(the_run(tmp_path) / "journal.jsonl") if isinstance(event, DatasetUse)]
    assert [use.context for use in uses] == ["training"]


def test_a_run_that_goes_on_keeps_its_card(small_run: list[str], tmp_path: Path) -> None:
    stopped = [*small_run, "training.stop_after_hours=1e-9"]
    assert main(stopped) == 75
    run = the_run(tmp_path)
    before = {name: (run / name).read_bytes() for name in DATA_CARD_FILES}
    (run / "data_card.md").unlink()
    run_id = json.loads((run / "run.json").read_text(encoding="utf-8"))["run_id"]
    assert main([f"resume={run_id}", f"output_dir={tmp_path / 'outputs'}", *stopped[-1:]]) == 75
    assert {name: (run / name).read_bytes() for name in DATA_CARD_FILES} == before
