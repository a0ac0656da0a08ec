"""Which tokens are written: the likeliest, drawn ones, or those of the likeliest text that a beam search finds.

A text that has ended is dropped, so that nobody waits for it. What a row writes depends on its prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from recipe_exp.evaluation.decoders import Decoder

_EVERY_ON_DEVICE = 8
_NEVER = -1.0e9


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: the logits are divided by it; over 0.
        top_p: the likeliest tokens that together have this share are drawn from (https://arxiv.org/abs/1904.09751).
        seed: of the draws; each prompt has draws of its own, by its number.
    """

    temperature: float
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Texts:
    """What is to be written.

    Attributes:
        start_id: what a decoder reads first.
        eos_id: what ends a text.
        max_new_tokens: longest text, its end included.
        should_stop: asked after every token whether to leave it at that.
    """

    start_id: int
    eos_id: int
    max_new_tokens: int
    should_stop: Callable[[], bool]


def search_likeliest(decoder: Decoder, num_prompts: int, texts: Texts, device: torch.device) -> list[list[int]]:
    """Returns the token ids of each prompt's text, the likeliest token at every place, without the end."""
    return _search(decoder, num_prompts, texts, device, _likeliest)


def sample(
    decoder: Decoder, numbers: Sequence[int], texts: Texts, device: torch.device, sampling: Sampling
) -> list[list[int]]:
    """Returns the token ids of each prompt's text, drawn, without the end.

    Args:
        decoder: of the prompts.
        numbers: by which each prompt finds its own draws, whatever is written beside it.
        texts: what is to be written.
        device: of the decoder.
        sampling: how tokens are drawn.
    """
    draws = [
        np.random.Generator(np.random.Philox(seed=[sampling.seed, number])).random(texts.max_new_tokens)
        for number in numbers
    ]
    uniform = torch.tensor(np.array(draws), device=device)

    def draw(logits: torch.Tensor, prompts: torch.Tensor, step: int) -> torch.Tensor:
        return _draw(logits, uniform[prompts, step], sampling)

    return _search(decoder, len(numbers), texts, device, draw)


def search_beams(
    decoder: Decoder, num_prompts: int, texts: Texts, device: torch.device, num_beams: int
) -> list[list[int]]:
    """Returns the token ids of the best text of each prompt, without the end.

    The rules are those of transformers with a length penalty of 1 and without early stopping: of twice as many
    continuations as beams those that end among the best count as finished, by their mean log-probability; a prompt is
    done when its best running text is no better than its worst finished one.
    """
    beams = _Beams.begin(num_prompts, num_beams, texts, device)
    best: list[list[int]] = [[] for _ in range(num_prompts)]
    for step in range(texts.max_new_tokens):
        logits = decoder.scores(beams.last_tokens(step, texts.start_id))
        is_last = texts.should_stop() or step + 1 == texts.max_new_tokens
        decoder.reorder(beams.advance(logits, step, texts.eos_id, is_last=is_last))
        is_done = torch.full_like(beams.can_improve, True) if is_last else ~beams.can_improve
        if bool(is_done.any()):
            done = is_done.nonzero().flatten()
            written = beams.finished[done, 0].tolist()
            for prompt, ids in zip(beams.prompts[done].tolist(), written, strict=True):
                best[prompt] = _until_end(ids, texts.eos_id)
            kept = _closed_up(is_done)
            if len(kept) == 0:
                break
            decoder.keep(kept)
            beams.keep(kept)
    return best


def _search(
    decoder: Decoder,
    num_prompts: int,
    texts: Texts,
    device: torch.device,
    choose: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
) -> list[list[int]]:
    prompts = torch.arange(num_prompts, device=device)
    tokens = torch.full((num_prompts,), texts.start_id, device=device)
    written = torch.full((texts.max_new_tokens, num_prompts), texts.eos_id, device=device)
    has_ended = torch.zeros(num_prompts, dtype=torch.bool, device=device)
    # Looking at an accelerator's numbers waits for it.
    every = 1 if device.type == "cpu" else _EVERY_ON_DEVICE
    for step in range(texts.max_new_tokens):
        tokens = choose(decoder.scores(tokens), prompts, step)
        written[step, prompts] = tokens
        has_ended |= tokens == texts.eos_id
        if texts.should_stop():
            break
        if step % every == every - 1 and bool(has_ended.any()):
            kept = _closed_up(has_ended)
            if len(kept) == 0:
                break
            decoder.keep(kept)
            prompts, tokens, has_ended = prompts[kept], tokens[kept], has_ended[kept]
    return [_until_end(ids, texts.eos_id) for ids in written.T.tolist()]


def _likeliest(logits: torch.Tensor, _prompts: torch.Tensor, _step: int) -> torch.Tensor:
    return logits.argmax(dim=-1)


def _closed_up(has_ended: torch.Tensor) -> torch.Tensor:
    """Returns which row each place takes over: those that go on stay, but for the last ones, which fill the holes."""
    num_left = int((~has_ended).sum())
    rows = torch.arange(num_left, device=has_ended.device)
    holes = has_ended[:num_left].nonzero().flatten()
    rows[holes] = num_left + (~has_ended[num_left:]).nonzero().flatten()
    return rows


