"""The estimate against the most bytes alive in a real step, and the micro-batch that is derived from it."""

from __future__ import annotations

import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recipe_exp.config.model import ModelConfig, ModelShape
from recipe_exp.config.training import (
    AdafactorConfig,
    AdamWConfig,
    LinearScheduleConfig,
    LoraConfig,
    NoAdapterConfig,
    TrainingConfig,
)
from recipe_exp.errors import HardwareError
from recipe_exp.models.adapters import add_lora
from recipe_exp.models.load import build_model
from recipe_exp.models.sequence_loss import SequenceLoss
from recipe_exp.planning import memory
from recipe_exp.planning.memory import auto_micro_batch_tokens, checkpoint_bytes, estimate_memory
from recipe_exp.planning.remedies import Setup
from recipe_exp.training.optimizers import build_optimizer, gated_step

GIB = 1024**3
NUM_EXAMPLES, SOURCE, TARGET = 8, 32, 64


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive inside it, by their storages, and remembers the most."""

    def __init__(self, tensors):
        super().__init__()
        self.now = self.peak = 0
        self._alive = set()
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return result

    def _add(self, tensor):
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key, size):
        self._alive.discard(key)
        self.now -= size


def build(model, training, *, is_bf16):
    lora = training.adapter if isinstance(training.adapter, LoraConfig) else None
    network = build_model(model, dtype=torch.bfloat16 if lora and is_bf16 else torch.float32, attention="eager")
    if lora:
        network = add_lora(network, lora, base="odd").train()
    loss = SequenceLoss(network)
    return loss, build_optimizer(loss, training)


def run_step(loss, optimizer, vocab_size, *, is_bf16):
    """The arithmetic of one window of two micro-batches."""
    sources = torch.randint(2, vocab_size, (NUM_EXAMPLES, SOURCE))
    mask = torch.ones_like(sources)
    mask[0, -2:] = 0
    labels = torch.randint(2, vocab_size, (NUM_EXAMPLES, TARGET))
    tuned = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    optimizer.zero_grad(set_to_none=True)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            value = loss(sources, mask, labels)
        value.backward()
        del value
    nn.utils.clip_grads_with_norm_(tuned, 1.0, nn.utils.get_total_norm([parameter.grad for parameter in tuned]))
    gated_step(optimizer, torch.tensor(True))
    optimizer.zero_grad(set_to_none=True)


def state_tensors(optimizer):
    return [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]


CASES = [
    (optimizer, adapter, is_checkpointed, is_bf16)
    for optimizer, adapter, is_checkpointed, is_bf16 in itertools.product(
        [AdamWConfig(), AdafactorConfig()],
        [NoAdapterConfig(), LoraConfig(rank=4)],
        [False, True],
        [False, True],
    )
    if isinstance(optimizer, AdamWConfig) or isinstance(adapter, NoAdapterConfig)
]


@pytest.mark.parametrize(("optimizer", "adapter", "is_checkpointed", "is_bf16"), CASES)
def test_peak_is_that_of_a_real_step(odd_model, training_config, optimizer, adapter, is_checkpointed, is_bf16):
    model = odd_model(gradient_checkpointing=is_checkpointed)
    training = training_config(optimizer=optimizer, adapter=adapter, batch_size=2 * NUM_EXAMPLES)
    loss, stepper = build(model, training, is_bf16=is_bf16)
    run_step(loss, stepper, model.shape.vocab_size, is_bf16=is_bf16)
    with LiveBytes([*loss.parameters(), *state_tensors(stepper)]) as live:
        run_step(loss, stepper, model.shape.vocab_size, is_bf16=is_bf16)
    estimate = estimate_memory(
        model,
        training,
        precision="bf16" if is_bf16 else "fp32",
        attention="eager",
        micro_batch_tokens=NUM_EXAMPLES * (SOURCE + TARGET),
        source_tokens=SOURCE,
        target_tokens=TARGET,
        device="cpu",
    )
    bound = 0.15 if is_checkpointed else 0.08
    assert estimate.peak_bytes - estimate.parts["overhead"] == pytest.approx(live.peak, rel=bound)


@pytest.mark.parametrize("optimizer", [AdamWConfig(), AdafactorConfig()])
def test_weights_optimizer_and_checkpoint_have_their_real_sizes(odd_model, training_config, optimizer):
    training = training_config(optimizer=optimizer)
    loss, stepper = build(odd_model(), training, is_bf16=False)
    run_step(loss, stepper, odd_model().shape.vocab_size, is_bf16=False)
    weights = sum(parameter.nbytes for parameter in loss.parameters())
    state = sum(tensor.nbytes for tensor in state_tensors(stepper) if tensor.dim())
    parts = estimate(Setup(odd_model(), training, "fp32"), 512).parts
    assert parts["weights"] == weights
    assert parts["optimizer"] == state
    assert checkpoint_bytes(odd_model(), training) == weights + state


def estimate(setup, tokens, device="cpu", attention="eager", longest=96):
    return memory.estimate_largest(setup, tokens, attention=attention, device=device, longest_example_tokens=longest)


def test_weights_with_an_adapter_are_a_bf16_base_and_fp32_factors(composed):
    config = composed("model=flan_t5_xxl", "training=lora")
    parts = estimate(Setup(config.model, config.training, "bf16"), 768, "cuda", "sdpa").parts
    assert parts["weights"] == 2 * 11_135_332_352 + 4 * 18_874_368
    assert parts["optimizer"] == 8 * 18_874_368


def test_a_window_of_few_examples_bounds_the_micro_batch(odd_model, training_config):
    small, large = (
        estimate(Setup(odd_model(), training_config(batch_size=size), "fp32"), 100_000).parts["logits"]
        for size in (4, 64)
    )
    assert large == 16 * small


def auto(model, training, memory_bytes, *, precision="fp32", device="cpu", attention="eager", longest=96):
    return auto_micro_batch_tokens(
        model,
        training,
        precision=precision,
        attention=attention,
        device=device,
        memory_bytes=memory_bytes,
        longest_example_tokens=longest,
    )


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
    usable = memory.USABLE_SHARE * memory_bytes

    def peak(tokens):
        return estimate(setup, tokens, longest=longest).peak_bytes

    try:
        tokens = auto(model, training, memory_bytes, longest=longest)
    except HardwareError:
        assert peak(longest) > usable
        return
    assert tokens >= longest
    assert peak(max(tokens, longest)) <= usable
    larger = [size for size in memory._round_sizes(memory.MAX_AUTO_TOKENS["cpu"]) if size > tokens]
    if larger:
        assert peak(larger[0]) > usable


def test_auto_is_capped_where_larger_brings_nothing(odd_model, training_config):
    assert auto(odd_model(), training_config(), 500 * GIB) == 16_384
    assert auto(odd_model(), training_config(), 500 * GIB, device="cuda", attention="sdpa") == 32_768


def test_what_does_not_fit_names_remedies_that_do(composed):
    config = composed("model=flan_t5_xl", "training=full")
    with pytest.raises(HardwareError, match=r"hardware.memory_gb=32.*add training/optimizer=adafactor") as caught:
        auto(config.model, config.training, 32 * GIB, precision="bf16", device="cuda", attention="sdpa", longest=768)
    assert "\n" not in str(caught.value)


def test_what_never_fits_names_the_device_that_it_takes(composed):
    config = composed("model=flan_t5_xxl", "training=full")
    with pytest.raises(HardwareError, match=r"take a smaller model, or a device of 2\d\.\d GiB with training=lora"):
        auto(config.model, config.training, 8 * GIB, precision="bf16", device="cuda", attention="sdpa", longest=768)
