"""What a device has room for: the micro-batch that `auto` takes, and the changes with which a run fits."""

from __future__ import annotations

from collections.abc import Iterator

from recipe_exp.config.model import ModelConfig
from recipe_exp.config.training import TrainingConfig
from recipe_exp.errors import HardwareError
from recipe_exp.planning.memory import GIB, estimate_largest
from recipe_exp.planning.remedies import Change, Setup, changes

# The rest is left to other programs and to what the formula does not know.
USABLE_SHARE = 0.9
# Beyond these, larger products are no faster.
MAX_AUTO_TOKENS = {"cuda": 32768, "cpu": 16384}
_MIN_AUTO_TOKENS = 16


def auto_micro_batch_tokens(
    model: ModelConfig,
    training: TrainingConfig,
    *,
    precision: str,
    attention: str,
    device: str,
    memory_bytes: int,
    longest_example_tokens: int,
) -> int:
    """Returns the largest micro-batch that fits in `USABLE_SHARE` of the memory, at least the longest example.

    Where weights are updated in the backward pass it is the whole window, and no other is possible.

    Sizes are a power of two or one and a half times one, up to `MAX_AUTO_TOKENS`.

    Args:
        model: the network.
        training: optimizer, adapter and batch size.
        precision: resolved, `fp32`, `tf32` or `bf16`.
        attention: resolved, `eager` or `sdpa`.
        device: `cpu` or `cuda`.
        memory_bytes: of one device.
        longest_example_tokens: source and target tokens of the longest example.

    Raises:
        HardwareError: if not even the longest example fits; the message names the cheapest changes that help.
    """
    setup = Setup(model, training, precision)
    least = least_tokens(training, longest_example_tokens)

    def fits(tokens: int) -> bool:
        estimate = estimate_largest(
            setup, tokens, attention=attention, device=device, longest_example_tokens=longest_example_tokens
        )
        return estimate.peak_bytes <= USABLE_SHARE * memory_bytes

    if not fits(least):
        raise HardwareError(does_not_fit(setup, attention, device, memory_bytes, longest_example_tokens))
    if training.update_in_backward:
        return least
    sizes = [size for size in _round_sizes(MAX_AUTO_TOKENS[device]) if size > longest_example_tokens]
    fitting = [size for size in sizes if fits(size)]
    return max(fitting, default=max(longest_example_tokens, _MIN_AUTO_TOKENS))


def least_tokens(training: TrainingConfig, longest_example_tokens: int) -> int:
    """Returns the smallest micro-batch that every window can be cut to."""
    return longest_example_tokens * (training.batch_size if training.update_in_backward else 1)


def fitting_changes(
    setup: Setup, *, attention: str, device: str, memory_bytes: int, longest_example_tokens: int
) -> list[tuple[Change, int]]:
    """Returns the changes with which the longest example fits, and their peak bytes.

    The cheapest comes first, and none contains another.
    """
    found: list[tuple[Change, int]] = []
    for change, peak_bytes in _peaks(setup, attention, device, longest_example_tokens):
        is_more_than_needed = any(set(other.overrides) <= set(change.overrides) for other, _ in found)
        if not is_more_than_needed and peak_bytes <= USABLE_SHARE * memory_bytes:
            found.append((change, peak_bytes))
    return found


def leanest_change(
    setup: Setup, *, attention: str, device: str, longest_example_tokens: int
) -> tuple[tuple[str, ...], int]:
    """Returns the overrides that need the least memory of all, none of them if the setup does, and its peak bytes."""
    unchanged = estimate_largest(
        setup,
        longest_example_tokens,
        attention=attention,
        device=device,
        longest_example_tokens=longest_example_tokens,
    )
    peaks = [((), unchanged.peak_bytes)] + [
        (change.overrides, peak_bytes)
        for change, peak_bytes in _peaks(setup, attention, device, longest_example_tokens)
    ]
    return min(peaks, key=lambda item: item[1])


def _peaks(setup: Setup, attention: str, device: str, longest: int) -> Iterator[tuple[Change, int]]:
    for change in changes(setup, device):
        estimate = estimate_largest(
            change.setup, longest, attention=attention, device=device, longest_example_tokens=longest
        )
        yield change, estimate.peak_bytes


def _round_sizes(largest: int) -> list[int]:
    powers = [2**exponent for exponent in range(4, largest.bit_length())]
    return sorted(size for power in powers for size in (power, power * 3 // 2) if size <= largest)


def does_not_fit(setup: Setup, attention: str, device: str, memory_bytes: int, longest: int) -> str:
    """Returns one line: what is needed, what there is, and the cheapest changes that help."""
    needed = estimate_largest(setup, longest, attention=attention, device=device, longest_example_tokens=longest)
    helping = fitting_changes(
        setup, attention=attention, device=device, memory_bytes=memory_bytes, longest_example_tokens=longest
    )
    training = setup.training
    examples = f"{training.batch_size} examples" if training.update_in_backward else "one example"
    if helping:
        remedy = "add " + ", or ".join(" ".join(change.overrides) for change, _ in helping[:3])
    else:
        overrides, peak_bytes = leanest_change(
            setup, attention=attention, device=device, longest_example_tokens=longest
        )
        remedy = (
            f"take a smaller model, or a device of {peak_bytes / USABLE_SHARE / GIB:.1f} GiB "
            f"{' '.join(('with', *overrides)) if overrides else 'for these settings'}"
        )
    return (
        f"hardware.memory_gb={memory_bytes / GIB:.3g}: {setup.model.name} needs {needed.peak_bytes / GIB:.1f} GiB for "
        f"{examples} of {longest} tokens, and {USABLE_SHARE * memory_bytes / GIB:.1f} GiB can be used; {remedy}"
    )
