"""What costs nothing and answers the same prompts: the numbers that a model has to beat."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from recipe_exp.data.preparation.prepared import PreparedData
from recipe_exp.data.preparation.stored_record import StoredRecord, title_of
from recipe_exp.data.prompts import example_of
from recipe_exp.evaluation.scoring import keep
from recipe_exp.metrics.predictions import Prediction
from recipe_exp.metrics.reading import words_of
from recipe_exp.recipes import parse_recipe

RANDOM = "a random training recipe"
NEAREST = "the recipe of the nearest title"
COPIED = "the prompt copied"
_VERSION = 1


def anchor_predictions(
    predictions: Sequence[Prediction], prepared: PreparedData | None, folder: Path
) -> dict[str, list[Prediction]]:
    """Returns the predictions with their texts exchanged for those of each anchor.

    Args:
        predictions: what is compared.
        prepared: the data whose training split gives the recipes; None leaves only the prompt.
        folder: where what was found for the same examples and data is kept.
    """
    copied = [replace(each, generated=each.prompt) for each in predictions]
    texts = _training_texts(predictions, prepared, folder) if prepared is not None else {}
    exchanged = {
        name: [replace(each, generated=text) for each, text in zip(predictions, found, strict=True)]
        for name, found in texts.items()
    }
    return {**exchanged, COPIED: copied}


def _training_texts(
    predictions: Sequence[Prediction], prepared: PreparedData, folder: Path
) -> Mapping[str, Sequence[str]]:
    path = folder / f"anchors-{_key(predictions, prepared)}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])
    except (OSError, msgspec.MsgspecError):
        found = _find_texts(predictions, prepared)
        keep(path, msgspec.json.encode(found))
        return found


def _key(predictions: Sequence[Prediction], prepared: PreparedData) -> str:
    digest = hashlib.sha256(f"{_VERSION} {prepared.data_fingerprint}".encode())
    for each in predictions:
        digest.update(msgspec.json.encode([each.title, each.reference]))
    return digest.hexdigest()[:32]


def _find_texts(predictions: Sequence[Prediction], prepared: PreparedData) -> dict[str, list[str]]:
    """Reads the training split twice: for the titles, and for the recipes that were chosen by them."""
    num_recipes, nearest = find_nearest(map(_title, predictions), map(_title_of_record, prepared.records("train")))
    if num_recipes == 0:
        return {}
    drawn = [_draw(each.reference, num_recipes) for each in predictions]
    wanted = {*drawn, *(index for found in nearest for index in found)}
    texts = {
        index: example_of(record.content, "").target_text
        for index, record in enumerate(prepared.records("train"))
        if index in wanted
    }
    # A recipe that is evaluated on itself is no anchor.
    chosen = [
        next((index for index in found if texts[index] != each.reference), fallback)
        for found, each, fallback in zip(nearest, predictions, drawn, strict=True)
    ]
    return {RANDOM: [texts[index] for index in drawn], NEAREST: [texts[index] for index in chosen]}


@dataclass
class _Best:
    """The two nearest titles so far, the nearest first: shared words, twice, by the words of both; then the title."""

    found: list[tuple[float, str, int]]

    def offer(self, likeness: float, title: str, index: int) -> None:
        if len(self.found) == 2 and (-likeness, title) >= self.found[1][:2]:
            return
        self.found = sorted([*self.found, (-likeness, title, index)])[:2]


def find_nearest(queries: Iterable[str], titles: Iterable[str]) -> tuple[int, list[list[int]]]:
    """Returns how many titles there are, and for each query the numbers of the two nearest, the nearest first.

    Nearness is Dice's coefficient of the sets of words; titles that share none are not near, and equal ones rank by
    their text, so that the order of the files decides nothing.
    """
    wanted = [frozenset(words_of(query)) for query in queries]
    by_word: dict[str, list[int]] = {}
    for number, words in enumerate(wanted):
        for word in words:
            by_word.setdefault(word, []).append(number)
    best = [_Best([]) for _ in wanted]
    count = 0
    for index, title in enumerate(titles):
        count += 1
        words = frozenset(words_of(title))
        shared = Counter(number for word in words for number in by_word.get(word, ()))
        for number, num_shared in shared.items():
            best[number].offer(2 * num_shared / (len(words) + len(wanted[number])), title, index)
    return count, [[index for _, _, index in each.found] for each in best]


def _draw(reference: str, num_recipes: int) -> int:
    """Draws by the example itself, so that it has the same random recipe in every run."""
    digest = hashlib.sha256(reference.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % num_recipes


def _title(prediction: Prediction) -> str:
    return prediction.title or parse_recipe(prediction.reference).title


def _title_of_record(record: StoredRecord) -> str:
    return record.title or title_of(record.content)
