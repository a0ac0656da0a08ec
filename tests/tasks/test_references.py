"""`model.name=RUN` and `training.adapter.start_from=RUN` through the entry points."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import StopAt, again, folder_of, record_of, run

import recipe_exp
from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.training import LoraConfig
from recipe_exp.errors import RecipeExpError, ResumeError
from recipe_exp.tasks.references import resolve_references
from recipe_exp.training.callbacks import Callback
from recipe_exp.training.trainer import Trainer

LORA = ("training=lora", "training.adapter.rank=4", "training.batch_size=8", "training.learning_rate=5e-2")
SHORT = ("training.max_steps=4", "training.warmup_steps=1")
# What a run's first loss is computed with.
ONE_STEP = ("training.max_steps=1", "training.warmup_steps=0", "training.log_every_n_steps=1")


class KeepStart(Callback):
    """Looks at the adapter before the first step."""

    def on_train_begin(self, trainer: Trainer) -> None:
        network: Any = trainer.step.model
        self.weights = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}


@pytest.fixture
def small_run(small_run: list[str]) -> list[str]:
    """Even smaller: what is generated does not matter here."""
    return [*small_run, "evaluation.max_examples=4", "evaluation.max_generated_examples=1", "run_name=small", *SHORT]


def config_of(folder: Path) -> ExperimentConfig:
    return ExperimentConfig.from_yaml(folder / "config.yaml")


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    return load_file(next(file for file in newest.glob("*model.safetensors")))


def refusal(overrides: Sequence[str]) -> str:
    with pytest.raises(RecipeExpError) as caught:
        run(overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


REFERENCES: dict[str, Callable[[Path], str]] = {
    "id": lambda folder: str(record_of(folder)["run_id"]),
    "name": lambda folder: folder.name,
    "folder": str,
    "model": lambda folder: str(folder / "model"),
    "latest": lambda _: "latest",
}


# Starting from an adapter


@pytest.mark.parametrize("variant", [(), ("training=pissa",), ("training=dora",)], ids=["lora", "pissa", "dora"])
def test_a_run_starts_with_the_best_adapter_of_another(small_run: list[str], variant: tuple[str, ...]) -> None:
    overrides = [*small_run, *LORA, *variant]
    first = folder_of(run(overrides))
    start = KeepStart()
    second = folder_of(run([*overrides, "training.adapter.start_from=latest", *ONE_STEP], start))
    theirs = load_file(first / "model" / "adapter_model.safetensors")
    for name, weight in start.weights.items():
        if "lora_B" not in name:
            continue
        stored = theirs[name.removeprefix("network.").replace(".default", "")]
        assert torch.equal(weight, stored[:, :4])
        assert weight.abs().max() > 0
    adapter = config_of(second).training.adapter
    assert isinstance(adapter, LoraConfig)
    assert adapter.start_from == str(first)
    origin = record_of(second)["started_from"]
    assert origin == {
        "run_id": record_of(first)["run_id"],
        "folder": str(first),
        "step": record_of(first)["best"]["step"],
    }
    assert record_of(first)["started_from"] is None


def test_it_goes_on_from_where_the_other_ended(small_run: list[str]) -> None:
    """The first loss of the second run is that of the first run's model, not that of the base."""

    def first_loss(*overrides: str) -> float:
        metrics = run([*small_run, *LORA, *ONE_STEP, *overrides]).metrics
        return metrics["train/loss"]

    trained = run([*small_run, *LORA, "training.max_steps=12", "training.learning_rate=1e-2"])
    fresh, continued = first_loss(), first_loss(f"training.adapter.start_from={folder_of(trained).name}")
    assert continued < fresh - 0.05


