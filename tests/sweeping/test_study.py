"""Optuna behind the ledger. What would be trained is a known function, told to the real search."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from recipe_exp.config.compose import compose_command
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.errors import SweepError
from recipe_exp.sweeping.ledger import Ended, Ledger, TrialRecord, TrialState
from recipe_exp.sweeping.presence import Presence
from recipe_exp.sweeping.progress import Evaluation
from recipe_exp.sweeping.queue import Board
from recipe_exp.sweeping.space import Dimension, Space
from recipe_exp.sweeping.study import DATABASE_NAME, StudySearch
from recipe_exp.tracking import RunFolder

RATE = Dimension("training.learning_rate", "float", 1e-5, 1e-1, is_log=True)
BATCH = Dimension("training.batch_size", "ordered", values=("16", "32", "64"))
SPACE = Space((), (RATE, BATCH))


class Bench:
    """One sweep's folder, in which searches are made again and again."""

    def __init__(self, folder: Path, space: Space = SPACE) -> None:
        self.folder = RunFolder.create(folder, run_name="search", kind="sweep", command=[])
        self.ledger = Ledger(self.folder.path / "ledger.jsonl")
        self.space = space

    def search(self, *settings: str) -> StudySearch:
        config: ExperimentConfig = compose_command([f"sweep.{line}" for line in settings], is_sweep=True).config
        board = Board(
            self.folder,
            self.ledger,
            Presence(self.folder.path),
            config.sweep,
            {},
            lambda record: board.trials[record.key],
        )
        return StudySearch(board, self.space, config, "name")

    def last(self) -> TrialRecord:
        return list(self.ledger.read().values())[-1]

    def end(
        self, search: StudySearch, record: TrialRecord, state: TrialState = "done", best: float | None = None
    ) -> None:
        end = Ended(0.0, record.key, state, 0, 2.0, metric="eval/loss", best=best)
        search.on_end(self.ledger.append(lambda _: [end])[record.key])

    def studied(self) -> list[optuna.trial.FrozenTrial]:
        storage = f"sqlite:///{self.folder.path / DATABASE_NAME}"
        return optuna.load_study(study_name="name", storage=storage).get_trials()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def loss(record: TrialRecord) -> float:
    rate = math.log10(float(record.varying["training.learning_rate"]) / 5e-4)
    return 1.0 + rate**2 + 0.1 * (math.log2(int(record.varying["training.batch_size"])) - 5.0) ** 2


def drawn(bench: Bench, search: Callable[[], StudySearch]) -> list[tuple[str, ...]]:
    """Runs a search to its end, asking `search` for it before each trial."""
    while (made := search()).next():
        record = bench.last()
        bench.end(made, record, best=loss(record))
    return [tuple(record.varying.values()) for record in bench.ledger.read().values()]


def test_a_search_that_is_interrupted_after_each_trial_draws_the_same(tmp_path: Path) -> None:
    settings = ("search=tpe", "num_trials=5", "seed=3")
    whole, parts = Bench(tmp_path / "whole"), Bench(tmp_path / "parts")
    at_once = whole.search(*settings)
    assert drawn(whole, lambda: at_once) == drawn(parts, lambda: parts.search(*settings))
    assert len(whole.ledger.read()) == 5
    assert [known.value for known in whole.studied()] == [known.value for known in parts.studied()]
    # More trials go on where it ended.
    assert parts.search("search=tpe", "num_trials=6", "seed=3").next()


@pytest.mark.long
def test_tpe_finds_the_valley_and_random_pruned_draws_what_random_draws(tmp_path: Path) -> None:
    learning, random = Bench(tmp_path / "tpe"), Bench(tmp_path / "random")
    for bench, settings in (
        (learning, ("search=tpe", "num_trials=25")),
        (random, ("search=random", "num_trials=25", "pruner=median")),
    ):
        made = bench.search(*settings)
        drawn(bench, lambda made=made: made)  # type: ignore[misc]
    best = [min(map(loss, bench.ledger.read().values())) for bench in (learning, random)]
    assert best[0] < 1.05
    assert best[0] <= best[1]
    expected = SPACE.draw(25, 0)
    assert [list(record.overrides) for record in random.ledger.read().values()] == expected


