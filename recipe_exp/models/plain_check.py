"""What a model answers, and how two models' answers differ: in this package, and in a process that knows nothing of it.

Run by its path, it loads a folder with plain transformers as any reader would, so it imports nothing of recipe_exp.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LogitsProcessor

_BATCH = 20


class _Gaps(LogitsProcessor):  # type: ignore[misc]
    """Notes at every step of a greedy search how far the best token is ahead of the second."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        best = scores.float().topk(2, dim=-1).values
        self.steps.append(best[:, 0] - best[:, 1])
        return scores


@torch.no_grad()
def record_answers(network: Any, probes: Sequence[dict[str, Any]], path: Path, *, max_new_tokens: int) -> None:
    """Writes what a network answers: for each probe logits, greedy ids, and how near each choice was.

    Args:
        network: in evaluation mode, on the CPU.
        probes: `source_ids` and `target_ids` of each.
        path: a safetensors file of `logits.N` (target_length, vocab_size), `generated.N` and `gaps.N` (length).
        max_new_tokens: longest generation.
    """
    tensors = {}
    for number, probe in enumerate(probes):
        tensors[f"logits.{number}"] = logits_of(network, probe)
    for number, (ids, gaps) in enumerate(generate_all(network, probes, max_new_tokens)):
        tensors[f"generated.{number}"], tensors[f"gaps.{number}"] = torch.tensor(ids), torch.tensor(gaps)
    save_file(tensors, path)


@torch.no_grad()
def logits_of(network: Any, probe: dict[str, Any]) -> torch.Tensor:
    """Returns the logits of a probe's target, in fp32: (target_length, vocab_size)."""
    source, target = torch.tensor([probe["source_ids"]]), torch.tensor([probe["target_ids"]])
    logits: torch.Tensor = network(input_ids=source, attention_mask=torch.ones_like(source), labels=target).logits
    return logits[0].float().contiguous()


@torch.no_grad()
def generate_all(
    network: Any, probes: Sequence[dict[str, Any]], max_new_tokens: int
) -> list[tuple[list[int], list[float]]]:
    """Returns the greedy ids of every probe's source, up to the end, and the gap at each of them."""
    answers = []
    pad_id, eos_id = network.generation_config.pad_token_id, network.generation_config.eos_token_id
    for begin in range(0, len(probes), _BATCH):
        sources = [probe["source_ids"] for probe in probes[begin : begin + _BATCH]]
        width = max(map(len, sources))
        ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in sources])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in sources])
        gaps = _Gaps()
        output = network.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=[gaps],
        )
        steps = torch.stack(gaps.steps, dim=1).tolist()
        for row, near in zip(output[:, 1:].tolist(), steps, strict=True):
            length = row.index(eos_id) + 1 if eos_id in row else len(row)
            answers.append((row[:length], near[:length]))
    return answers


@torch.no_grad()
def compare(network: Any, probes: Sequence[dict[str, Any]], reference: Path, *, max_new_tokens: int) -> dict[str, Any]:
    """Returns how a network's answers differ from recorded ones.

    Returns:
        `max_error` and `largest_logit`, absolute; `mean_kl` and `max_kl`, the divergence of this network's distribution
        from the recorded one over a target token, in nats; `top1_agreement`, the share of target tokens with the same
        most likely token; `num_generations`, `num_identical`; `token_agreement`, the share of generated positions with
        the same token; `largest_gap_of_a_change`, how far ahead the recorded choice was where a generation first
        differs, 0 without one.
    """
    errors, largest, divergences, same = [0.0], [0.0], [], []
    num_identical, num_equal, num_positions, change_gaps = 0, 0, 0, [0.0]
    generated = generate_all(network, probes, max_new_tokens)
    with safe_open(reference, framework="pt") as recorded:
        for number, probe in enumerate(probes):
            ours, theirs = recorded.get_tensor(f"logits.{number}"), logits_of(network, probe)
            errors.append(float((ours - theirs).abs().max()))
            largest.append(float(ours.abs().max()))
            divergences.append(_divergence(ours, theirs))
            same.append(ours.argmax(-1) == theirs.argmax(-1))
            expected = recorded.get_tensor(f"generated.{number}").tolist()
            gaps, found = recorded.get_tensor(f"gaps.{number}").tolist(), generated[number][0]
            num_identical += expected == found
            num_equal += sum(a == b for a, b in zip(expected, found, strict=False))
            num_positions += max(len(expected), len(found))
            if expected != found:
                first = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), -1)
                change_gaps.append(gaps[first])
    divergence = torch.cat(divergences)
    return {
        # A maximum would pass over what is no number.
        "max_error": float(torch.tensor(errors).max()),
        "largest_logit": max(largest),
        "mean_kl": float(divergence.mean()),
        "max_kl": float(divergence.max()),
        "top1_agreement": float(torch.cat(same).float().mean()),
        "num_generations": len(probes),
        "num_identical": num_identical,
        "token_agreement": num_equal / max(num_positions, 1),
        "largest_gap_of_a_change": max(change_gaps),
    }


def _divergence(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Returns the Kullback-Leibler divergence of each position, in nats; rounding makes no negative one."""
    log_p, log_q = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0.0)


def _main(folder: str, request_path: str, answer_path: str) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    torch.set_num_threads(request["num_threads"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer: dict[str, Any] = {"comparisons": {}, "tokenizer": []}
    for text in request["texts"]:
        ids = tokenizer(text["text"])["input_ids"]
        decoded = tokenizer.decode(text["ids"], skip_special_tokens=True)
        answer["tokenizer"].append({"same_ids": ids == text["ids"], "same_text": decoded == text["decoded"]})
    for name, reference in request["references"].items():
        dtype = {"dtype": torch.float32} if reference["in_fp32"] else {}
        network = AutoModelForSeq2SeqLM.from_pretrained(folder, use_safetensors=True, **dtype).eval()
        answer["comparisons"][name] = compare(
            network, request["probes"], Path(reference["path"]), max_new_tokens=request["max_new_tokens"]
        )
        del network
    answer["knows_recipe_exp"] = "recipe_exp" in sys.modules
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
