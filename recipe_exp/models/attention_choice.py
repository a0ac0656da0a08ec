"""Which attention kernel a run takes: the fastest that was seen to give the right numbers on this device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import torch

from recipe_exp.config.model import ModelShape
from recipe_exp.data.loader import MicroBatch, join_texts
from recipe_exp.models.load import from_shape, set_dropout
from recipe_exp.models.sequence_loss import SequenceLoss

TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2}
"""Relative, by precision: kernels add in another order, and bf16 has 8 bits."""
FUSED = ("sdpa", "sdpa_varlen", "flex", "flex_varlen")
"""Kernels of a GPU."""
_AS_FAST = 1.1
"""Times the seconds of the fastest, which count as equal."""
_MORE_CHECKS = {"flex_varlen": (("flex", True),)}
"""Kernels that must be right too, and whether under dropout: flash-attn draws its own."""
_DROPOUT = 0.1
"""FLAN-T5's."""
_WIDTH = 64
"""Of all that is timed beside the heads."""
_SHAPE = ModelShape(
    vocab_size=64,
    d_model=32,
    # FlexAttention has no kernel for narrower heads.
    d_kv=16,
    d_ff=48,
    num_layers=2,
    num_decoder_layers=2,
    num_heads=4,
    tie_word_embeddings=True,
)
_LENGTHS = ((130, 150), (7, 5), (90, 140), (40, 3))
"""More than two of FlexAttention's blocks of 128 tokens on both sides, and texts that lie in two of them."""
_TYPICAL_LENGTHS = tuple((16 + 5 * index % 80, 60 + 37 * index % 420) for index in range(32))
"""Of prompts and recipes, for the timing."""
_NUM_BLOCKS, _NUM_UNTIMED, _NUM_TIMED = 4, 2, 5


@dataclass(frozen=True)
class AttentionSetting:
    """What decides which kernel is right and fast.

    Attributes:
        device: `cpu` or `cuda`.
        precision: resolved, `fp32`, `tf32` or `bf16`.
        shape: of the network; its heads are what a kernel computes.
        dropout: probability, of the network's layers; None is FLAN-T5's.
        is_bias_tuned: whether the position bias is learnt; beside an adapter it is not.
        is_compiled: whether the run compiles; `auto` takes FlexAttention, which must be compiled, only then.
        is_padded: whether the network's own forward pass of `transformers` computes it, which knows `sdpa` alone.
    """

    device: str
    precision: str
    shape: ModelShape
    dropout: float | None = None
    is_bias_tuned: bool = True
    is_compiled: bool = False
    is_padded: bool = False


@dataclass(frozen=True)
class AttentionChoice:
    """A kernel and why it is taken.

    Attributes:
        kernel: `eager`, `sdpa`, `sdpa_varlen`, `flex` or `flex_varlen`.
        reason: in a few words.
    """

    kernel: str
    reason: str


def choose_attention(configured: str, setting: AttentionSetting) -> AttentionChoice:
    """Returns the kernel of a run.

    On a CPU it is `eager`: with a trained position bias PyTorch's fused kernels fall back to the same arithmetic or
    refuse there. On a GPU each kernel that can run gives the loss and gradients of a tiny network; those that are right
    are timed on blocks with the network's own heads. The fastest is taken, or one before it in `FUSED` that takes at
    most a tenth longer: a moment's timing should not decide which of two equal kernels a run's last digits come from.

    Args:
        configured: `auto` or a kernel; one that cannot run gives way, and the reason says why.
        setting: of the run.
    """
    if configured in ("eager", "sdpa"):
        return AttentionChoice(configured, "as configured")
    reasons = []
    if configured != "auto":
        trial = _tried(configured, setting)
        if trial.seconds is not None:
            return AttentionChoice(configured, trial.found)
        reasons.append(f"{configured} {trial.found}")
    if setting.device == "cpu":
        return AttentionChoice("eager", "; ".join([*reasons, "no fused kernel trains the position bias on a CPU"]))
    trials = {kernel: _tried(kernel, setting) for kernel in _candidates(setting) if kernel != configured}
    seconds = {kernel: trial.seconds for kernel, trial in trials.items() if trial.seconds is not None}
    reasons += [f"{kernel} {trial.found}" for kernel, trial in trials.items() if kernel not in seconds]
    if not seconds:
        return AttentionChoice("eager", "; ".join(reasons))
    taken = next(kernel for kernel in seconds if seconds[kernel] <= _AS_FAST * min(seconds.values()))
    if len(seconds) > 1:
        reasons.append("timed " + ", ".join(f"{kernel} {1000 * each:.1f} ms" for kernel, each in seconds.items()))
    return AttentionChoice(taken, "; ".join([*reasons, trials[taken].found]))


def missing_for(kernel: str, device: str, precision: str) -> str | None:
    """Returns what a kernel needs and is not there, in a few words; None where it can be tried.

    Args:
        kernel: its name.
        device: `cpu` or `cuda`.
        precision: resolved, `fp32`, `tf32` or `bf16`.
    """
    is_varlen, is_flex = kernel.endswith("_varlen"), kernel.startswith("flex")
    if device != "cuda" and (is_varlen or is_flex):
        return "a GPU"
    if is_flex and find_spec("triton") is None:
        return "Triton"
    if is_varlen and precision != "bf16":
        return "training.precision=bf16"
    if is_varlen and find_spec("flash_attn") is None:
        return "the extra `flash`"
    return None


