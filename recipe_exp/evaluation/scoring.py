"""Predictions scored, once for the same predictions by the same metrics: what was scored before is read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import msgspec

import recipe_exp
from recipe_exp.data.preparation.prepared import PreparedData
from recipe_exp.evaluation.learnt import knowledge_of
from recipe_exp.files import write_atomically
from recipe_exp.metrics import ExampleStatistics, MetricAccumulator, MetricResult, TokenLoss, accumulate
from recipe_exp.metrics.compute import ingredients_in_prompt
from recipe_exp.metrics.knowledge import Knowledge
from recipe_exp.metrics.predictions import Prediction, encode_predictions

SCORES_FOLDER = "evaluations"


class _Stored(msgspec.Struct):
    """The statistics of each example, by metric, and its words."""

    sums: list[dict[str, tuple[float, ...]]]
    words: list[tuple[str, ...]]


_DECODER = msgspec.json.Decoder(_Stored)


class Scorer:
    """Scores predictions with everything that the training recipes teach.

    Args:
        prepared: the data whose training split is learnt from; None leaves out the metrics that compare with it.
        cache_dir: the folder of all caches; what was learnt and scored is kept there.
    """

    def __init__(self, prepared: PreparedData | None, cache_dir: Path) -> None:
        self.prepared = prepared
        self.cache_dir = cache_dir

    @property
    def folder(self) -> Path:
        """Where what can be computed again is kept."""
        return self.cache_dir / SCORES_FOLDER

    @cached_property
    def knowledge(self) -> Knowledge | None:
        """What the training split teaches; None without one, or if it is empty."""
        if self.prepared is None or next(self.prepared.records("train"), None) is None:
            return None
        return knowledge_of(self.prepared, self.cache_dir)

    def score(self, predictions: Sequence[Prediction], loss: TokenLoss | float | None = None) -> MetricResult:
        """Returns every metric of predictions.

        Args:
            predictions: at least one.
            loss: of the same or more examples; None leaves out loss and perplexity.
        """
        return self._accumulate(predictions).compute(loss)

    def score_once(self, predictions: Sequence[Prediction]) -> MetricResult:
        """Returns what `score` returns, from a file if the same texts were scored before by the same metrics."""
        path = self.folder / f"scores-{self._key(predictions)}.json"
        try:
            stored = _DECODER.decode(path.read_bytes())
            examples = zip(stored.sums, stored.words, strict=True)
            return MetricAccumulator(tuple(ExampleStatistics(sums, words) for sums, words in examples)).compute()
        except (OSError, msgspec.MsgspecError, ValueError):
            accumulated = self._accumulate(predictions)
        content = _Stored([dict(one.sums) for one in accumulated.examples], [one.words for one in accumulated.examples])
        keep(path, msgspec.json.encode(content))
        return accumulated.compute()

    def _accumulate(self, predictions: Sequence[Prediction]) -> MetricAccumulator:
        return accumulate(
            [each.reference for each in predictions],
            [each.generated for each in predictions],
            prompts=[each.prompt for each in predictions],
            prompt_ingredients=[_asked(each) for each in predictions],
            knowledge=self.knowledge,
        )

    def _key(self, predictions: Sequence[Prediction]) -> str:
        learnt = self.prepared.data_fingerprint if self.prepared is not None else ""
        digest = hashlib.sha256(f"{metrics_fingerprint()} {learnt}".encode())
        digest.update(encode_predictions(predictions))
        return digest.hexdigest()[:32]


def keep(path: Path, content: bytes) -> None:
    """Writes what can be computed again; a disk that refuses costs only that."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError:
        return


@lru_cache(maxsize=1)
def metrics_fingerprint() -> str:
    """Returns a hash of the code that decides every score."""
    package = Path(recipe_exp.__file__).parent
    digest = hashlib.sha256()
    for folder in ("metrics", "recipes"):
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _asked(prediction: Prediction) -> Sequence[str]:
    if prediction.prompt_ingredients is not None:
        return prediction.prompt_ingredients
    return ingredients_in_prompt(prediction.reference, prediction.prompt)
