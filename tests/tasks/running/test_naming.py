from __future__ import annotations

from pathlib import Path

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.tasks.running.naming import name_of
from recipe_exp.tracking import RunFolder

ADAPTERS = ("rslora", "dora", "pissa", "lora_plus", "qlora")


@pytest.fixture(autouse=True)
def _no_user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "user_config" / "local"
    folder.mkdir(parents=True)
    (folder / "default.yaml").write_text("# @package _global_\n{}\n")
    monkeypatch.setenv("RECIPE_EXP_CONFIG_DIR", str(folder.parent))


def test_name_that_was_given_is_kept() -> None:
    assert name_of(compose(["run_name=mine", "seed=3"])) == "mine"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "t5_tiny"),
        (["model=flan_t5_xxl", "training=lora"], "flan_t5_xxl lora"),
        (["model=flan_t5_base"], "flan_t5_base"),
        (["training.learning_rate=1e-4", "seed=3"], "t5_tiny seed=3 learning_rate=0.0001"),
        (["training=lora", "training.adapter.rank=8"], "t5_tiny lora rank=8"),
        *((["model=flan_t5_base", f"training={option}"], f"flan_t5_base {option}") for option in ADAPTERS),
        (["training=lora", "training.adapter.targets=[q,wo]"], 't5_tiny lora targets=["q", "wo"]'),
        (["training=pissa", "training.adapter.start_from=/runs/first"], "t5_tiny pissa start_from=first"),
    ],
)
def test_name_is_what_differs(overrides: list[str], name: str) -> None:
    assert name_of(compose(overrides)) == name


def test_what_does_not_change_the_numbers_is_not_in_the_name() -> None:
    assert name_of(compose(["hardware=cpu", "evaluation.every_n_steps=7", "tags=[a]", "task=plan"])) == "t5_tiny"


def test_model_of_ones_own_gives_its_folder_name(tmp_path: Path) -> None:
    config = compose(["model=flan_t5_base"])
    data = config.model_dump(mode="json")
    data["model"]["name"] = str(tmp_path / "my-model")
    assert name_of(ExperimentConfig.from_data(data)).split()[0] == "my_model"


def test_model_of_a_run_is_called_by_its_id(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, run_name="first", command=[])
    config = compose(["model=flan_t5_base"])
    model = config.model.model_copy(update={"name": str(run.model_path)})
    assert name_of(config.model_copy(update={"model": model})).split()[0] == run.run_id.replace("-", "_")


def test_name_stays_short_and_keeps_secrets_out() -> None:
    many = ["seed=1", "model.dropout=0.1", "data.prompt=title", "training.batch_size=1", "training.weight_decay=0.1"]
    assert len(name_of(compose(many))) <= 60
    assert name_of(compose(["data=jsonl", f"data.path=/data/{'x' * 500}"])) == "t5_tiny max_examples=null"
    assert "path=mine" in name_of(compose(["data=jsonl", "data.path=/data/mine"]))