def test_what_came_of_a_trial_is_told_once_and_again_when_it_has_a_result(bench: Bench) -> None:
    made = bench.search("search=tpe", "num_trials=6")
    ends: list[tuple[TrialState, float | None]] = [
        ("done", 1.5),
        ("done", math.nan),
        ("failed", None),
        ("pruned", 3.0),
        ("killed", None),
    ]
    for state, best in ends:
        assert made.next()
        bench.end(made, bench.last(), state, best)
    states = [known.state.name for known in bench.studied()]
    assert states == ["COMPLETE", "FAIL", "FAIL", "PRUNED", "RUNNING"]
    failed, killed = (next(r for r in bench.ledger.read().values() if r.state == s) for s in ("failed", "killed"))
    again = bench.search("search=tpe", "num_trials=6")
    for record in (failed, killed, failed):
        bench.end(again, record, best=2.0)
    states = [known.state.name for known in bench.studied()]
    assert states == ["COMPLETE", "FAIL", "FAIL", "PRUNED", "COMPLETE", "COMPLETE"]
    assert bench.studied()[5].value == 2.0


def test_a_draw_that_nobody_wrote_down_is_given_up(bench: Bench) -> None:
    made = bench.search("search=tpe", "num_trials=2")
    made._ask()
    assert [known.state.name for known in bench.studied()] == ["RUNNING"]
    again = bench.search("search=tpe", "num_trials=2")
    assert [known.state.name for known in bench.studied()] == ["FAIL"]
    assert again.next()


def test_points_that_are_known_are_not_run_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Space((), (BATCH,)))
    made = bench.search("search=tpe", "num_trials=4")
    while made.next():
        bench.end(made, bench.last(), best=1.0)
    assert len(bench.ledger.read()) == 3
    assert made.is_done


def test_draws_with_mistakes_are_passed_over_and_end_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path, Space(("training.max_steps=10",), (Dimension("training.warmup_steps", "int", 20, 90),)))
    with pytest.raises(SweepError, match=r"draws in a row have mistakes; the last: training\.warmup_steps="):
        bench.search("search=tpe", "num_trials=3").next()
    assert "a draw is passed over: training.warmup_steps=" in capsys.readouterr().out
    assert bench.ledger.read() == {}


def test_a_trial_that_others_left_behind_is_pruned(bench: Bench) -> None:
    made = bench.search("search=tpe", "num_trials=5", "pruner=median", "pruner_startup_trials=2")
    for value in (1.0, 2.0, 9.0, math.nan):
        assert made.next()
        record = bench.last()
        for step in (10, 20):
            made.on_evaluation(record, Evaluation(step, value))
        bench.end(made, record, "pruned" if made.was_pruned(record.key) else "done", value)
    assert [record.state for record in bench.ledger.read().values()] == ["done", "done", "pruned", "pruned"]
    assert [known.state.name for known in bench.studied()] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    answers = sorted((bench.folder.path / "pruning").glob("*.json"))
    assert len(answers) == 4


def test_two_aims_are_told_both_values(bench: Bench) -> None:
    made = bench.search("search=tpe", "num_trials=2", "minimize_time=true")
    for best in (1.0, 2.0):
        assert made.next()
        bench.end(made, bench.last(), best=best)
    assert [known.values for known in bench.studied()] == [[1.0, 2.0], [2.0, 2.0]]


@pytest.mark.long
def test_a_gaussian_process_is_interrupted_like_the_others(tmp_path: Path) -> None:
    settings = ("search=gp", "num_trials=13")
    whole, parts = Bench(tmp_path / "whole"), Bench(tmp_path / "parts")
    at_once = whole.search(*settings)
    assert drawn(whole, lambda: at_once) == drawn(parts, lambda: parts.search(*settings))
