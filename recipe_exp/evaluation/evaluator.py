"""What a model is worth on held-out recipes: its loss, and the recipes that it writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.data.loader import evaluation_batches
from recipe_exp.data.prompts import parse_prompt
from recipe_exp.data.split import Split
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.errors import DataError
from recipe_exp.evaluation.generation import generate
from recipe_exp.metrics import compute_metrics
from recipe_exp.metrics.example_scores import ExampleScores, example_scores

NUM_SAMPLES = 3


@dataclass(frozen=True)
class Sample:
    """One generated recipe.

    Attributes:
        prompt: what the model was given.
        generated: what it wrote.
        reference: the held-out recipe, None for a prompt of one's own.
    """

    prompt: str
    generated: str
    reference: str | None


@dataclass(frozen=True)
class EvaluationResult:
    """Metrics by the names of MLflow (`eval/...`), every generated recipe, and the scores of each example."""

    metrics: dict[str, float]
    predictions: list[Sample]
    scores: ExampleScores


class Evaluator:
    """Measures a network on one held-out split.

    The examples are the first `max_examples` of the split, whose order is that of the data; so two runs on the same
    data measure the same examples. With several processes each takes a share; the sums are the whole's.

    Args:
        cache: tokens and texts.
        split: which held-out split.
        evaluation: how many examples, and how recipes are generated.
        template: of `title=...; ingredients=...` prompts.
        max_source_tokens: longer prompts are cut, as in training.
        batch_tokens: padded tokens of one forward pass.
        generation_tokens: of prompts and recipes that are written at the same time.
        accelerator: device, precision and processes.
        between_batches: called when a batch has been evaluated; a sign of life in long evaluations.
        between_parts: called on every process alike when a part of the work is done; it may raise to give up the rest.

    Raises:
        DataError: if the split is empty.
    """

    def __init__(
        self,
        cache: TokenCache,
        split: Split,
        evaluation: EvaluationConfig,
        *,
        template: str,
        max_source_tokens: int,
        batch_tokens: int,
        generation_tokens: int,
        accelerator: Accelerator,
        between_batches: Callable[[], None] | None = None,
        between_parts: Callable[[], None] | None = None,
    ) -> None:
        self.tokens = cache.split(split)
        self.examples = cache.examples(split)
        self.tokenizer = cache.tokenizer
        self.evaluation = evaluation
        self.max_source_tokens = max_source_tokens
        self.batch_tokens = batch_tokens
        self.generation_tokens = generation_tokens
        self.accelerator = accelerator
        self.between_batches = between_batches or _nothing
        self.between_parts = between_parts or _nothing
        self.prompts = [parse_prompt(text, template) for text in evaluation.validation_prompts]
        if len(self.tokens) == 0:
            raise DataError(f"the {split} split holds no recipe; raise data.{split}_fraction or add recipes")

    def evaluate(self, model: Any) -> EvaluationResult:
        """Returns loss, perplexity and the metrics of generated recipes; the same on every process.

        Args:
            model: a `SequenceLoss`, not wrapped for data parallelism.
        """
        losses = self.losses(model)
        self.between_parts()
        examples = [self.examples[index] for index in range(self._count(self.evaluation.max_generated_examples))]
        generated = self._generate(model.network, [example.source_text for example in examples])
        computed = compute_metrics(
            references=[example.target_text for example in examples],
            predictions=generated,
            prompt_ingredients=[example.prompt_ingredients for example in examples],
            loss=_mean_loss(losses),
        )
        predictions = [
            Sample(example.source_text, text, example.target_text)
            for example, text in zip(examples, generated, strict=True)
        ]
        metrics = {f"eval/{name}": value for name, value in computed.to_dict().items()}
        references = [self.examples[index].target_text for index in range(len(losses))]
        statistics = {name: computed.statistics(name) for name in computed.resampled_names}
        scores = example_scores(references, losses, statistics)
        return EvaluationResult(metrics, predictions, scores)

    def loss(self, model: Any) -> float:
        """Returns the cross-entropy a target token, over all target tokens of the examples, without smoothing."""
        return _mean_loss(self.losses(model))

    def losses(self, model: Any) -> list[tuple[float, int]]:
        """Returns the summed cross-entropy of each example and the number of its target tokens."""
        indices = list(range(self._count(self.evaluation.max_examples)))
        share = indices[self.accelerator.process_index :: self.accelerator.num_processes]
        found: dict[int, tuple[float, int]] = {}
        was_training = model.training
        model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for batch in evaluation_batches(self.tokens, share, self.batch_tokens, is_padded=model.is_padded):
                sums = model(batch.to(self.accelerator.device), by_example=True).tolist()
                losses = zip(sums, batch.target_lengths.tolist(), strict=True)
                found |= zip(batch.indices.tolist(), losses, strict=True)
                self.between_batches()
        model.train(was_training)
        if self.accelerator.num_processes > 1:
            found = {index: pair for part in gather_object([found]) for index, pair in part.items()}
        return [found[index] for index in sorted(found)]

    def samples(self, model: Any, result: EvaluationResult | None = None) -> list[Sample]:
        """Returns the first held-out recipes beside what the model writes, and answers to one's own prompts."""
        if result is not None:
            held_out = result.predictions[:NUM_SAMPLES]
        else:
            examples = [self.examples[index] for index in range(self._count(NUM_SAMPLES))]
            texts = self._generate(model.network, [example.source_text for example in examples])
            held_out = [Sample(e.source_text, text, e.target_text) for e, text in zip(examples, texts, strict=True)]
        self.between_parts()
        own = self._generate(model.network, self.prompts) if self.prompts else []
        return [*held_out, *(Sample(prompt, text, None) for prompt, text in zip(self.prompts, own, strict=True))]

    def _generate(self, network: Any, prompts: Sequence[str]) -> list[str]:
        index, count = self.accelerator.process_index, self.accelerator.num_processes
        with self.accelerator.autocast():
            own = generate(
                network,
                self.tokenizer,
                prompts[index::count],
                max_new_tokens=self.evaluation.max_new_tokens,
                num_beams=self.evaluation.num_beams,
                max_source_tokens=self.max_source_tokens,
                batch_tokens=self.generation_tokens,
                between_batches=self.between_batches,
            )
        if count == 1:
            return own
        texts = [""] * len(prompts)
        for process, share in enumerate(gather_object([own])):
            texts[process::count] = share
        return texts

    def _count(self, wanted: int) -> int:
        return min(wanted, len(self.tokens))


def _mean_loss(losses: Sequence[tuple[float, int]]) -> float:
    return math.fsum(loss for loss, _ in losses) / max(sum(count for _, count in losses), 1)


def _nothing() -> None:
    """Nobody listens."""