def test_an_interrupted_run_with_a_start_continues_without_it(small_run: list[str], tmp_path: Path) -> None:
    first = folder_of(run([*small_run, *LORA]))
    overrides = [*small_run, *LORA, f"training.adapter.start_from={first}", "seed=0"]
    whole = folder_of(run([*overrides, f"output_dir={tmp_path / 'whole'}"]))
    stopped = run(overrides, StopAt(2))
    resumed = run([*overrides, "resume=latest"])
    assert resumed.folder == stopped.folder
    before, after = final_weights(whole), final_weights(folder_of(resumed))
    assert all(torch.equal(before[name], after[name]) for name in before)
    gone = run(overrides, StopAt(3))
    shutil.rmtree(first)
    assert run(again(gone)).status == "finished"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (("training.adapter.rank=8",), "its adapter has rank 4 instead of 8"),
        (("training.adapter.targets=attention",), "targets attention_qv instead of attention"),
        (("training.adapter.targets=[q,v]",), 'targets attention_qv instead of ["q", "v"]'),
        (("training.adapter.rslora=true",), "rslora false instead of true"),
        (("training.adapter.dora=true",), "dora false instead of true"),
        (("training.adapter.init=pissa",), "init lora instead of pissa"),
        (("seed=1",), "its adapter was trained on other base weights than those of this run"),
        (("training.adapter.start_from=20200101-000000-aaaa",), "20200101-000000-aaaa"),
        (("training.adapter.start_from=nowhere",), "nowhere"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_in_one_line(
    small_run: list[str], overrides: tuple[str, ...], reason: str
) -> None:
    run([*small_run, *LORA, "training.max_steps=2"])
    assert reason in refusal([*small_run, *LORA, "training.adapter.start_from=latest", *overrides])


def test_a_fully_tuned_run_and_a_damaged_one_are_no_start(small_run: list[str]) -> None:
    full = folder_of(run([*small_run, "training.max_steps=2"]))
    line = refusal([*small_run, *LORA, f"training.adapter.start_from={full}"])
    assert f"begin with it through model.name={record_of(full)['run_id']}" in line
    adapter = folder_of(run([*small_run, *LORA, "training.max_steps=2"]))
    weights = adapter / "model" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\1\0")
    assert "damaged" in refusal([*small_run, *LORA, f"training.adapter.start_from={adapter}"])


def test_a_run_without_a_model_is_no_start(small_run: list[str]) -> None:
    folder = folder_of(run([*small_run, *LORA], StopAt(1)))
    shutil.rmtree(folder / "model", ignore_errors=True)
    assert "no model yet; continue it" in refusal([*small_run, *LORA, f"training.adapter.start_from={folder}"])


# Starting from a whole model


@pytest.mark.parametrize("how", REFERENCES)
def test_a_model_is_taken_with_its_shape_and_its_tokenizer(small_run: list[str], how: str) -> None:
    first = folder_of(run([*small_run, "model.shape.d_ff=40"]))
    second = folder_of(run([*small_run, f"model.name={REFERENCES[how](first)}", *ONE_STEP]))
    model = config_of(second).model
    assert (model.name, model.pretrained) == (str(first / "model"), True)
    assert model.shape == config_of(first).model.shape
    assert model.shape.d_ff == 40
    assert record_of(second)["data"]["tokenizer"] == record_of(first)["data"]["tokenizer"]
    assert record_of(second)["started_from"]["run_id"] == record_of(first)["run_id"]


def test_its_weights_are_where_the_run_begins(small_run: list[str]) -> None:
    first = run([*small_run, "training.max_steps=12"])
    fresh = run([*small_run, *ONE_STEP])
    continued = run([*small_run, *ONE_STEP, f"model.name={record_of(first)['run_id']}"])
    assert continued.metrics["train/loss"] < fresh.metrics["train/loss"] - 0.1


@pytest.mark.parametrize("how", ["id", "folder"])
def test_a_run_on_a_model_of_a_run_is_continued_with_what_is_stored(
    small_run: list[str], tmp_path: Path, how: str
) -> None:
    first = folder_of(run(small_run))
    overrides = [*small_run, f"model.name={first}"]
    whole = folder_of(run([*overrides, f"output_dir={tmp_path / 'whole'}"]))
    stopped = folder_of(run(overrides, StopAt(3)))
    # What began the run may be typed again, in whatever way it names the same folder.
    resumed = run(again(stopped, f"model.name={REFERENCES[how](first)}"))
    before, after = final_weights(whole), final_weights(folder_of(resumed))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_is_not_continued_on_the_model_of_another(small_run: list[str]) -> None:
    first, other = folder_of(run(small_run)), folder_of(run([*small_run, "seed=1"]))
    stopped = folder_of(run([*small_run, f"model.name={first}"], StopAt(3)))
    with pytest.raises(ResumeError, match=r"model\.name: \S+ -> \S+") as refused:
        run(again(stopped, f"model.name={other}"))
    then, now = re.findall(r"model\.name: (\S+) -> (\S+)", str(refused.value))[0]
    assert then != now


def test_an_adapter_on_a_model_of_a_run_is_bound_to_its_weights(small_run: list[str], tmp_path: Path) -> None:
    first = folder_of(run(small_run))
    second = folder_of(run([*small_run, *LORA, f"model.name={first}"]))
    assert recipe_exp.merge(second, tmp_path / "merged").is_dir()
    path = first / "model" / "model.safetensors"
    changed = {name: tensor * 1.01 for name, tensor in load_file(path).items()}
    path.unlink()
    save_file(changed, path, metadata={"format": "pt"})
    with pytest.raises(RecipeExpError, match="trained on other base weights"):
        recipe_exp.load(second)


def test_an_adapters_run_is_no_model_until_it_is_merged(small_run: list[str]) -> None:
    folder = folder_of(run([*small_run, *LORA]))
    run_id = record_of(folder)["run_id"]
    for reference in (run_id, str(folder)):
        line = refusal([*small_run, f"model.name={reference}"])
        assert f"training.adapter.start_from={run_id}" in line
        assert f"task=merge task.run={run_id}" in line
        assert str(folder / "merged") in line
    merged = recipe_exp.merge(folder)
    second = folder_of(run([*small_run, f"model.name={merged}", *ONE_STEP]))
    assert config_of(second).model.name == str(folder / "merged")
    assert record_of(second)["started_from"] == {"run_id": run_id, "folder": str(folder), "step": None}


@pytest.mark.parametrize("reference", ["20200101-000000-aaaa", "latest"])
def test_a_run_that_is_not_there_is_refused_in_one_line(
    small_run: list[str], capsys: pytest.CaptureFixture[str], reference: str
) -> None:
    assert main([*small_run, f"model.name={reference}"]) == 2
    assert main([*small_run, *LORA, f"training.adapter.start_from={reference}"]) == 2
    lines = capsys.readouterr().err.strip().split("\n")
    assert len(lines) == 2
    assert lines[0].startswith("error: model.name: run ")
    assert lines[1].startswith("error: training.adapter.start_from: run ")


def test_other_names_are_left_alone(small_run: list[str], tmp_path: Path) -> None:
    config = compose(small_run)
    for name in ("t5_tiny", "google/flan-t5-base", str(tmp_path), "~nobody/model", "x" * 5000, "../.."):
        config = config.model_copy(update={"model": config.model.model_copy(update={"name": name})})
        assert resolve_references(config) is config


def test_a_shape_that_other_keys_contradict_is_refused(small_run: list[str]) -> None:
    first = folder_of(run([*small_run, "training.max_steps=2"]))
    line = refusal([*small_run, *LORA, "training.adapter.rank=40", "model.shape.d_model=64", f"model.name={first}"])
    assert "more than the model's width (model.shape.d_model=32)" in line


def test_plan_and_prepare_know_the_run(small_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first = folder_of(run([*small_run, "training.max_steps=2"]))
    for task in ("plan", "prepare"):
        resolved = resolve_references(compose([*small_run, f"model.name={first.name}", f"task={task}"]))
        assert resolved.model.name == str(first / "model")
        assert main([*small_run, f"model.name={first.name}", f"task={task}"]) == 0
