from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_runs import StopAt, final_state, record_of, run, series

import recipe_exp
from recipe_exp.config.compose import compose
from recipe_exp.errors import ConfigError, DataError, ResumeError
from recipe_exp.planning.flops import training_flops
from recipe_exp.tasks.data import open_data
from recipe_exp.tracking.machine_metrics import MACHINE_METRICS
from recipe_exp.training.callbacks import Callback
from recipe_exp.training.state import StepResult
from recipe_exp.training.time_spent import ACTIVITIES
from recipe_exp.training.trainer import Trainer


class Recorder(Callback):
    """Remembers which events it heard."""

    heard: list[str] = []  # noqa: RUF012

    def on_train_begin(self, trainer: Trainer) -> None:
        self.heard.append("on_train_begin")

    def on_epoch_begin(self, trainer: Trainer) -> None:
        self.heard.append(f"on_epoch_begin {trainer.state.step}")


def test_a_run_leaves_what_is_promised(small_run: list[str]) -> None:
    result = run(small_run)
    assert result.folder is not None
    assert result.status == "finished"
    assert result.exit_code == 0
    assert {"config.yaml", "metrics.jsonl", "run.json", "checkpoints", "model", "samples.jsonl"} <= {
        path.name for path in result.folder.iterdir()
    }
    record = record_of(result)
    assert record["status"] == "finished"
    assert record["step"] == 8
    assert record["best"]["metric"] == "eval/loss"
    assert record["machinery"]["micro_batch_tokens"] == 2048
    assert record["data"]["num_examples"]["train"] > 100
    assert record["provenance"]["packages"]["torch"]
    points = series(result)
    assert [step for step, metrics in points if "train/loss" in metrics] == [3, 6, 8]
    assert [step for step, metrics in points if "eval/loss" in metrics] == [4, 8]
    assert {
        "eval/perplexity",
        "eval/bleu",
        "eval/rougeL",
        "eval/ingredient_coherence",
        "eval/format_correctness",
    } <= set(result.metrics)
    samples = [json.loads(line) for line in (result.folder / "samples.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in samples] == [4, 8]
    assert len(samples[0]["samples"]) == 3


def test_every_logged_point_says_where_the_time_went(small_run: list[str]) -> None:
    config = compose(small_run)
    result = run(small_run)
    assert result.folder is not None
    points = [json.loads(line)["metrics"] for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    logged = [metrics for metrics in points if "train/loss" in metrics]
    for metrics in logged:
        shares = [metrics[f"train/{activity}_share"] for activity in ACTIVITIES]
        assert all(0.0 <= share <= 1.0 for share in shares)
        assert sum(shares) <= 1.0
        assert metrics.keys() >= (MACHINE_METRICS - {"train/compile_seconds", "train/compile_speedup"}) | {
            "train/padding_share"
        }
    # Evaluated and saved after step 4, told at step 6.
    assert logged[0]["train/evaluation_share"] == 0.0 < logged[1]["train/evaluation_share"]
    assert logged[1]["train/checkpoint_share"] > 0.0
    assert config.data.cache_dir is not None
    peaks = json.loads((Path(config.data.cache_dir) / "matrix_peaks.json").read_text())
    (peak,) = [value for name, value in peaks.items() if ", fp32, " in name and ", 1 threads, " in name]
    lengths = open_data(config, Console(quiet=True)).split("train")
    flops = training_flops(
        config.model.shape,
        config.training.adapter,
        source_tokens=float(lengths.source_lengths.mean()),
        target_tokens=float(lengths.target_lengths.mean()),
        gradient_checkpointing=False,
    )
    for metrics in logged:
        # The recipes of a few windows are not quite as long as all are on average.
        expected = metrics["train/recipes_per_second"] * flops / peak
        assert metrics["train/utilisation"] == pytest.approx(expected, rel=0.2)


def test_a_profile_of_some_steps_stays_in_the_run_folder(small_run: list[str]) -> None:
    result = run([*small_run, "hardware.profile_steps=2", "evaluation.every_n_steps=null"])
    assert result.folder is not None
    assert {path.name for path in (result.folder / "profile").iterdir()} == {"trace.json", "operators.txt"}
    assert "aten::mm" in (result.folder / "profile" / "operators.txt").read_text()


def test_the_model_folder_loads_with_plain_transformers(small_run: list[str]) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    result = run(small_run)
    assert result.folder is not None
    network = AutoModelForSeq2SeqLM.from_pretrained(result.folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(result.folder / "model")
    text = (
        "**Onion Soup**\n\n**Ingredients:**\n- 1 1/2 cups broth\n- 2 onions\n\n**Instructions:**\n1. Chop the onions."
    )
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert "1 1/2 cups" in tokenizer.decode(tokenizer("1 ½ cups")["input_ids"], skip_special_tokens=True)
    ours = recipe_exp.load(result.folder)
    prompt = "Write a recipe for onion soup."
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    theirs = network.generate(ids, max_new_tokens=12)
    assert ours.generate([prompt], max_new_tokens=12) == [ours.tokenizer.decode(theirs[0].tolist())]


def test_the_same_config_gives_the_same_numbers(small_run: list[str], tmp_path: Path) -> None:
    overrides = [*small_run, "model.dropout=0.1"]
    first = run(overrides)
    second = run([*overrides, f"output_dir={tmp_path / 'again'}"])
    assert series(first) == series(second)
    assert final_state(first) == final_state(second)


def test_the_seed_changes_the_numbers(small_run: list[str]) -> None:
    assert series(run(small_run)) != series(run([*small_run, "seed=1"]))


def test_the_micro_batch_does_not_change_the_loss(small_run: list[str]) -> None:
    whole = run([*small_run, "hardware.micro_batch_tokens=16384", "training.max_steps=3"])
    cut = run([*small_run, "hardware.micro_batch_tokens=256", "training.max_steps=3"])
    assert cut.metrics["train/loss"] == pytest.approx(whole.metrics["train/loss"], rel=1e-5)
    assert cut.metrics["train/grad_norm"] == pytest.approx(whole.metrics["train/grad_norm"], rel=1e-4)


@pytest.mark.parametrize("stop_at", [3, 5])
def test_an_interrupted_run_continues_bit_for_bit(small_run: list[str], tmp_path: Path, stop_at: int) -> None:
    overrides = [*small_run, "model.dropout=0.1"]
    whole = run([*overrides, f"output_dir={tmp_path / 'whole'}"])
    stopped = run(overrides, StopAt(stop_at))
    assert (stopped.status, stopped.exit_code) == ("interrupted", 143)
    assert record_of(stopped)["status"] == "interrupted"
    continued = run([*overrides, "resume=latest"])
    assert continued.folder == stopped.folder
    assert series(continued) == series(whole)
    assert final_state(continued) == final_state(whole)


def test_a_run_is_continued_by_its_id_alone(small_run: list[str]) -> None:
    stopped = run(small_run, StopAt(3))
    assert stopped.folder is not None
    output_dir = stopped.folder.parent.parent
    continued = run([f"resume={record_of(stopped)['run_id']}", f"output_dir={output_dir}"])
    assert continued.folder == stopped.folder
    assert record_of(continued)["step"] == 8


def test_keys_given_beside_an_id_count(small_run: list[str]) -> None:
    stopped = run(small_run, StopAt(3))
    assert stopped.folder is not None
    place = f"output_dir={stopped.folder.parent.parent}"
    resume = f"resume={record_of(stopped)['run_id']}"
    run([resume, place, "hardware.micro_batch_tokens=512", "training.log_every_n_steps=1"])
    assert record_of(stopped)["machinery"]["micro_batch_tokens"] == 512
    assert [step for step, metrics in series(stopped) if "train/loss" in metrics] == [3, 4, 5, 6, 7, 8]
    assert len(record_of(stopped)["executions"]) == 2


def test_a_refused_resume_leaves_the_run_as_it_was(small_run: list[str], tmp_path: Path) -> None:
    data, other = tmp_path / "recipes.jsonl", tmp_path / "other.jsonl"
    write_recipes(data, 120)
    write_recipes(other, 121)
    overrides = [*small_run, "data=jsonl", f"data.path={data}", "data.max_examples=null"]
    stopped = run(overrides, StopAt(3))
    assert stopped.folder is not None
    config, record = (stopped.folder / "config.yaml").read_text(), record_of(stopped)
    with pytest.raises(ResumeError):
        run([*overrides, f"resume={record['run_id']}", f"data.path={other}"])
    assert (stopped.folder / "config.yaml").read_text() == config
    assert {**record_of(stopped), "updated": 0} == {**record, "updated": 0}
    assert run([*overrides, "resume=latest"]).status == "finished"


def test_evaluation_takes_the_runs_settings_and_the_given_keys(small_run: list[str]) -> None:
    from recipe_exp.tasks.trained.loading import open_run, run_config

    result = run([*small_run, "data.prompt=title", "evaluation.num_beams=2"])
    assert result.folder is not None
    output_dir = result.folder.parent.parent
    stored = open_run(output_dir, "latest")
    config = run_config(stored, compose(["task=evaluate", f"output_dir={output_dir}", "evaluation.max_examples=7"]))
    assert (config.data.prompt, config.evaluation.num_beams) == ("title", 2)
    assert (config.evaluation.max_examples, config.task.kind) == (7, "evaluate")


def test_a_changed_key_is_refused_on_resume(small_run: list[str]) -> None:
    stopped = run(small_run, StopAt(3))
    run_id = record_of(stopped)["run_id"]
    with pytest.raises(ResumeError, match=r"training.learning_rate: 0.005 -> 0.001"):
        run([*small_run, f"resume={run_id}", "training.learning_rate=1e-3"])
    with pytest.raises(ResumeError, match=r"training.learning_rate: 0.005 -> 0.001"):
        run([*small_run, "resume=latest", "training.learning_rate=1e-3"])


def test_other_data_is_refused_on_resume(small_run: list[str], tmp_path: Path) -> None:
    data = tmp_path / "recipes.jsonl"
    write_recipes(data, 120)
    overrides = [*small_run, "data=jsonl", f"data.path={data}", "data.max_examples=null"]
    stopped = run(overrides, StopAt(3))
    write_recipes(data, 121)
    with pytest.raises(ResumeError, match="data: "):
        run([*overrides, f"resume={record_of(stopped)['run_id']}"])


def test_a_finished_run_is_not_run_again(small_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first = run(small_run)
    again = run([*small_run, "resume=latest"])
    assert (again.folder, again.exit_code) == (first.folder, 0)
    assert "finished already" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_passed_over(small_run: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    stopped = run(small_run, StopAt(5))
    assert stopped.folder is not None
    newest = sorted((stopped.folder / "checkpoints").iterdir())[-1]
    (newest / "optimizer.safetensors").write_bytes(b"damaged")
    assert run([*small_run, "resume=latest"]).status == "finished"
    shown = capsys.readouterr().out
    assert "optimizer.safetensors: damaged" in shown.replace("\n", "")
    assert "continuing at step 4" in shown


def test_callbacks_come_from_python_and_from_config(
    small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_callbacks.py").write_text(
        "from recipe_exp import Callback\n"
        "class Marker(Callback):\n"
        "    def on_train_end(self, trainer):\n"
        "        open(trainer_file, 'w').write(str(trainer.state.step))\n"
        f"trainer_file = {str(tmp_path / 'marker')!r}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    Recorder.heard.clear()
    run([*small_run, "training.callbacks=[my_callbacks:Marker]"], Recorder())
    assert (tmp_path / "marker").read_text() == "8"
    assert Recorder.heard == ["on_train_begin", "on_epoch_begin 0"]


def test_a_method_that_is_no_event_is_refused(small_run: list[str]) -> None:
    class Mistaken(Callback):
        def on_step_ends(self, trainer: Trainer) -> None: ...

    with pytest.raises(ConfigError, match=r"on_step_ends: no such event; did you mean on_step_end\?"):
        run(small_run, Mistaken())


def test_prompts_of_ones_own_are_answered_with_every_sample(small_run: list[str]) -> None:
    prompts = 'evaluation.validation_prompts=["Write a soup.","title=Toast; ingredients=bread, butter"]'
    result = run([*small_run, prompts, "evaluation.samples_every_n_steps=3"])
    assert result.folder is not None
    samples = [json.loads(line) for line in (result.folder / "samples.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in samples] == [3, 4, 6, 8]
    own = [sample["prompt"] for sample in samples[0]["samples"] if sample["reference"] is None]
    assert own == ["Write a soup.", "Write a recipe for Toast using: bread, butter"]


def test_early_stopping_ends_a_run_that_does_not_improve(small_run: list[str]) -> None:
    result = run(
        [
            *small_run,
            "evaluation.every_n_steps=1",
            "training.early_stopping_patience=2",
            "training.early_stopping_threshold=100",
        ]
    )
    assert result.status == "finished"
    assert record_of(result)["step"] == 3
    assert record_of(result)["stop_reason"] == "early_stopping"


def test_a_failed_run_says_so(small_run: list[str]) -> None:
    class Failing(Callback):
        def on_step_end(self, trainer: Trainer, result: StepResult) -> None:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        run(small_run, Failing())
    output_dir = next(item for item in small_run if item.startswith("output_dir=")).partition("=")[2]
    (folder,) = (Path(output_dir) / "runs").iterdir()
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "failed"
    assert record["error"] == "RuntimeError: on purpose"


def test_lora_trains_merges_and_loads(small_run: list[str], tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    result = run([*small_run, "training=lora", "training.batch_size=16", "training.adapter.rank=4"])
    assert result.folder is not None
    names = {file.name for file in (result.folder / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
    merged = recipe_exp.merge(result.folder, tmp_path / "merged")
    adapter, plain = recipe_exp.load(result.folder), AutoModelForSeq2SeqLM.from_pretrained(merged).eval()
    ids = torch.tensor([[5, 9, 12, 1]])
    with torch.no_grad():
        ours = adapter.network(input_ids=ids, labels=ids).logits
        theirs = plain(input_ids=ids, labels=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    evaluated = recipe_exp.evaluate(result.folder, output_dir=result.folder.parent.parent)
    assert evaluated.metrics["eval/loss"] == pytest.approx(result.metrics["eval/loss"], rel=1e-5)


def test_own_recipes_with_bad_lines(small_run: list[str], tmp_path: Path) -> None:
    data = tmp_path / "own" / "batch_flan_t5.jsonl"
    data.parent.mkdir()
    write_recipes(data, 100)
    with data.open("a") as stream:
        stream.write("{broken\n")
        stream.write(
            json.dumps({"input": "Write a recipe for toast.", "output": "**Toast**\n\n**Ingredients:**\n- bread"})
        )
    overrides = [*small_run, "data=jsonl", f"data.path={data.parent}", "data.max_examples=null"]
    result = run(overrides)
    assert sum(record_of(result)["data"]["rejected"].values()) == 1
    with pytest.raises(DataError, match="max_rejected_fraction"):
        run([*overrides, "data.max_rejected_fraction=0.001"])


def write_recipes(path: Path, count: int) -> None:
    recipes = recipe_exp.sample_recipes(seed=7)
    lines = [
        json.dumps({"title": r.title, "ingredients": list(r.ingredients), "instructions": list(r.instructions)})
        for r, _ in zip(recipes, range(count), strict=False)
    ]
    path.write_text("\n".join(lines) + "\n")
