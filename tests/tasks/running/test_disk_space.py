from __future__ import annotations

from pathlib import Path

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.errors import CheckpointError
from recipe_exp.planning.held import checkpoint_bytes
from recipe_exp.tasks.running import disk_space
from recipe_exp.tasks.running.disk_space import check_disk_space, num_at_once
from recipe_exp.tasks.train import train

MIB = 1024**2


def config_of(*overrides: str) -> ExperimentConfig:
    return compose(["model=flan_t5_small", "training=full", *overrides])


@pytest.mark.parametrize(
    "overrides",
    [["training=full"], ["training/optimizer=adafactor"], ["training=lora", "training.adapter.rank=4"]],
)
def test_the_size_that_is_planned_is_that_of_a_checkpoint(small_run: list[str], overrides: list[str]) -> None:
    config = compose([*small_run, *overrides, "training.max_steps=3"])
    result = train(config)
    assert result.folder is not None
    (checkpoint,) = (result.folder / "checkpoints").iterdir()
    size = sum((checkpoint / name).stat().st_size for name in ("optimizer.safetensors", weights_of(checkpoint)))
    # The rest is the files' headers.
    assert checkpoint_bytes(config.model, config.training) == pytest.approx(size, rel=0.03, abs=40_000)


def weights_of(checkpoint: Path) -> str:
    return next(path.name for path in checkpoint.glob("*model.safetensors"))


@pytest.mark.parametrize(
    ("overrides", "total_steps", "expected"),
    [
        (["training.keep_best_n_checkpoints=1"], 1000, 3),
        (["training.keep_best_n_checkpoints=5"], 1000, 7),
        (["training.checkpoint_every_n_steps=null", "evaluation.every_n_steps=null"], 1000, 1),
        (["training.checkpoint_every_n_steps=600", "evaluation.every_n_steps=null"], 1000, 2),
        (["data.validation_fraction=0", "evaluation.every_n_steps=null"], 1000, 2),
    ],
)
def test_the_checkpoints_that_are_there_at_once_are_counted(
    overrides: list[str], total_steps: int, expected: int
) -> None:
    base = ["training.checkpoint_every_n_steps=100", "evaluation.every_n_steps=100"]
    assert num_at_once(config_of(*base, *overrides), total_steps) == expected


def test_a_run_whose_first_checkpoint_has_no_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda _folder: 500 * MIB)
    with pytest.raises(CheckpointError) as caught:
        check_disk_space(config_of(), tmp_path, 10_000, pytest.fail)
    assert str(caught.value) == (
        "output_dir=outputs: 500 MiB are free and a checkpoint takes 881 MiB; free 2.1 GiB, or set output_dir to "
        "another disk"
    )
    assert caught.value.exit_code == 2


def test_fewer_than_are_needed_is_a_warning_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(disk_space, "free_bytes", lambda _folder: 1000 * MIB)
    check_disk_space(config_of(), tmp_path, 10_000, lines.append)
    assert lines == [
        "warning: output_dir=outputs: 1,000 MiB are free, and up to 3 checkpoints of 881 MiB are there at once, the "
        "one being written among them; a save that does not fit is left out, so free 1.6 GiB"
    ]
    for step in (1, 2):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    check_disk_space(config_of(), tmp_path, 10_000, pytest.fail)


@pytest.mark.parametrize("free", [10_000 * MIB, None])
def test_enough_room_and_a_disk_that_does_not_say_are_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None
) -> None:
    monkeypatch.setattr(disk_space, "free_bytes", lambda _folder: free)
    check_disk_space(config_of(), tmp_path, 10_000, pytest.fail)


def test_a_full_disk_is_said_before_the_model_is_built(small_run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from recipe_exp.tasks.running.workbench import Workbench

    monkeypatch.setattr(disk_space, "free_bytes", lambda _folder: 1000)
    monkeypatch.setattr(Workbench, "build", None)
    with pytest.raises(CheckpointError, match="are free and a checkpoint takes"):
        train(compose(small_run))


def test_the_random_base_of_an_adapter_is_counted_until_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(["model=flan_t5_small", "model.pretrained=false", "training=lora"])
    monkeypatch.setattr(disk_space, "free_bytes", lambda _: 200 * MIB)
    with pytest.raises(CheckpointError, match="0 MiB are free"):
        check_disk_space(config, tmp_path, 10_000, pytest.fail)
    (tmp_path / "base").mkdir()
    check_disk_space(config, tmp_path, 10_000, pytest.fail)
