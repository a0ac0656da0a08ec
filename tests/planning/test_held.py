"""What is held from step to step, against figures that are counted by hand."""

from __future__ import annotations

import pytest

from recipe_exp.planning.held import held

GIB = 1024**3
# GiB of weights, gradients and optimizer state, XL and XXL, at 16, 8, 6, 4 and 2 bytes a weight. In 8 bits, 256 values
# share an fp32 scale. Adafactor's rows and columns and the adapter's weights are counted on top.
STATED = [
    (("training=full",), 42.5, 165.9, 0.005),
    (("training=full_bf16",), 21.2, 83.0, 0.005),
    (("training=full_8bit",), 15.9, 62.2, 0.01),
    (("training=full_bf16", "training/optimizer=adafactor"), 10.6, 41.5, 0.005),
    (("training=lora",), 5.4, 21.0, 0.01),
]


@pytest.mark.parametrize(("overrides", "xl", "xxl", "tolerance"), STATED)
def test_state_is_the_stated_number_of_bytes_a_weight(composed, overrides, xl, xxl, tolerance):
    for size, stated in (("xl", xl), ("xxl", xxl)):
        config = composed(f"model=flan_t5_{size}", *overrides)
        state = held(config.model, config.training, is_bf16=True)
        total = state.weights + state.gradients + state.optimizer
        assert total / GIB == pytest.approx(stated, rel=tolerance)


def test_releasing_gradients_halves_what_adafactor_needs_in_bf16(composed):
    config = composed("model=flan_t5_xxl", "training=full_low_memory")
    state = held(config.model, config.training, is_bf16=True)
    assert (state.weights + state.optimizer) / GIB == pytest.approx(20.8, abs=0.05)


@pytest.mark.parametrize(("size", "all_in_4_bits", "expected"), [("xl", 1.7, 2.29), ("xxl", 6.1, 8.61)])
def test_a_quantised_base_keeps_wo_and_embeddings(composed, size, all_in_4_bits, expected):
    """Stated figures quantise every weight; T5's `wo`, its embedding and its output projection stay in bf16."""
    config = composed(f"model=flan_t5_{size}", "training=qlora", "training.adapter.targets=attention_qv")
    state = held(config.model, config.training, is_bf16=True)
    shape = config.model.shape
    kept = 2 * shape.vocab_size * shape.d_model + 48 * shape.d_ff * shape.d_model
    adapter = state.gradients + state.optimizer
    assert (state.weights + adapter) / GIB == pytest.approx(expected, rel=0.05)
    # Were these in 4 bits too, less than what is stated would be left.
    assert (state.weights + adapter - 1.48 * kept) / GIB < all_in_4_bits
