"""What a reader of a report has to know of how it came about."""

from __future__ import annotations

from recipe_exp.config.experiment import ExperimentConfig


def evaluation_facts(config: ExperimentConfig, split: str, num_predictions: int) -> dict[str, str]:
    """Returns what a reader of a report has to know of an evaluation, by label."""
    evaluation = config.evaluation
    searched = "likeliest token" if evaluation.num_beams == 1 else f"{evaluation.num_beams} beams"
    drawn = f"drawn at temperature {evaluation.temperature:g}, top_p {evaluation.top_p:g}"
    return {
        "model": config.model.name if config.model.pretrained else "random weights",
        "tuned": config.training.adapter.kind if config.training.adapter.kind != "none" else "all weights",
        "data": config.data.path or "generated recipes",
        "split": split,
        "recipes written": f"{num_predictions:,}, the first in the order of their titles' hashes",
        "writing": f"{drawn if evaluation.temperature else searched}, up to {evaluation.max_new_tokens} tokens",
    }
