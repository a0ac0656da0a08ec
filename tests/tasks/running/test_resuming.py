from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import StopAt, again, final_state, folder_of, record_of, run, series

import recipe_exp
from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.errors import CheckpointError, ModelError, ResumeError
from recipe_exp.tasks.running.resuming import fingerprint_history, refuse_foreign_checkpoint
from recipe_exp.training.callbacks import Callback
from recipe_exp.training.trainer import Trainer

PEAK, WARMUP = 5e-3, 2
EVERY_STEP = ("training.log_every_n_steps=1", "training.max_steps=6")


class Crash(Callback):
    """Stands in for a kill before anything is saved."""

    def on_step_begin(self, trainer: Trainer) -> None:
        raise RuntimeError("on purpose")


@pytest.fixture
def small_run(small_run: list[str]) -> list[str]:
    """Even smaller: what is generated does not matter here."""
    return [*small_run, *("evaluation.max_examples=4", "evaluation.max_generated_examples=1", "training.batch_size=4")]


def edit_record(folder: Path, **fields: Any) -> None:
    (folder / "run.json").write_text(json.dumps(record_of(folder) | fields))


def content_of(folder: Path) -> dict[str, str]:
    """Hashes of everything in a run folder but its locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def rates(folder: Path) -> list[float]:
    """The learning rate of every step."""
    points = [metrics for _, metrics in series(folder) if "train/learning_rate" in metrics]
    return [metrics["train/learning_rate"] for metrics in points]


def linear(total_steps: int) -> list[float]:
    """The definition: a warm-up, then a straight line to zero at the end."""
    warmup = [PEAK * (step + 1) / WARMUP for step in range(WARMUP)]
    return [*warmup, *(PEAK * (1 - step / (total_steps - WARMUP)) for step in range(total_steps - WARMUP))]


def copied_to_end(folder: Path) -> Path:
    """A copy of a run that was stopped, which then runs to its end."""
    copy = copied(folder, folder.parent.parent.parent / "undisturbed")
    assert run(again(copy)).status == "finished"
    return copy


def copied(folder: Path, output_dir: Path) -> Path:
    target = output_dir / "runs" / folder.name
    shutil.copytree(folder, target)
    return target


# Refusals


def test_all_facts_that_differ_are_in_one_table_and_nothing_is_written(small_run: list[str]) -> None:
    folder = folder_of(run(small_run, StopAt(3)))
    record = record_of(folder)
    machinery = {**record["machinery"], "device": "cuda", "num_processes": 2, "precision": "tf32"}
    fingerprints = [{**record["fingerprints"][0], "tokenizer": "other tokenizer", "data": "other tokens"}]
    data = {**record["data"], "data_fingerprint": "other contents"}
    edit_record(folder, machinery=machinery, fingerprints=fingerprints, data=data)
    before = content_of(folder)
    with pytest.raises(ResumeError) as caught:
        run(again(folder))
    assert caught.value.exit_code == 2
    first, *table, remedy = str(caught.value).split("\n")
    assert folder.name in first
    assert [line.split(":")[0].strip() for line in table] == [
        *("data", "tokenizer", "precision", "num_processes", "device")
    ]
    assert "  num_processes: 2 -> 1" in table
    permission = "'resume_allow=[data,tokenizer,precision,num_processes,device]'"
    assert permission in remedy
    assert content_of(folder) == before

    # The checkpoint was made with what the record said before it was falsified.
    edit_record(folder, fingerprints=[*fingerprints, *record["fingerprints"], *fingerprints])
    allowed = run(again(folder, permission.strip("'")))
    assert allowed.status == "finished"
    changes = record_of(folder)["executions"][-1]["changes"]
    assert {"key": "num_processes", "then": 2, "now": 1} in changes
    assert [change["key"] for change in changes] == ["data", "tokenizer", "precision", "num_processes", "device"]
    assert record_of(folder)["machinery"]["precision"] == "fp32"


def test_other_tokens_of_the_same_data_are_named_where_nothing_else_explains_them(small_run: list[str]) -> None:
    folder = folder_of(run(small_run, StopAt(3)))
    record = record_of(folder)
    edit_record(folder, fingerprints=[{**record["fingerprints"][0], "data": "made by another version"}])
    with pytest.raises(ResumeError, match=r"tokens: made by anot -> .*\n.*resume_allow=\[tokens\]"):
        run(again(folder))


def test_what_was_permitted_needs_no_permission_again(small_run: list[str], tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    write_recipes(first, 120)
    write_recipes(second, 121)
    own = [*small_run, "data=jsonl", "data.max_examples=null", "hardware.num_threads=1"]
    folder = folder_of(run([*own, f"data.path={first}"], StopAt(3)))
    other = f"data.path={second}"
    with pytest.raises(ResumeError) as caught:
        run([*own, other, f"resume={record_of(folder)['run_id']}"])
    assert "data: " in str(caught.value)
    with pytest.raises(RuntimeError, match="on purpose"):
        run(again(folder, other, "resume_allow=[data,tokenizer]"), Crash())
    assert run(again(folder), StopAt(5)).status == "interrupted"
    assert run(again(folder)).status == "finished"
    assert len(record_of(folder)["fingerprints"]) == 2


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    now = {"data": "b", "tokenizer": "t", "base": None}
    earlier = [{"data": "a", "tokenizer": "t", "base": None}]
    config = compose([])
    refuse_foreign_checkpoint(tmp_path, {"data": "a", "tokenizer": "t"}, now, earlier, config)
    refuse_foreign_checkpoint(tmp_path, {"data": "b", "tokenizer": "t", "base": None}, now, earlier, config)
    with pytest.raises(ResumeError, match="data: c -> b"):
        refuse_foreign_checkpoint(tmp_path, {"data": "c", "tokenizer": "t", "base": None}, now, earlier, config)
    permitted = config.with_overrides(["resume=latest", "resume_allow=[data]"])
    refuse_foreign_checkpoint(tmp_path, {"data": "c", "tokenizer": "t", "base": None}, now, earlier, permitted)


def test_fingerprints_are_remembered_once() -> None:
    a, b = {"data": "a"}, {"data": "b"}
    assert fingerprint_history([], a) == [a]
    assert fingerprint_history([a], a) == [a]
    assert fingerprint_history([a], b) == [a, b]
    assert fingerprint_history([a, b], a) == [a, b, a]


def test_packages_that_changed_are_named_and_do_not_refuse(
    small_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(run(small_run, StopAt(3)))
    provenance = record_of(folder)["provenance"]
    older = {**provenance, "packages": {**provenance["packages"], "torch": "1.0"}, "gpus": [{"name": "GPU X"}]}
    edit_record(folder, provenance=older)
    run(again(folder))
    shown = capsys.readouterr().out
    assert f"torch 1.0 -> {provenance['packages']['torch']}" in shown
    assert "GPU GPU X -> none" in shown
    assert "numbers may differ in the last digits" in shown


def test_a_run_on_the_same_machine_says_nothing_of_it(small_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(run(small_run, StopAt(3)))
    capsys.readouterr()
    run(again(folder))
    assert "note:" not in capsys.readouterr().out.replace("note: training on generated", "")


# Another length


def test_a_stretched_schedule_is_that_of_the_longer_run_from_there_on(small_run: list[str], tmp_path: Path) -> None:
    folder = folder_of(run([*small_run, *EVERY_STEP, "model.dropout=0.1"]))
    assert rates(folder) == pytest.approx(linear(6))
    interrupted = copied(folder, tmp_path / "interrupted")
    stretch = ("training.max_steps=12", "resume_schedule=stretch")
    run(again(folder, *stretch))
    assert rates(folder) == pytest.approx([*linear(6), *linear(12)[6:]])
    assert record_of(folder)["status"] == "finished"
    assert (record_of(folder)["total_steps"], record_of(folder)["schedule_steps"]) == (12, 12)

    run(again(interrupted, *stretch), StopAt(9))
    run(again(interrupted))
    assert series(interrupted) == series(folder)
    assert final_state(interrupted) == final_state(folder)


def test_a_kept_schedule_goes_on_with_its_last_value(small_run: list[str], tmp_path: Path) -> None:
    cosine = ("training/schedule=cosine", "training.schedule.min_ratio=0.2")
    whole = folder_of(run([*small_run, *EVERY_STEP, *cosine]))
    before = rates(whole)
    half_cosine = [0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert before == pytest.approx([PEAK / 2, PEAK, *(PEAK * factor for factor in half_cosine)])
    interrupted = copied(whole, tmp_path / "interrupted")
    keep = ("training.max_steps=10", "resume_schedule=keep")
    run(again(whole, *keep))
    assert rates(whole) == pytest.approx([*before, *[0.2 * PEAK] * 4])

    run(again(interrupted, *keep), StopAt(8))
    run(again(interrupted))
    assert rates(interrupted) == rates(whole)
    assert final_state(interrupted) == final_state(whole)


def test_the_decision_outlives_a_kill_before_it_is_saved(small_run: list[str], tmp_path: Path) -> None:
    folder = folder_of(run([*small_run, *EVERY_STEP]))
    killed = copied(folder, tmp_path / "killed")
    stretch = ("training.max_steps=9", "resume_schedule=stretch")
    run(again(folder, *stretch))
    with pytest.raises(RuntimeError, match="on purpose"):
        run(again(killed, *stretch), Crash())
    run(again(killed))
    assert rates(killed) == rates(folder)
    assert final_state(killed) == final_state(folder)


def test_a_longer_run_without_decay_is_as_if_it_had_been_that_long(small_run: list[str], tmp_path: Path) -> None:
    constant = [*small_run, "training/schedule=constant", "model.dropout=0.1"]
    long = folder_of(run([*constant, f"output_dir={tmp_path / 'long'}"]))
    folder = folder_of(run([*constant, "training.max_steps=5"]))
    continued = run([*constant, "resume=latest"])
    assert continued.folder == folder
    assert final_state(folder) == final_state(long)


def test_a_run_is_not_cut_below_what_it_has_done(small_run: list[str]) -> None:
    folder = folder_of(run(small_run, StopAt(5)))
    with pytest.raises(ResumeError, match="has done 5 steps already, more than the 4 of this command"):
        run(again(folder, "training.max_steps=4", "resume_schedule=keep"))
    run(again(folder, "training.max_steps=7", "resume_schedule=keep"))
    assert record_of(folder)["step"] == 7


def test_a_continued_run_is_evaluated_like_any_other(small_run: list[str]) -> None:
    folder = folder_of(run(small_run, StopAt(3)))
    run([*small_run, "resume=latest"])
    output = f"output_dir={folder.parent.parent}"
    run_id = record_of(folder)["run_id"]
    assert main(["task=evaluate", f"task.run={run_id}", output, "hardware=cpu", "evaluation.max_examples=4"]) == 0


# The base under an adapter

LORA = ("training/adapter=lora", "training.adapter.rank=2", "training.adapter.dropout=0.1")


def disturb(weights: Path) -> None:
    """Makes another base of the same shape."""
    state = load_file(weights)
    name = min(state)
    save_file(state | {name: state[name] + 0.5}, weights, metadata={"format": "pt"})


def test_an_adapter_is_continued_and_used_on_its_own_base_only(small_run: list[str], tmp_path: Path) -> None:
    folder = folder_of(run([*small_run, *LORA], StopAt(3)))
    untouched = copied(folder, tmp_path / "untouched")
    base = record_of(folder)["fingerprints"][-1]["base"]
    newest = folder / "checkpoints" / "step-00000003"
    assert json.loads((newest / "state.json").read_text())["fingerprints"]["base"] == base
    facts = {"fingerprint": base, "quantization": "none", "init": "lora"}
    assert json.loads((folder / "model" / "base.json").read_text()) == facts
    disturb(folder / "base" / "model.safetensors")
    before = content_of(folder)
    with pytest.raises(ResumeError, match=rf"base: {base[:12]} -> .*\n.*resume_allow=\[base\]"):
        run(again(folder))
    for use in (recipe_exp.load, recipe_exp.merge):
        with pytest.raises(ModelError, match="the adapter was trained on other base weights") as caught:
            use(folder)
        assert "\n" not in str(caught.value)
    output = f"output_dir={folder.parent.parent}"
    for task in ("task=evaluate", "task=generate task.prompts=[Soup]", "task=merge"):
        assert main([*task.split(), f"task.run={record_of(folder)['run_id']}", output, "hardware=cpu"]) == 2
    assert content_of(folder) == before

    run(again(folder, "resume_allow=[base]"))
    assert recipe_exp.load(folder).generate(["Soup"], max_new_tokens=2)
    run(again(untouched))
    assert record_of(untouched)["fingerprints"] == [record_of(untouched)["fingerprints"][0]]
    assert final_state(untouched) != final_state(folder)


def test_a_missing_base_is_asked_back(small_run: list[str]) -> None:
    folder = folder_of(run([*small_run, *LORA], StopAt(3)))
    (folder / "base").rename(folder / "gone")
    with pytest.raises(ModelError, match="base: missing, and the run's adapter was trained on the weights in it"):
        run(again(folder))
    with pytest.raises(ModelError, match="no such folder, and the weights that the adapter was trained on"):
        recipe_exp.load(folder)


def test_an_adapter_that_was_interrupted_continues_bit_for_bit(small_run: list[str], tmp_path: Path) -> None:
    whole = folder_of(run([*small_run, *LORA, f"output_dir={tmp_path / 'whole'}"]))
    folder = folder_of(run([*small_run, *LORA], StopAt(3)))
    run(again(folder))
    assert series(folder) == series(whole)
    assert final_state(folder) == final_state(whole)


def test_an_adapter_killed_before_its_first_checkpoint_starts_as_if_it_never_had(
    small_run: list[str], tmp_path: Path
) -> None:
    whole = folder_of(run([*small_run, *LORA, f"output_dir={tmp_path / 'whole'}"]))
    with pytest.raises(RuntimeError, match="on purpose"):
        run([*small_run, *LORA], Crash())
    continued = run([*small_run, *LORA, "resume=latest"])
    assert final_state(folder_of(continued)) == final_state(whole)


@pytest.fixture
def pretrained(small_run: list[str], tmp_path: Path) -> list[str]:
    """Overrides of a run that starts from weights in a folder."""
    model = folder_of(run([*small_run, "training.max_steps=3", f"output_dir={tmp_path / 'first'}"])) / "model"
    shutil.copytree(model, tmp_path / "pretrained")
    return [*small_run, f"model.name={tmp_path / 'pretrained'}", "model.pretrained=true"]


def test_pretrained_weights_under_an_adapter_are_compared(pretrained: list[str], tmp_path: Path) -> None:
    folder = folder_of(run([*pretrained, *LORA], StopAt(3)))
    disturb(tmp_path / "pretrained" / "model.safetensors")
    with pytest.raises(ResumeError, match="base: "):
        run(again(folder))
    with pytest.raises(ModelError, match=r"other base weights than those of .*pretrained"):
        recipe_exp.load(folder)


def test_what_full_tuning_began_with_is_recorded_and_not_compared(pretrained: list[str], tmp_path: Path) -> None:
    whole = folder_of(run([*pretrained, f"output_dir={tmp_path / 'whole'}"]))
    folder = folder_of(run(pretrained, StopAt(3)))
    base = record_of(folder)["fingerprints"][-1]["base"]
    assert base is not None
    disturb(tmp_path / "pretrained" / "model.safetensors")
    run(again(folder))
    assert final_state(folder) == final_state(whole)
    assert record_of(folder)["fingerprints"][-1]["base"] == base
    assert not (folder / "model" / "base.json").exists()


def test_the_fingerprint_is_of_what_training_computed_with(pretrained: list[str], tmp_path: Path) -> None:
    from recipe_exp.models.base_weights import base_fingerprint

    folder = folder_of(run([*pretrained, *LORA, "training.max_steps=1", "training.warmup_steps=0"]))
    base = record_of(folder)["fingerprints"][-1]["base"]
    assert base == base_fingerprint(str(tmp_path / "pretrained"))
    network = recipe_exp.load(folder).network.get_base_model()
    stored = load_file(tmp_path / "pretrained" / "model.safetensors")
    assert torch.equal(network.shared.weight, stored["shared.weight"])


def write_recipes(path: Path, count: int) -> None:
    recipes = recipe_exp.sample_recipes(seed=7)
    lines = [
        json.dumps({"title": r.title, "ingredients": list(r.ingredients), "instructions": list(r.instructions)})
        for r, _ in zip(recipes, range(count), strict=False)
    ]
    path.write_text("\n".join(lines) + "\n")


# What is gone


def test_a_newest_checkpoint_that_is_gone_as_a_whole_is_noticed(
    small_run: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(run(small_run, StopAt(5)))
    expected = content_of(copied_to_end(folder))
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    assert newest.name == "step-00000005"
    shutil.rmtree(newest)
    with pytest.raises(CheckpointError, match=r"step-00000005: is gone; put it back"):
        run(again(folder, "resume_strict=true"))
    capsys.readouterr()
    assert run(again(folder)).status == "finished"
    assert "step-00000005: is gone; falling back to step-00000004" in capsys.readouterr().out
    weights = "model/model.safetensors"
    assert content_of(folder)[weights] == expected[weights]


def test_without_any_checkpoint_the_model_that_is_there_is_not_trained_over(small_run: list[str]) -> None:
    folder = folder_of(run(small_run, StopAt(5)))
    shutil.rmtree(folder / "checkpoints")
    before = content_of(folder)
    with pytest.raises(CheckpointError, match="there is no other checkpoint"):
        run(again(folder))
    after = content_of(folder)
    assert {name: after[name] for name in before if name != "run.json"} == {
        name: before[name] for name in before if name != "run.json"
    }


def test_machinery_that_rounds_otherwise_is_said(small_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(run(small_run, StopAt(3)))
    capsys.readouterr()
    run(again(folder, "hardware.micro_batch_tokens=512"))
    assert "note: micro_batch_tokens 2048 -> 512: sums round in another way" in capsys.readouterr().out
