"""What a model is worth on held-out recipes: its loss, and the recipes that it writes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.data.loader import evaluation_batches
from recipe_exp.data.prompts import parse_prompt
from recipe_exp.data.split import Split
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.evaluation.cost import EvaluationCost
from recipe_exp.evaluation.examples import HeldOut, HeldOutExamples
from recipe_exp.evaluation.generation import Decoding, generate
from recipe_exp.evaluation.scoring import Scorer
from recipe_exp.evaluation.searching import Sampling
from recipe_exp.metrics.example_scores import ExampleScores, example_scores
from recipe_exp.metrics.predictions import Prediction

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
    predictions: list[Prediction]
    scores: ExampleScores


class Evaluator:
    """Measures a network on held-out recipes.

    The examples are the first `max_examples` in the order of their titles' hashes; so two runs on the same data measure
    the same examples. With several processes each takes a share; the sums are the whole's.

    Args:
        cache: tokens and texts.
        splits: which held-out split, or several.
        evaluation: how many examples, and how recipes are generated.
        max_source_tokens: longer prompts are cut, as in training.
        batch_tokens: padded tokens of one forward pass.
        generation_tokens: of prompts and recipes that are written at the same time.
        accelerator: device, precision and processes.
        between_batches: called when a batch has been evaluated; a sign of life in long evaluations.
        between_parts: called on every process alike when a part of the work is done; it may raise to give up the rest.

    Attributes:
        cost: what the last evaluation took; None before the first.

    Raises:
        DataError: if there is no example.
    """

    def __init__(
        self,
        cache: TokenCache,
        splits: Sequence[Split],
        evaluation: EvaluationConfig,
        *,
        max_source_tokens: int,
        batch_tokens: int,
        generation_tokens: int,
        accelerator: Accelerator,
        between_batches: Callable[[], None] | None = None,
        between_parts: Callable[[], None] | None = None,
    ) -> None:
        self.cache = cache
        self.held_out = HeldOutExamples(cache, splits)
        self.scorer = Scorer(cache.prepared, cache.folder.parent)
        self.evaluation = evaluation
        self.batch_tokens = batch_tokens
        self.accelerator = accelerator
        self.between_batches = between_batches or _nothing
        self.between_parts = between_parts or _nothing
        self.prompts = [parse_prompt(text, cache.prompts.held_out) for text in evaluation.validation_prompts]
        self.decoding = replace(decoding_of(evaluation, max_source_tokens), batch_tokens=generation_tokens)
        self.cost: EvaluationCost | None = None

    def evaluate(self, model: Any) -> EvaluationResult:
        """Returns loss, perplexity and the metrics of generated recipes; the same on every process.

        Args:
            model: a `SequenceLoss`, not wrapped for data parallelism.
        """
        start = time.monotonic()
        losses = self.losses(model)
        self.between_parts()
        between = time.monotonic()
        predictions = self.predict(model.network)
        computed = self.scorer.score(predictions, _mean_loss(losses))
        self.cost = EvaluationCost(
            between - start, time.monotonic() - between, num_examples=len(losses), num_generated=len(predictions)
        )
        metrics = {f"eval/{name}": value for name, value in computed.to_dict().items()}
        references = [held_out.example.target_text for held_out in self.held_out.first(len(losses))]
        statistics = {name: computed.statistics(name) for name in computed.resampled_names}
        return EvaluationResult(metrics, predictions, example_scores(references, losses, statistics))

    def loss(self, model: Any) -> float:
        """Returns the cross-entropy a target token, over all target tokens of the examples, without smoothing."""
        return _mean_loss(self.losses(model))

    def losses(self, model: Any) -> list[tuple[float, int]]:
        """Returns the summed cross-entropy of each example and the number of its target tokens, in order."""
        places = self.held_out.indices(self.evaluation.max_examples)
        share = places[self.accelerator.process_index :: self.accelerator.num_processes]
        found: dict[tuple[Split, int], tuple[float, int]] = {}
        was_training = model.training
        model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            for split in dict.fromkeys(split for split, _ in share):
                indices = [index for of_split, index in share if of_split == split]
                tokens = self.cache.split(split)
                for batch in evaluation_batches(tokens, indices, self.batch_tokens, is_padded=model.is_padded):
                    sums = model(batch.to(self.accelerator.device), by_example=True).tolist()
                    losses = zip(sums, batch.target_lengths.tolist(), strict=True)
                    found |= zip(((split, index) for index in batch.indices.tolist()), losses, strict=True)
                    self.between_batches()
        model.train(was_training)
        if self.accelerator.num_processes > 1:
            found = {place: pair for part in gather_object([found]) for place, pair in part.items()}
        return [found[place] for place in places]

    def predict(self, network: Any) -> list[Prediction]:
        """Returns what the network writes for the first `max_generated_examples` examples."""
        return self._predict(network, self.held_out.first(self.evaluation.max_generated_examples))

    def asked(self) -> list[tuple[str, str]]:
        """Returns prompt and reference of the examples that `predict` writes recipes for."""
        examples = self.held_out.first(self.evaluation.max_generated_examples)
        return [(held_out.example.source_text, held_out.example.target_text) for held_out in examples]

    def samples(self, model: Any, result: EvaluationResult | None = None) -> list[Sample]:
        """Returns the first held-out recipes beside what the model writes, and answers to one's own prompts."""
        if result is not None:
            predictions = result.predictions[:NUM_SAMPLES]
        else:
            predictions = self._predict(model.network, self.held_out.first(NUM_SAMPLES))
        self.between_parts()
        own = self._generate(model.network, self.prompts) if self.prompts else []
        return [
            *(Sample(prediction.prompt, prediction.generated, prediction.reference) for prediction in predictions),
            *(Sample(prompt, text, None) for prompt, text in zip(self.prompts, own, strict=True)),
        ]

    def _predict(self, network: Any, examples: Sequence[HeldOut]) -> list[Prediction]:
        texts = self._generate(network, [held_out.example.source_text for held_out in examples])
        return [
            Prediction(
                prompt=held_out.example.source_text,
                reference=held_out.example.target_text,
                generated=text,
                prompt_ingredients=held_out.example.prompt_ingredients,
                source=held_out.source,
                title=held_out.example.title,
            )
            for held_out, text in zip(examples, texts, strict=True)
        ]

    def _generate(self, network: Any, prompts: Sequence[str]) -> list[str]:
        index, count = self.accelerator.process_index, self.accelerator.num_processes
        with self.accelerator.autocast():
            own = generate(
                network,
                self.cache.tokenizer,
                prompts[index::count],
                self.decoding,
                numbers=range(len(prompts))[index::count],
                between_batches=self.between_batches,
            )
        if count == 1:
            return own
        texts = [""] * len(prompts)
        for process, share in enumerate(gather_object([own])):
            texts[process::count] = share
        return texts


def decoding_of(evaluation: EvaluationConfig, max_source_tokens: int) -> Decoding:
    """Returns how the configuration has recipes written."""
    return Decoding(evaluation.max_new_tokens, evaluation.num_beams, sampling_of(evaluation), max_source_tokens)


def sampling_of(evaluation: EvaluationConfig) -> Sampling | None:
    """Returns how the configuration draws tokens; None where it searches."""
    if evaluation.temperature == 0:
        return None
    return Sampling(evaluation.temperature, evaluation.top_p, evaluation.sampling_seed)


def _mean_loss(losses: Sequence[tuple[float, int]]) -> float:
    return math.fsum(loss for loss, _ in losses) / max(sum(count for _, count in losses), 1)


def _nothing() -> None:
    """Nobody listens."""