def _until_end(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id)] if eos_id in ids else ids


def _draw(logits: torch.Tensor, uniform: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Returns the token at which the summed probabilities pass a number in [0, 1), (rows,)."""
    shares = (logits.double() / sampling.temperature).softmax(dim=-1)
    if sampling.top_p >= 1:
        return _place(shares, uniform)
    ordered, ids = shares.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    place = _place(ordered * (before < sampling.top_p), uniform)
    return ids.gather(1, place[:, None])[:, 0]


def _place(shares: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    sums = shares.cumsum(dim=-1)
    place = torch.searchsorted(sums, (uniform * sums[:, -1])[:, None], right=True)[:, 0]
    return place.clamp(max=shares.shape[-1] - 1)


@dataclass
class _Beams:
    """The texts of a beam search, by prompt and rank.

    Attributes:
        prompts: number of each prompt, (prompts,).
        running: tokens of the texts that go on, (prompts, num_beams, max_new_tokens).
        running_scores: their summed log-probabilities, (prompts, num_beams).
        finished: tokens of the best texts that have ended, as `running`.
        finished_scores: their mean log-probabilities, the best first.
        is_finished: whether there is such a text, (prompts, num_beams).
        can_improve: whether a running text may still become one of the best, (prompts,).
    """

    prompts: torch.Tensor
    running: torch.Tensor
    running_scores: torch.Tensor
    finished: torch.Tensor
    finished_scores: torch.Tensor
    is_finished: torch.Tensor
    can_improve: torch.Tensor

    @classmethod
    def begin(cls, num_prompts: int, num_beams: int, texts: Texts, device: torch.device) -> _Beams:
        shape = (num_prompts, num_beams)
        tokens = torch.full((*shape, texts.max_new_tokens), texts.eos_id, device=device)
        # The first beam alone counts, or all of them would write the same.
        scores = torch.full(shape, _NEVER, device=device)
        scores[:, 0] = 0.0
        return cls(
            prompts=torch.arange(num_prompts, device=device),
            running=tokens,
            running_scores=scores,
            finished=tokens.clone(),
            finished_scores=torch.full(shape, _NEVER, device=device),
            is_finished=torch.zeros(shape, dtype=torch.bool, device=device),
            can_improve=torch.ones(num_prompts, dtype=torch.bool, device=device),
        )

    def last_tokens(self, step: int, start_id: int) -> torch.Tensor:
        """Returns what each row has to read next, (prompts * num_beams,)."""
        if step == 0:
            return torch.full((self.running_scores.numel(),), start_id, device=self.running.device)
        return self.running[:, :, step - 1].flatten()

    def advance(self, logits: torch.Tensor, step: int, eos_id: int, *, is_last: bool) -> torch.Tensor:
        """Writes one token more, and returns which row each row goes on from, (prompts * num_beams,)."""
        num_prompts, num_beams = self.running_scores.shape
        log_shares = logits.float().log_softmax(dim=-1).view(num_prompts, num_beams, -1)
        size = log_shares.shape[-1]
        scores, places = (log_shares + self.running_scores[..., None]).flatten(1).topk(2 * num_beams)
        parents, tokens = places // size, places % size
        candidates = _take(self.running, parents)
        candidates[:, :, step] = tokens
        has_ended = torch.full_like(tokens, is_last, dtype=torch.bool) | (tokens == eos_id)
        self._finish(candidates, scores / (step + 1), has_ended)
        self.running_scores, ranks = (scores + has_ended * _NEVER).topk(num_beams)
        self.running = _take(candidates, ranks)
        worst = torch.where(self.is_finished, self.finished_scores.amin(dim=1, keepdim=True), _NEVER)
        self.can_improve &= (self.running_scores[:, :1] / (step + 1) > worst).any(dim=1)
        first_rows = torch.arange(num_prompts, device=ranks.device)[:, None] * num_beams
        return (parents.gather(1, ranks) + first_rows).flatten()

    def _finish(self, candidates: torch.Tensor, scores: torch.Tensor, has_ended: torch.Tensor) -> None:
        """Takes in candidates that have ended among the best; the others are only there to go on from."""
        num_beams = self.finished_scores.shape[1]
        counts = has_ended & (torch.arange(2 * num_beams, device=scores.device) < num_beams)
        all_scores = torch.cat([self.finished_scores, scores + ~counts * _NEVER], dim=1)
        self.finished_scores, ranks = all_scores.topk(num_beams)
        self.finished = _take(torch.cat([self.finished, candidates], dim=1), ranks)
        self.is_finished = torch.cat([self.is_finished, counts], dim=1).gather(1, ranks)

    def keep(self, rows: torch.Tensor) -> None:
        """Keeps only these prompts, in this order."""
        self.prompts, self.can_improve = self.prompts[rows], self.can_improve[rows]
        self.running, self.running_scores = self.running[rows], self.running_scores[rows]
        self.finished, self.finished_scores = self.finished[rows], self.finished_scores[rows]
        self.is_finished = self.is_finished[rows]


def _take(texts: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """Returns texts of each prompt by their rank, (prompts, ranks, max_new_tokens)."""
    return texts.gather(1, ranks[..., None].expand(-1, -1, texts.shape[-1]))
