"""Which linear layers an adapter is laid on: names, presets, and the modules of a T5 v1.1 network that they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recipe_exp.config.model import ModelShape

_BART_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
# The names of T5 and of BART; each network has those of one of them.
PRESETS: dict[str, tuple[str, ...]] = {
    "attention_qv": ("q", "v", "q_proj", "v_proj"),
    "attention": ("q", "k", "v", "o", *_BART_ATTENTION),
    # The first T5 has one `wi`, which is not gated.
    "all_linear": ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo", *_BART_ATTENTION, "fc1", "fc2"),
}
_IN_T5 = {
    **dict(zip(_BART_ATTENTION, "qkvo", strict=True)),
    "fc1": "wi_0",
    "fc2": "wo",
    "self_attn": "SelfAttention",
    "encoder_attn": "EncDecAttention",
}
NEVER_ADAPTED = ("lm_head", "shared", "embed_tokens")
"""Embedding and output projection: the loss reads their weights themselves."""


def target_names(targets: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the names that a preset stands for, or those that are given."""
    return PRESETS[targets] if isinstance(targets, str) else tuple(targets)


def is_target(module: str, names: Iterable[str]) -> bool:
    """Returns whether one of the names is a module's own, or the end of its dotted one."""
    return any(module == name or module.endswith(f".{name}") for name in names)


def linear_modules(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """Returns (outputs, inputs) of every linear layer of a T5 v1.1 network inside its blocks, by the module's name."""
    width, inner, hidden = shape.d_model, shape.num_heads * shape.d_kv, shape.d_ff
    attention = {**dict.fromkeys("qkv", (inner, width)), "o": (width, inner)}
    feed_forward = {"wi_0": (hidden, width), "wi_1": (hidden, width), "wo": (width, hidden)}
    encoder = {"SelfAttention": attention, "DenseReluDense": feed_forward}
    decoder = {"SelfAttention": attention, "EncDecAttention": attention, "DenseReluDense": feed_forward}
    stacks = (("encoder", shape.num_layers, encoder), ("decoder", shape.num_decoder_layers, decoder))
    return {
        f"{stack}.block.{block}.layer.{position}.{layer}.{name}": size
        for stack, num_blocks, layers in stacks
        for block in range(num_blocks)
        for position, (layer, modules) in enumerate(layers.items())
        for name, size in modules.items()
    }


def adapted_modules(shape: ModelShape, targets: str | Sequence[str]) -> dict[str, tuple[int, int]]:
    """Returns those of `linear_modules` that an adapter is laid on; BART's names mean the layers in their place."""
    names = [".".join(_IN_T5.get(part, part) for part in name.split(".")) for name in target_names(targets)]
    return {module: size for module, size in linear_modules(shape).items() if is_target(module, names)}


def unmatched(modules: Iterable[str], targets: str | Sequence[str]) -> list[str]:
    """Returns the names that mean none of these modules; a preset counts as a whole."""
    modules = list(modules)
    names = target_names(targets)
    missing = [name for name in names if not any(is_target(module, (name,)) for module in modules)]
    is_preset_met = isinstance(targets, str) and len(missing) < len(names)
    return [] if is_preset_met else missing


def mistake_of_targets(modules: Iterable[str], targets: str | Sequence[str], network: str) -> str | None:
    """Returns what is wrong with targets, with the names that are there; None if each means a layer.

    Args:
        modules: names of the network's linear layers.
        targets: a preset, or names.
        network: whose layers they are, for the message.
    """
    modules = [module for module in modules if not is_target(module, NEVER_ADAPTED)]
    missing = unmatched(modules, targets)
    if not missing:
        return None
    last = list(dict.fromkeys(module.rpartition(".")[2] for module in modules))
    parents = list(dict.fromkeys(".".join(module.split(".")[-2:]) for module in modules))
    return (
        f"training.adapter.targets: {', '.join(missing)} {'means' if len(missing) == 1 else 'mean'} no linear layer of "
        f"{network}; name of {', '.join(last)}, or with what stands before them, such as {parents[0]}"
    )
