"""Compare searches on a known function: `sweep_search.py [--seeds N] [--trials N]`.

The function stands for a run's validation loss: a valley in the learning rate (by its logarithm, deepest at 5e-4), the
rank and the dropout, with a curve over ten evaluations that begins high and falls to it; nothing is trained, and what
would be is told to the real search and the real ledger. For each search: the median, over seeds, of the best value and
of the trials until a value within 0.05 of the lowest is found (none counts as one more than all), and the share of
evaluations that pruning saved.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from statistics import median

from recipe_exp.config.compose import compose_command
from recipe_exp.sweeping.ledger import Ended, Ledger, TrialRecord, TrialState
from recipe_exp.sweeping.presence import Presence
from recipe_exp.sweeping.progress import Evaluation
from recipe_exp.sweeping.queue import Board
from recipe_exp.sweeping.space import Dimension, Space
from recipe_exp.sweeping.study import StudySearch
from recipe_exp.tracking import RunFolder

SPACE = (
    Dimension("training.learning_rate", "float", 1e-5, 1e-1, is_log=True),
    Dimension("training.adapter.rank", "ordered", values=("2", "4", "8", "16", "32", "64")),
    Dimension("training.adapter.dropout", "float", 0.0, 0.3),
)
NUM_EVALUATIONS = 10
LOWEST = 1.0


def loss(values: dict[str, str]) -> float:
    """Returns the value at the end of a trial; the lowest is `LOWEST`."""
    rate = math.log10(float(values["training.learning_rate"]) / 5e-4)
    rank = math.log2(int(values["training.adapter.rank"])) - 4.0
    dropout = float(values["training.adapter.dropout"]) - 0.1
    return LOWEST + 0.3 * rate**2 + 0.03 * rank**2 + 5.0 * dropout**2


def search(name: str, pruner: str, seed: int, num_trials: int) -> tuple[list[float], int]:
    """Returns the values of the trials in their order, and how many evaluations were made."""
    settings = [
        f"sweep.search={name}",
        f"sweep.pruner={pruner}",
        f"sweep.num_trials={num_trials}",
        f"sweep.seed={seed}",
    ]
    config = compose_command(["training=lora", *settings], is_sweep=True).config
    values: list[float] = []
    num_evaluations = 0
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place), run_name="search", kind="sweep", command=[])
        ledger = Ledger(folder.path / "ledger.jsonl")
        board = Board(folder, ledger, Presence(folder.path), config.sweep, {}, lambda record: board.trials[record.key])
        made = StudySearch(board, Space(("training=lora",), SPACE), config, f"known-function-{seed}")
        while made.next():
            record = list(ledger.read().values())[-1]
            end = loss(dict(record.varying))
            is_pruned, num_made = run(made, record, end)
            num_evaluations += num_made
            state: TrialState = "pruned" if is_pruned else "done"
            values.append(math.inf if is_pruned else end)
            event = Ended(0.0, record.key, state, 0, 1.0, metric="eval/loss", best=end)
            made.on_end(ledger.append(lambda _, event=event: [event])[record.key])
    return values, num_evaluations


def run(made: StudySearch, record: TrialRecord, end: float) -> tuple[bool, int]:
    """Tells a search of a trial's evaluations, until it is told to end; returns whether, and after how many."""
    for number in range(1, NUM_EVALUATIONS + 1):
        made.on_evaluation(record, Evaluation(number * 100, end + 3.0 / number))
        if made.was_pruned(record.key):
            return True, number
    return False, NUM_EVALUATIONS


def main() -> None:
    """Runs the searches and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40)
    given = parser.parse_args()
    print(f"{given.trials} trials, median of {given.seeds} seeds, lowest {LOWEST}")
    print("search  pruner     best    trials to 0.05  evaluations saved")
    for name, pruner in (("random", "none"), ("random", "median"), ("tpe", "none"), ("tpe", "median"), ("gp", "none")):
        found = [search(name, pruner, seed, given.trials) for seed in range(given.seeds)]
        best = median(min(values) for values, _ in found)
        reached = median(
            next((at for at, value in enumerate(values, 1) if value <= LOWEST + 0.05), given.trials + 1)
            for values, _ in found
        )
        saved = 1.0 - sum(made for _, made in found) / (given.seeds * given.trials * NUM_EVALUATIONS)
        print(f"{name:<7} {pruner:<9} {best:.4f} {reached:>14.0f} {saved:>17.0%}", flush=True)


if __name__ == "__main__":
    main()
