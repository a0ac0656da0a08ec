"""All metrics of a set of predictions, and accumulators whose parts merge into the whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recipe_exp.metrics import text
from recipe_exp.metrics.knowledge import Knowledge
from recipe_exp.metrics.losses import TokenLoss
from recipe_exp.metrics.reading import Reading
from recipe_exp.metrics.registry import METRICS, RECIPE_METRICS, TEXT_PARTS
from recipe_exp.recipes import parse_recipe

Statistics = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class ExampleStatistics:
    """What the metrics need to know of one example.

    Attributes:
        sums: metric -> the statistics whose sums over examples give it; a metric that does not apply is left out.
        words: the words of the prediction, for metrics of all predictions together.
    """

    sums: Statistics
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MetricResult:
    """The metrics of a set of predictions; `print` shows an aligned table.

    Attributes:
        scores: name -> value, only what was computed, in the registry's order (`METRICS` has definition, direction and
            range of each).
        examples: each example's statistics, in the order in which they were accumulated.
    """

    scores: Mapping[str, float]
    examples: tuple[ExampleStatistics, ...] = field(repr=False)

    def to_dict(self) -> dict[str, float]:
        """Return name -> value of what was computed."""
        return dict(self.scores)

    def __getitem__(self, name: str) -> float:
        return self.scores[name]

    def per_example(self, name: str) -> tuple[float | None, ...]:
        """Return each example's own score, None where the metric does not apply to it.

        That of a metric of the corpus, such as BLEU, is its value for this example alone; its mean over the examples
        is another number.

        Raises:
            KeyError: the metric has no scores of single examples, as `loss` and `distinct_1`, or was not computed.
        """
        self.statistics(name)
        value = METRICS[name].value
        return tuple(value(row) if (row := example.sums.get(name)) else None for example in self.examples)

    def statistics(self, name: str) -> tuple[tuple[float, ...], ...]:
        """Return each example's statistics of a metric, zeros where it does not apply.

        `METRICS[name].value` makes the metric of their sums, of any choice of examples, or weighted by how often a
        bootstrap has drawn each.

        Raises:
            KeyError: the metric has no statistics of single examples, or was not computed.
        """
        width = next((len(example.sums[name]) for example in self.examples if name in example.sums), None)
        if width is None:
            raise KeyError(name)
        nothing = (0.0,) * width
        return tuple(example.sums.get(name, nothing) for example in self.examples)

    @property
    def resampled_names(self) -> tuple[str, ...]:
        """The metrics that `per_example` and `statistics` know, in order."""
        return tuple(name for name in self.scores if any(name in example.sums for example in self.examples))

    def __str__(self) -> str:
        width = max(map(len, self.scores))
        rows = [f"{name:<{width}}  {_format(value):>10}" for name, value in self.scores.items()]
        return "\n".join([*rows, f"{'recipes':<{width}}  {len(self.examples):>10}"])


@dataclass(frozen=True, slots=True)
class MetricAccumulator:
    """What the metrics of a set of predictions are computed from; adding two gives that of both sets.

    Merging the parts of any partition, in any order, gives exactly the values of the whole: counts are integers, and
    means come from exactly rounded sums.
    """

    examples: tuple[ExampleStatistics, ...] = ()

    def __add__(self, other: MetricAccumulator) -> MetricAccumulator:
        return MetricAccumulator(self.examples + other.examples)

    def compute(self, loss: float | TokenLoss | None = None) -> MetricResult:
        """Return the metrics of everything accumulated.

        Args:
            loss: token-weighted mean cross-entropy in nats, or its sums; also gives the perplexity.

        Raises:
            ValueError: nothing was accumulated.
        """
        if not self.examples:
            raise ValueError("no predictions to score; accumulate at least one before computing")
        scores: dict[str, float] = {}
        if loss is not None:
            mean = loss.mean() if isinstance(loss, TokenLoss) else float(loss)
            scores |= {"loss": mean, "perplexity": text.perplexity(mean)}
        for name, metric in METRICS.items():
            rows = [row for example in self.examples if (row := example.sums.get(name))]
            if rows:
                scores[name] = metric.value([math.fsum(column) for column in zip(*rows, strict=True)])
        all_words = [example.words for example in self.examples]
        scores |= {f"distinct_{order}": text.distinct(all_words, order) for order in (1, 2)}
        return MetricResult({name: scores[name] for name in METRICS if name in scores}, self.examples)


def accumulate(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    prompt_ingredients: Sequence[Sequence[str]] | None = None,
    knowledge: Knowledge | None = None,
) -> MetricAccumulator:
    """Return the accumulator of one part of the predictions; see `compute_metrics` for the arguments."""
    _check_lengths(references, predictions, prompts, prompt_ingredients)
    examples = []
    for index, (reference, prediction) in enumerate(zip(references, predictions, strict=True)):
        prompt = prompts[index] if prompts else ""
        if prompt_ingredients is not None:
            asked = tuple(prompt_ingredients[index])
        else:
            asked = ingredients_in_prompt(reference, prompt)
        reading = Reading(prediction, prompt, asked, knowledge)
        examples.append(example_statistics(reading, reference))
    return MetricAccumulator(tuple(examples))


def compute_metrics(
    references: Sequence[str],
    predictions: Sequence[str],
    *,
    prompts: Sequence[str] | None = None,
    prompt_ingredients: Sequence[Sequence[str]] | None = None,
    loss: float | TokenLoss | None = None,
    knowledge: Knowledge | None = None,
) -> MetricResult:
    """Return every metric of predicted recipes, given as markdown texts.

    Args:
        references: the recipe that each prediction is compared with.
        predictions: the generated recipes.
        prompts: what each prediction was asked for; the reference's ingredient lines that stand in it count as asked
            for, and constraints such as `vegan` or `without nuts` are looked for.
        prompt_ingredients: for each prediction the ingredients its prompt asked for, instead of those found in
            `prompts`; an empty list leaves that recipe out of `prompt_adherence`.
        loss: token-weighted mean cross-entropy in nats, or its sums; also gives the perplexity.
        knowledge: what was learnt from training recipes; the metrics that compare with it are left out without.

    Raises:
        ValueError: the lengths differ or there is nothing to score.
    """
    accumulator = accumulate(
        references, predictions, prompts=prompts, prompt_ingredients=prompt_ingredients, knowledge=knowledge
    )
    return accumulator.compute(loss)


def example_statistics(reading: Reading, reference: str | None = None) -> ExampleStatistics:
    """Return the statistics of one prediction; without a reference only those of reference-free metrics."""
    sums: dict[str, tuple[float, ...]] = {}
    if reference is not None:
        sums |= _text_statistics(reference, reading.text, "")
        if reading.prompt_ingredients:
            expected = Reading(reference).instructions
            if expected:
                sums |= _text_statistics(expected, reading.instructions, TEXT_PARTS[1])
    words = text.words(reading.text)
    sums["repetition"] = text.repetition(words), 1
    for metric in RECIPE_METRICS:
        score = metric(reading)
        if score is not None:
            sums[metric.name] = score, 1
    if "clean_ending" in sums:
        sums["truncation_rate"] = 1 - sums["clean_ending"][0], 1
    return ExampleStatistics(sums, words)


def ingredients_in_prompt(reference: str, prompt: str) -> tuple[str, ...]:
    """Return the ingredient lines of a reference recipe that stand in a prompt as they are."""
    return tuple(line for line in parse_recipe(reference).ingredients if line in prompt) if prompt else ()


def _text_statistics(reference: str, prediction: str, part: str) -> dict[str, tuple[float, ...]]:
    rouge = {f"{name}{part}": (score, 1) for name, score in text.rouge_scores(reference, prediction).items()}
    lengths = len(text.words(prediction)), len(text.words(reference))
    return {
        f"bleu{part}": text.bleu_statistics(reference, prediction),
        f"chrf{part}": text.chrf_statistics(reference, prediction),
        **rouge,
        f"length_ratio{part}": lengths,
    }


def _check_lengths(
    references: Sequence[str],
    predictions: Sequence[str],
    prompts: Sequence[str] | None,
    prompt_ingredients: Sequence[Sequence[str]] | None,
) -> None:
    for name, texts in (("references", references), ("predictions", predictions), ("prompts", prompts)):
        if isinstance(texts, str):
            raise ValueError(f"{name} is one string; pass a list of strings")
    if len(references) != len(predictions):
        raise ValueError(
            f"{len(references)} references but {len(predictions)} predictions; pass one reference for each"
        )
    if not references:
        raise ValueError("no predictions to score; pass at least one reference and prediction")
    if prompts is not None and len(prompts) != len(predictions):
        raise ValueError(f"{len(prompts)} prompts but {len(predictions)} predictions; pass one for each")
    if prompt_ingredients is None:
        return
    if len(prompt_ingredients) != len(predictions):
        raise ValueError(
            f"{len(prompt_ingredients)} lists of prompt_ingredients but {len(predictions)} predictions; "
            "pass one for each"
        )
    for index, ingredients in enumerate(prompt_ingredients):
        if isinstance(ingredients, str):
            raise ValueError(f"prompt_ingredients[{index}] is one string; pass a list of ingredients")


def _format(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.4g}"
