"""The estimate of an evaluation's memory against the tensors that are alive while recipes are written."""

from __future__ import annotations

import gc

import pytest
import torch

from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.evaluation import generation as real
from recipe_exp.planning.generation import BATCH_TOKENS, estimate_generation, num_at_once
from recipe_exp.planning.remedies import Setup

SOURCE, WRITTEN = 24, 80


def test_batches_are_those_of_the_evaluation():
    assert BATCH_TOKENS == real.BATCH_TOKENS


def test_fewer_recipes_are_written_at_once_than_are_asked_for_or_fit():
    evaluation = EvaluationConfig(max_new_tokens=512, max_generated_examples=50, num_beams=2)
    assert num_at_once(evaluation, 256) == 16_384 // (2 * 768)
    assert num_at_once(evaluation.model_copy(update={"max_generated_examples": 3}), 256) == 3


@pytest.mark.parametrize(("num_beams", "precision"), [(1, "fp32"), (1, "bf16"), (3, "fp32")])
def test_peak_is_that_of_real_generation(odd_model, training_config, live_bytes, tmp_path, num_beams, precision):
    training = training_config(batch_size=2)
    step = live_bytes.RealStep(odd_model(), training, precision=precision, base_folder=tmp_path / "base")
    step.run(2, 8, 8)
    network = step.loss.network.eval()
    network.generation_config.eos_token_id = None  # which would end a recipe early
    sources = torch.randint(2, 331, (16, SOURCE))
    gc.collect()
    with live_bytes.LiveBytes(step.live_tensors()) as live, step.accelerator.autocast(), torch.no_grad():
        network.generate(
            input_ids=sources,
            attention_mask=torch.ones_like(sources),
            max_new_tokens=WRITTEN,
            num_beams=num_beams,
            do_sample=False,
        )
    evaluation = EvaluationConfig(max_new_tokens=WRITTEN, max_generated_examples=16, num_beams=num_beams)
    estimate = estimate_generation(
        Setup(odd_model(), training, precision), evaluation, longest_source_tokens=SOURCE, device="cpu"
    )
    assert estimate.tensor_bytes == pytest.approx(live.peak, rel=0.10)
