"""The estimate against the most bytes alive in a real step, and the micro-batch that is derived from it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe_exp.config.model import ModelConfig, ModelShape
from recipe_exp.config.training import (
    AdafactorConfig,
    AdamW8bitConfig,
    AdamWConfig,
    LinearScheduleConfig,
    LoraConfig,
    NoAdapterConfig,
    TrainingConfig,
)
from recipe_exp.errors import HardwareError
from recipe_exp.models import chunked_cross_entropy
from recipe_exp.planning import fitting, logits, memory
from recipe_exp.planning.fitting import auto_micro_batch_tokens
from recipe_exp.planning.held import checkpoint_bytes
from recipe_exp.planning.inputs import USABLE_SHARE, Machine
from recipe_exp.planning.memory import estimate_memory
from recipe_exp.planning.remedies import Setup

GIB = 1024**3
NUM_EXAMPLES, SOURCE, TARGET = 8, 32, 64
NEEDS_BITSANDBYTES = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
BF16 = {"precision": "bf16", "weights_dtype": "bf16"}
WAYS = {
    "adamw": {},
    "adafactor": {"optimizer": AdafactorConfig()},
    "lora": {"adapter": LoraConfig(rank=4)},
    "dora": {"adapter": LoraConfig(rank=4, dora=True, dropout=0.0)},
    "qlora": {"adapter": LoraConfig(rank=4, targets="all_linear", quantization="nf4")},
    "bf16": BF16,
    "8bit": BF16 | {"optimizer": AdamW8bitConfig()},
    "low memory": BF16 | {"optimizer": AdafactorConfig(), "update_in_backward": True, "max_grad_norm": None},
}
CASES = [
    *itertools.product(["adamw", "adafactor", "lora"], [False, True], ["fp32", "bf16"], [1, 2]),
    *itertools.product(["dora"], [False, True], ["fp32", "bf16"], [1]),
    *itertools.product(["bf16"], [False, True], ["bf16"], [1, 2]),
    *(pytest.param("qlora", is_checkpointed, "bf16", 1, marks=NEEDS_BITSANDBYTES) for is_checkpointed in (False, True)),
    *(pytest.param("8bit", is_checkpointed, "bf16", 2, marks=NEEDS_BITSANDBYTES) for is_checkpointed in (False, True)),
    *itertools.product(["low memory"], [False, True], ["bf16"], [1]),
]


def peaks(live_bytes, folder, model, training, precision, *, batch, num_micro_batches):
    """Returns the planned and the real peak of live tensors in a step of equal micro-batches."""
    num_examples, source, target = batch
    step = live_bytes.RealStep(model, training, precision=precision, base_folder=folder / "base")
    real = live_bytes.live_peak(step, num_examples, source, target, num_micro_batches).peak
    estimate = estimate_memory(
        Setup(model, training, precision),
        attention="eager",
        micro_batch_tokens=num_examples * (source + target),
        source_tokens=source,
        target_tokens=target,
        device="cpu",
    )
    return estimate.tensor_bytes, real


@pytest.mark.parametrize(("way", "is_checkpointed", "precision", "num_micro_batches"), CASES)
def test_peak_is_that_of_a_real_step(
    odd_model, training_config, live_bytes, tmp_path, way, is_checkpointed, precision, num_micro_batches
):
    model = odd_model(gradient_checkpointing=is_checkpointed)
    training = training_config(batch_size=num_micro_batches * NUM_EXAMPLES, **WAYS[way])
    batch = (NUM_EXAMPLES, SOURCE, TARGET)
    planned, real = peaks(
        live_bytes, tmp_path, model, training, precision, batch=batch, num_micro_batches=num_micro_batches
    )
    assert planned == pytest.approx(real, rel=0.10)


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("way", ["adamw", "adafactor", "lora"])
def test_peak_is_that_of_a_real_step_of_flan_t5_small(
    composed, training_config, live_bytes, tmp_path, way, is_checkpointed
):
    config = composed("model=flan_t5_small", "model.pretrained=false")
    model = config.model.model_copy(update={"gradient_checkpointing": is_checkpointed})
    training = training_config(batch_size=2, **WAYS[way])
    planned, real = peaks(live_bytes, tmp_path, model, training, "fp32", batch=(2, 16, 48), num_micro_batches=1)
    assert planned == pytest.approx(real, rel=0.10)


STATES = [
    ("adamw", "fp32"),
    ("adafactor", "fp32"),
    ("lora", "fp32"),
    ("dora", "fp32"),
    ("bf16", "bf16"),
    pytest.param("8bit", "bf16", marks=NEEDS_BITSANDBYTES),
    ("low memory", "bf16"),
]


@pytest.mark.parametrize(("way", "precision"), STATES)
def test_weights_optimizer_and_checkpoint_have_their_real_sizes(
    odd_model, training_config, live_bytes, tmp_path, way, precision
):
    training = training_config(batch_size=2, **WAYS[way])
    step = live_bytes.RealStep(odd_model(), training, precision=precision, base_folder=tmp_path / "base")
    step.run(2, 8, 8)
    # Weights that a model shares are one tensor.
    tensors = {id(tensor): tensor for tensor in step.live_tensors()}.values()
    weights = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.nn.Parameter))
    tuned = sum(parameter.nbytes for parameter in step.loss.parameters() if parameter.requires_grad)
    # Each weight's count of steps is left out.
    state = sum(tensor.nbytes for tensor in tensors if not isinstance(tensor, torch.nn.Parameter) and tensor.dim())
    parts = estimate(Setup(odd_model(), training, precision), 512).parts
    assert parts["weights"] == weights
    assert parts["optimizer"] == state
    assert checkpoint_bytes(odd_model(), training) == tuned + state


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_the_low_memory_step_holds_no_gradient_of_the_model(composed, is_checkpointed):
    """Weights, factored state, activations and what one layer needs: no part grows with the number of layers twice."""
    config = composed("model=flan_t5_xxl", "training=full_low_memory")
    setup = Setup(config.model.model_copy(update={"gradient_checkpointing": is_checkpointed}), config.training, "bf16")
    parts = estimate(setup, 0, "cuda", "sdpa", 163).parts
    block = 2 * 3 * 4096 * 10240
    assert parts["weights"] == 2 * 11_135_332_352
    assert parts["optimizer"] < 0.001 * parts["weights"]
    assert parts["gradients"] < 6 * block


def estimate(setup, tokens, device="cpu", attention="eager", longest=96):
    return memory.estimate_largest(setup, tokens, attention=attention, device=device, longest_example_tokens=longest)


def test_weights_with_an_adapter_are_a_bf16_base_and_fp32_factors(composed):
    config = composed("model=flan_t5_xxl", "training=lora")
    parts = estimate(Setup(config.model, config.training, "bf16"), 768, "cuda", "sdpa").parts
    assert parts["weights"] == 2 * 11_135_332_352 + 4 * 18_874_368
    assert parts["optimizer"] == 8 * 18_874_368


def test_a_window_of_few_examples_bounds_the_micro_batch(odd_model, training_config):
    small, large = (
        estimate(Setup(odd_model(), training_config(batch_size=size), "fp32"), 100_000).parts["activations"]
        for size in (4, 64)
    )
    assert large == pytest.approx(16 * small, rel=0.01)


def test_gradients_of_a_window_that_is_one_micro_batch_are_not_there_in_its_forward_pass(odd_model, training_config):
    one, several = (estimate(Setup(odd_model(), training_config(batch_size=size), "fp32"), 8 * 96) for size in (8, 16))
    # What is there when its backward pass begins is that of the output projection alone.
    assert one.parts["gradients"] in (0, 4 * 331 * 48)
    assert several.parts["gradients"] == one.parts["weights"]


def test_a_network_that_computes_padding_keeps_more(odd_model, training_config):
    setup = Setup(odd_model(), training_config(), "fp32")
    kept, padded = (
        estimate(replace(setup, is_padded=is_padded), 4096).parts["activations"] for is_padded in (False, True)
    )
    assert 1.2 * kept < padded < 3 * kept


def test_compiled_arithmetic_needs_less_at_a_time(odd_model, training_config):
    setup = Setup(odd_model(), training_config(), "bf16")
    eager, compiled = (
        estimate(replace(setup, is_compiled=is_compiled), 4096, "cuda").parts["activations"]
        for is_compiled in (False, True)
    )
    assert compiled < 0.7 * eager


def test_the_plan_cuts_logits_as_the_loss_does():
    assert logits.MAX_LOGITS_BYTES == chunked_cross_entropy.MAX_LOGITS_BYTES
    assert logits.MAX_TOKENS == chunked_cross_entropy.MAX_TOKENS


def test_logits_of_many_tokens_take_no_more_than_those_of_some(odd_model, training_config):
    config = odd_model()
    large = config.model_copy(update={"shape": config.shape.model_copy(update={"vocab_size": 1_000_000})})
    few, many = (
        estimate(Setup(large, training_config(batch_size=10_000), "fp32"), tokens).parts["logits"]
        for tokens in (2_000, 20_000)
    )
    # What grows is what the projection reads, with its gradient.
    assert many - few == 18_000 * 48 * 2 * 4


def auto(model, training, memory_bytes, *, precision="fp32", device="cpu", attention="eager", longest=96):
    return auto_micro_batch_tokens(Setup(model, training, precision), Machine(device, attention, memory_bytes), longest)


@given(
    width=st.sampled_from([16, 64, 256]),
    is_lora=st.booleans(),
    is_checkpointed=st.booleans(),
    memory_mib=st.integers(600, 20_000),
    longest=st.integers(1, 40_000),
)
@settings(max_examples=40, deadline=None)
def test_auto_takes_the_largest_size_that_fits(width, is_lora, is_checkpointed, memory_mib, longest):
    shape = ModelShape(
        vocab_size=4 * width, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_decoder_layers=3, num_heads=4
    )
    model = ModelConfig(name="net", pretrained=False, shape=shape, gradient_checkpointing=is_checkpointed)
    training = TrainingConfig(
        optimizer=AdamWConfig(),
        schedule=LinearScheduleConfig(),
        adapter=LoraConfig(rank=4) if is_lora else NoAdapterConfig(),
        batch_size=100_000,
    )
    setup, memory_bytes = Setup(model, training, "fp32"), memory_mib * 1024**2
    usable = USABLE_SHARE * memory_bytes

    def peak(tokens):
        return estimate(setup, tokens, longest=longest).peak_bytes

    try:
        tokens = auto(model, training, memory_bytes, longest=longest)
    except HardwareError:
        assert peak(longest) > usable
        return
    assert tokens >= longest
    assert peak(max(tokens, longest)) <= usable
    larger = [size for size in fitting._round_sizes(fitting.MAX_AUTO_TOKENS["cpu"]) if size > tokens]
    if larger:
        assert peak(larger[0]) > usable


def test_auto_is_capped_where_larger_brings_nothing(odd_model, training_config):
    assert auto(odd_model(), training_config(), 500 * GIB) == 16_384
    assert auto(odd_model(), training_config(), 500 * GIB, device="cuda", attention="sdpa") == 32_768


def test_what_does_not_fit_names_remedies_that_do(composed):
    config = composed("model=flan_t5_xl", "training=full")
    with pytest.raises(
        HardwareError, match=r"hardware.memory_gb=32.*add training/optimizer=adafactor model.gradient_check"
    ) as caught:
        auto(config.model, config.training, 32 * GIB, precision="bf16", device="cuda", attention="sdpa", longest=768)
    assert "\n" not in str(caught.value)


def test_what_never_fits_names_the_device_that_it_takes(composed):
    config = composed("model=flan_t5_xxl", "training=full")
    with pytest.raises(HardwareError, match=r"take a smaller model, or a device of 1\d\.\d GiB with training=qlora"):
        auto(config.model, config.training, 8 * GIB, precision="bf16", device="cuda", attention="sdpa", longest=768)
