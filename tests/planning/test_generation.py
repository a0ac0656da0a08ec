"""The estimate of an evaluation's memory against the tensors that are alive while recipes are written."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.config.compose import compose
from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.evaluation import generation as real
from recipe_exp.planning.generation import (
    MAX_BATCH_TOKENS,
    estimate_generation,
    generation_tokens,
    recipes_at_once,
)
from recipe_exp.planning.inputs import Machine
from recipe_exp.planning.memory import GIB
from recipe_exp.planning.remedies import Setup

SOURCE, WRITTEN = 24, 80


def test_batches_are_at_most_those_of_the_evaluation():
    assert MAX_BATCH_TOKENS == real.BATCH_TOKENS


def test_a_large_card_writes_as_many_at_once_as_are_of_use(composed):
    config = composed("model=flan_t5_base", "training=full")
    setup, machine = Setup(config.model, config.training, "bf16"), Machine("cuda", "sdpa", 80 * GIB)
    beams = EvaluationConfig(max_new_tokens=512, num_beams=2)
    assert recipes_at_once(setup, beams, 256, machine) == 16_384 // (2 * 768)
    assert generation_tokens(setup, beams, 256, machine) == 10 * 2 * 768


@pytest.mark.long
@given(
    card=st.floats(1.0, 90.0),
    num_beams=st.integers(1, 8),
    max_new_tokens=st.integers(1, 2048),
    source=st.integers(1, 1024),
    is_training=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_at_once_fits_and_one_more_would_not(card, num_beams, max_new_tokens, source, is_training):
    config = compose(["model=flan_t5_xl", "training=lora"])
    setup, machine = Setup(config.model, config.training, "bf16"), Machine("cuda", "sdpa", int(card * GIB))
    evaluation = EvaluationConfig(max_new_tokens=max_new_tokens, num_beams=num_beams)

    def peak(rows):
        return estimate_generation(
            setup,
            evaluation,
            longest_source_tokens=source,
            device="cuda",
            num_at_once=rows,
            is_training=is_training,
        ).peak_bytes

    tokens = generation_tokens(setup, evaluation, source, machine, is_training=is_training)
    rows, rest = divmod(tokens, (source + max_new_tokens) * num_beams)
    assert rest == 0
    assert rows >= 1
    assert rows == 1 or (peak(rows) <= machine.usable_bytes and tokens <= MAX_BATCH_TOKENS)
    is_most = tokens + tokens // rows > MAX_BATCH_TOKENS
    assert is_most or peak(rows + 1) > machine.usable_bytes


def test_weights_alone_leave_room_for_more_than_a_run_does(composed):
    config = composed("model=flan_t5_large", "training=full")
    setup, machine = Setup(config.model, config.training, "bf16"), Machine("cuda", "sdpa", 12 * GIB)
    evaluation = EvaluationConfig(max_new_tokens=512)
    while_training, alone = (
        recipes_at_once(setup, evaluation, 256, machine, is_training=is_training) for is_training in (True, False)
    )
    assert while_training < alone


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
        Setup(odd_model(), training, precision),
        evaluation,
        longest_source_tokens=SOURCE,
        device="cpu",
        num_at_once=16,
    )
    assert estimate.tensor_bytes == pytest.approx(live.peak, rel=0.10)
