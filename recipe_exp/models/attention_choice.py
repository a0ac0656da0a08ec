"""Which attention kernel a run takes: one that was seen to give the right numbers on this device."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch

from recipe_exp.config.model import ModelShape
from recipe_exp.data.loader import join_texts
from recipe_exp.models.load import from_shape
from recipe_exp.models.sequence_loss import SequenceLoss

TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2}
"""Relative, by precision: kernels add in another order, and bf16 has 8 bits."""
_SHAPE = ModelShape(
    vocab_size=64,
    d_model=32,
    d_kv=8,
    d_ff=48,
    num_layers=2,
    num_decoder_layers=2,
    num_heads=4,
    tie_word_embeddings=True,
)
_LENGTHS = ((12, 9), (7, 5), (3, 9))


@dataclass(frozen=True)
class AttentionChoice:
    """A kernel and why it is taken.

    Attributes:
        kernel: `eager`, `sdpa` or `sdpa_varlen`.
        reason: in a few words.
    """

    kernel: str
    reason: str


def choose_attention(configured: str, device: str, precision: str) -> AttentionChoice:
    """Returns the kernel of a run.

    On a CPU it is `eager`: with a trained position bias PyTorch's fused kernel falls back to the same arithmetic
    there. On a GPU it is `sdpa_varlen` where flash-attn is installed, else `sdpa`, if a tiny network gets the right
    loss and gradients from it.

    Args:
        configured: `auto` or a kernel; `sdpa_varlen` gives way where it cannot run.
        device: `cpu` or `cuda`.
        precision: resolved, `fp32`, `tf32` or `bf16`.
    """
    if configured in ("eager", "sdpa"):
        return AttentionChoice(configured, "as configured")
    missing = missing_for_varlen(device, precision)
    reasons = [f"sdpa_varlen needs {missing}"] if configured == "sdpa_varlen" and missing else []
    if device == "cpu":
        return AttentionChoice("eager", "; ".join([*reasons, "no fused kernel trains the position bias on a CPU"]))
    for kernel in ("sdpa",) if missing else ("sdpa_varlen", "sdpa"):
        is_right, found = _try(kernel, device, precision)
        reasons.append(found if is_right else f"{kernel} {found}")
        if is_right:
            return AttentionChoice(kernel, "; ".join(reasons))
    return AttentionChoice("eager", "; ".join(reasons))


def missing_for_varlen(device: str, precision: str) -> str | None:
    """Returns what `sdpa_varlen` needs and is not there, in a few words; None where it can be tried.

    Args:
        device: `cpu` or `cuda`.
        precision: resolved, `fp32`, `tf32` or `bf16`.
    """
    if device != "cuda":
        return "a GPU"
    if precision != "bf16":
        return "training.precision=bf16"
    return None if find_spec("flash_attn") is not None else "the extra `flash`"


def _try(kernel: str, device: str, precision: str) -> tuple[bool, str]:
    """Returns whether a kernel is right here, and what was found."""
    try:
        error = largest_error(kernel, device, precision)
    except Exception as fault:  # whatever a kernel raises that was not built for this device
        return False, f"does not run here: {' '.join(str(fault).split())[:80]}"
    # tf32 rounds to ten bits of mantissa.
    is_right = error <= TOLERANCES["fp32" if precision == "fp32" else "bf16"]
    return is_right, f"right to {error:.0e}" if is_right else f"gives other numbers here, by {error:.0e}"


def largest_error(kernel: str, device: str, precision: str) -> float:
    """Returns how far a kernel's loss and gradients are from those of `eager` in fp32 on the CPU, in relative norm."""
    reference = loss_and_gradients("eager", "cpu", "fp32")
    return float((loss_and_gradients(kernel, device, precision) - reference).norm() / reference.norm())


def loss_and_gradients(kernel: str, device: str, precision: str) -> torch.Tensor:
    """Returns the loss and every gradient of a tiny network as one vector on the CPU.

    Texts of several lengths, the position bias, the causal mask and the attention from decoder to encoder take part.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = from_shape(_SHAPE, dtype=torch.float32, attention=kernel)
        texts = [[torch.randint(2, _SHAPE.vocab_size, (length,)).numpy() for length in pair] for pair in _LENGTHS]
    network.eval()  # which leaves the gradients and takes dropout away
    network.to(torch.device(device))
    batch = join_texts([source for source, _ in texts], [target for _, target in texts]).to(device)
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        loss = SequenceLoss(network)(batch)
    torch.autograd.backward(loss)
    gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
    return torch.cat([loss.detach().flatten(), *gradients]).float().cpu()