def _candidates(setting: AttentionSetting) -> Sequence[str]:
    if setting.is_padded:
        return ("sdpa",)
    known = [kernel for kernel in FUSED if setting.is_compiled or not kernel.startswith("flex")]
    return [kernel for kernel in known if missing_for(kernel, setting.device, setting.precision) is None]


class _Trial(NamedTuple):
    """What came of trying a kernel.

    Attributes:
        seconds: that it takes; None where it cannot be taken.
        found: how right it is, or why it cannot be taken, in a few words.
    """

    seconds: float | None
    found: str


def _tried(kernel: str, setting: AttentionSetting) -> _Trial:
    if setting.is_padded and kernel != "sdpa":
        return _Trial(None, "is not for this family: transformers computes it, padded")
    missing = missing_for(kernel, setting.device, setting.precision)
    if missing is not None:
        return _Trial(None, f"needs {missing}")
    try:
        error = largest_error(kernel, setting.device, setting.precision)
        # tf32 rounds to ten bits of mantissa.
        if not error <= TOLERANCES["fp32" if setting.precision == "fp32" else "bf16"]:
            return _Trial(None, f"gives other numbers here, by {error:.0e}")
        return _Trial(seconds_of(kernel, setting), f"right to {error:.0e}")
    except Exception as fault:  # whatever a kernel raises that was not built for this device
        return _Trial(None, f"does not run here: {' '.join(str(fault).split())[:80]}")


def seconds_of(kernel: str, setting: AttentionSetting) -> float:
    """Returns the seconds of a forward and backward pass of four blocks of each stack, the least of some passes.

    The blocks are narrow but for their heads, which leaves attention most of the arithmetic, and learn from 32 texts of
    recipes' lengths.
    """
    sizes = dict.fromkeys(("vocab_size", "d_model", "d_ff"), _WIDTH)
    sizes |= dict.fromkeys(("num_layers", "num_decoder_layers"), _NUM_BLOCKS)
    loss, batch = _made(kernel, setting.device, setting.shape.model_copy(update=sizes), _TYPICAL_LENGTHS)
    set_dropout(loss.network, _DROPOUT if setting.dropout is None else setting.dropout)
    loss.train()
    for name, parameter in loss.named_parameters():
        parameter.requires_grad_(setting.is_bias_tuned or "relative_attention_bias" not in name)
    seconds, is_cuda = [], setting.device == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if is_cuda else []):
        for _ in range(_NUM_UNTIMED + _NUM_TIMED):
            started = time.perf_counter()
            _learn(loss, batch, setting.precision)
            if is_cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return min(seconds[_NUM_UNTIMED:])


def largest_error(kernel: str, device: str, precision: str) -> float:
    """Returns how far a kernel's loss and gradients are from those of `eager` in fp32 on the CPU, in relative norm.

    With FlexAttention, which drops what `eager` drops, they are those under dropout.
    """
    errors = []
    for name, has_dropout in ((kernel, kernel == "flex"), *_MORE_CHECKS.get(kernel, ())):
        reference = loss_and_gradients("eager", "cpu", "fp32", has_dropout=has_dropout)
        found = loss_and_gradients(name, device, precision, has_dropout=has_dropout)
        errors.append(float((found - reference).norm() / reference.norm()))
    return max(errors)


def loss_and_gradients(kernel: str, device: str, precision: str, *, has_dropout: bool = False) -> torch.Tensor:
    """Returns the loss and every gradient of a tiny network as one vector on the CPU.

    Texts of several lengths, the position bias, the causal mask and the attention from decoder to encoder take part.

    Args:
        kernel: that computes attention.
        device: `cpu` or `cuda`.
        precision: resolved, `fp32`, `tf32` or `bf16`.
        has_dropout: whether elements are dropped, always the same ones.
    """
    loss, batch = _made(kernel, device, _SHAPE, _LENGTHS)
    set_dropout(loss.network, _DROPOUT if has_dropout else 0.0)
    loss.train()
    found = _learn(loss, batch, precision)
    gradients = [parameter.grad.flatten() for parameter in loss.parameters() if parameter.grad is not None]
    return torch.cat([found.flatten(), *gradients]).float().cpu()


def _made(
    kernel: str, device: str, shape: ModelShape, lengths: Sequence[tuple[int, int]]
) -> tuple[SequenceLoss, MicroBatch]:
    """Returns a network and texts, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = from_shape(shape, dtype=torch.float32, attention=kernel)
        texts = [[torch.randint(2, shape.vocab_size, (length,)).numpy() for length in pair] for pair in lengths]
    batch = join_texts([source for source, _ in texts], [target for _, target in texts], noise=(0, 1))
    return SequenceLoss(network.to(torch.device(device))), batch.to(device)


def _learn(loss: SequenceLoss, batch: MicroBatch, precision: str) -> torch.Tensor:
    """Returns the summed loss of a forward pass, after its backward pass."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        with torch.autocast(batch.target_ids.device.type, torch.bfloat16, enabled=precision == "bf16"):
            found: torch.Tensor = loss(batch)
        torch.autograd.backward(found)
    finally:
        torch.set_float32_matmul_precision(before)
    return found.detach()
