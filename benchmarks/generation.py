"""How fast recipes are written, beside `transformers.generate` on the same network and batches, in one interleaved run.

    python benchmarks/generation.py
    python benchmarks/generation.py --beams 3
    python benchmarks/generation.py --bf16

The network has random weights, whose texts hardly ever end. So every text ends where a plan says, on both sides: the
lengths are drawn as those of recipes are spread (median 115 tokens, two thirds between 73 and 180). Batches are sorted
by the length of their prompts. Ratios are medians over the rounds. Without beams both have to write the same; with
them the plan changes the scores of a beam on one side before they are normalised and on the other one after it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LogitsProcessor, LogitsProcessorList

from recipe_exp.config.model import ModelShape
from recipe_exp.evaluation.decoders import Decoder, build_decoder
from recipe_exp.evaluation.searching import Texts, search_beams, search_likeliest
from recipe_exp.models import load

# The shape of model=t5_mini.
SHAPE = ModelShape(vocab_size=8192, d_model=256, d_kv=64, d_ff=512, num_layers=4, num_decoder_layers=4, num_heads=4)
EOS_ID = 1
MEDIAN_TOKENS, SPREAD, MAX_TOKENS = 115, 0.45, 400
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class PlannedProcessor(LogitsProcessor):  # type: ignore[misc]
    """Ends the rows of transformers at their lengths.

    Args:
        lengths: tokens before the end, (rows,).
    """

    def __init__(self, lengths: torch.Tensor) -> None:
        self.lengths = lengths

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns the scores, the end's at the top of those that are to end and at the bottom of the others."""
        return end_by_plan(scores, self.lengths, input_ids.shape[1] - 1)


class PlannedDecoder:
    """Ends the rows of a decoder at their lengths, also when some have been dropped.

    Args:
        decoder: whose scores are used.
        lengths: tokens before the end, (prompts,).
        num_beams: rows a prompt.
    """

    def __init__(self, decoder: Decoder, lengths: torch.Tensor, num_beams: int) -> None:
        self.decoder, self.lengths, self.num_beams = decoder, lengths, num_beams
        self.num_read = 0

    def scores(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the decoder's, by plan."""
        scores = end_by_plan(self.decoder.scores(tokens), self.lengths.repeat_interleave(self.num_beams), self.num_read)
        self.num_read += 1
        return scores

    def reorder(self, rows: torch.Tensor) -> None:
        """As the decoder does."""
        self.decoder.reorder(rows)

    def keep(self, prompts: torch.Tensor) -> None:
        """As the decoder does."""
        self.lengths = self.lengths[prompts]
        self.decoder.keep(prompts)


def end_by_plan(scores: torch.Tensor, lengths: torch.Tensor, num_written: int) -> torch.Tensor:
    """Returns the scores with the end's far above or far below all others, as the plan has it for each row."""
    scores[:, EOS_ID] = torch.where(lengths <= num_written, 1e4, -1e4).to(scores.dtype)
    return scores


def make_batches(num_recipes: int, batch: int, vocab_size: int, seed: int = 0) -> list[Batch]:
    """Returns batches of prompts, their masks, and how long each text becomes; sorted by the length of the prompts."""
    random = torch.Generator().manual_seed(seed)
    sizes = sorted(torch.randint(8, 60, (num_recipes,), generator=random).tolist())
    batches = []
    for start in range(0, num_recipes, batch):
        rows = sizes[start : start + batch]
        ids = torch.randint(2, vocab_size, (len(rows), max(rows)), generator=random)
        mask = torch.tensor([[1] * size + [0] * (max(rows) - size) for size in rows])
        drawn = torch.randn(len(rows), generator=random) * SPREAD
        lengths = (MEDIAN_TOKENS * drawn.exp()).round().long().clamp(10, MAX_TOKENS - 1)
        batches.append((ids * mask, mask, lengths))
    return batches


def by_transformers(network: Any, batches: Sequence[Batch], num_beams: int) -> list[list[int]]:
    """Returns what `transformers.generate` writes."""
    texts: list[list[int]] = []
    for ids, mask, lengths in batches:
        processor = PlannedProcessor(lengths.repeat_interleave(num_beams))
        output = network.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=MAX_TOKENS,
            num_beams=num_beams,
            do_sample=False,
            logits_processor=LogitsProcessorList([processor]),
        )
        rows = [row[1:] for row in output.tolist()]
        texts += [row[: row.index(EOS_ID)] if EOS_ID in row else row for row in rows]
    return texts


def by_own_loop(network: Any, batches: Sequence[Batch], num_beams: int) -> list[list[int]]:
    """Returns what `recipe_exp.evaluation` writes."""
    texts: list[list[int]] = []
    settings = Texts(start_id=0, eos_id=EOS_ID, max_new_tokens=MAX_TOKENS, should_stop=lambda: False)
    for ids, mask, lengths in batches:
        built = build_decoder(network, ids, mask, num_beams=num_beams, max_new_tokens=MAX_TOKENS)
        decoder = PlannedDecoder(built, lengths, num_beams)
        if num_beams > 1:
            texts += search_beams(decoder, len(ids), settings, ids.device, num_beams)
        else:
            texts += search_likeliest(decoder, len(ids), settings, ids.device)
    return texts


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Speed of generation beside transformers.")
    parser.add_argument("--recipes", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="under autocast")
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    network = load.from_shape(SHAPE, dtype=torch.float32).eval()
    with torch.no_grad():
        network.lm_head.weight *= 8  # far from undecided between tokens
    batches = make_batches(arguments.recipes, arguments.batch, SHAPE.vocab_size)
    sides = {"transformers.generate": by_transformers, "recipe_exp": by_own_loop}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    num_same = num_tokens = 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
        for side in sides.values():
            side(network, batches[:1], arguments.beams)
        for _ in range(arguments.rounds):
            written = {}
            for name, side in sides.items():
                start = time.perf_counter()
                written[name] = side(network, batches, arguments.beams)
                seconds[name].append(time.perf_counter() - start)
            num_same = sum(one == other for one, other in zip(*written.values(), strict=True))
            num_tokens = sum(map(len, written["recipe_exp"]))
    table = Table(box=None, pad_edge=False)
    for column in ("", "seconds", "tokens/s", "times as fast"):
        table.add_column(column, justify="left" if not column else "right")
    theirs = seconds["transformers.generate"]
    for name, own in seconds.items():
        ratio = statistics.median(other / mine for other, mine in zip(theirs, own, strict=True))
        median = statistics.median(own)
        table.add_row(name, f"{median:.2f}", f"{num_tokens / median:,.0f}", f"{ratio:.2f}")
    console = Console()
    console.print(table)
    if arguments.beams == 1:
        console.print(f"{num_same} of {arguments.recipes} texts are the same on both sides", highlight=False)


if __name__ == "__main__":
    main()
