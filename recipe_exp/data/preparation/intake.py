"""What each row becomes, looked at alone: a clean record with its split and score, or one that is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from recipe_exp.config.data import DataConfig
from recipe_exp.data.preparation.language import LanguageFilter
from recipe_exp.data.preparation.stored_record import StoredRecord, computed_score, store, title_of
from recipe_exp.data.readers.rows import BLANK_LINE, Pair, Rejection, Row, as_text
from recipe_exp.data.split import Split, split_of
from recipe_exp.recipes.cleaning import clean_recipe
from recipe_exp.recipes.recipe import Recipe
from recipe_exp.recipes.text import clean_line, normalise_title
from recipe_exp.secrets import redact

MAX_TEXT_CHARACTERS = 100_000
MAX_WORD_CHARACTERS = 2_000


class Fate(StrEnum):
    """Why a row is left out."""

    REJECTED = "rejected"
    LOW_QUALITY = "low quality"
    OTHER_LANGUAGE = "other language"
    BLANK = "blank"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stood.

    Attributes:
        file: as it was given, without secrets.
        line_number: counted from 1.
    """

    file: str
    line_number: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """A record that may be learnt from.

    Attributes:
        place: where it stood.
        record: what it holds, clean.
        split: decided by its title.
        key: equal for two records with the same normalised title and ingredient lines, or the same two texts.
    """

    place: Place
    record: StoredRecord
    split: Split
    key: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that is not used.

    Attributes:
        place: where it stood.
        fate: how it is counted.
        reason: the same short phrase for all rows with the same fault.
    """

    place: Place
    fate: Fate
    reason: str


@dataclass
class Intake:
    """Looks at rows one by one; nothing is remembered from one to the next.

    Args:
        config: the `data` section.
    """

    config: DataConfig
    _languages: LanguageFilter | None = field(init=False)
    _file: str | None = field(init=False, default=None)
    _shown_file: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self._languages = LanguageFilter(self.config.language) if self.config.language else None

    def take(self, rows: Iterable[Row]) -> list[Accepted | LeftOut]:
        """Returns what becomes of each row, in their order."""
        return [self.take_one(row) for row in rows]

    def take_one(self, row: Row) -> Accepted | LeftOut:
        """Returns what becomes of a row."""
        place = Place(self._shown(row.file), row.line_number)
        if isinstance(row, Rejection):
            return LeftOut(place, Fate.BLANK if row.reason == BLANK_LINE else Fate.REJECTED, row.reason)
        if self._is_low(row.content.quality_score):
            return self._low_quality(place)
        if excess := _excess(row.content):
            return LeftOut(place, Fate.REJECTED, excess)
        content = _clean(row.content)
        if missing := _missing_part(content):
            return LeftOut(place, Fate.REJECTED, f"no {missing}")
        if self._languages is not None and not self._languages.accepts(_prose(content)):
            return LeftOut(place, Fate.OTHER_LANGUAGE, f"not in data.language={self.config.language}")
        score = content.quality_score
        if score is None:
            score = computed_score(content)
            if self._is_low(score):
                return self._low_quality(place)
        split = split_of(title_of(content), self.config.validation_fraction, self.config.test_fraction)
        return Accepted(place, store(content, score), split, _key(content))

    def _shown(self, file: str) -> str:
        if self._file != file:
            self._file, self._shown_file = file, as_text(redact(file))
        return self._shown_file

    def _is_low(self, score: float | None) -> bool:
        return score is not None and score < self.config.min_quality_score

    def _low_quality(self, place: Place) -> LeftOut:
        return LeftOut(place, Fate.LOW_QUALITY, f"quality below data.min_quality_score={self.config.min_quality_score}")


def _prose(content: Recipe | Pair) -> str:
    return content.target_text if isinstance(content, Pair) else "\n".join(content.instructions)


def _excess(content: Recipe | Pair) -> str:
    """Returns in what a text is more than any recipe, and tokenizing it would take minutes; empty if in nothing."""
    if isinstance(content, Pair):
        texts = [content.source_text, content.target_text]
    else:
        texts = [content.title, *content.ingredients, *content.instructions]
    if sum(map(len, texts)) + len(texts) > MAX_TEXT_CHARACTERS:
        return f"text over {MAX_TEXT_CHARACTERS:,} characters"
    long_texts = (text for text in texts if len(text) > MAX_WORD_CHARACTERS)
    if any(len(word) > MAX_WORD_CHARACTERS for text in long_texts for word in text.split()):
        return f"word over {MAX_WORD_CHARACTERS:,} characters"
    return ""


def _clean(content: Recipe | Pair) -> Recipe | Pair:
    if isinstance(content, Pair):
        return replace(
            content,
            source_text=_clean_text(content.source_text),
            target_text=_clean_text(content.target_text),
        )
    return clean_recipe(content)


def _clean_text(text: str) -> str:
    return "\n".join(clean_line(line) for line in text.splitlines()).strip("\n")


def _missing_part(content: Recipe | Pair) -> str | None:
    if isinstance(content, Pair):
        parts = {"input": content.source_text, "output": content.target_text}
    else:
        # A title without a letter or digit has no key of its own, so it would share its split with all such.
        parts = {
            "title": normalise_title(content.title),
            "ingredients": "".join(content.ingredients),
            "instructions": "".join(content.instructions),
        }
    return next((name for name, text in parts.items() if not text), None)


def _key(content: Recipe | Pair) -> int:
    if isinstance(content, Pair):
        parts = ["pair", content.source_text, content.target_text]
    else:
        parts = ["recipe", normalise_title(content.title), *content.ingredients]
    return int.from_bytes(hashlib.sha256(msgspec.json.encode(parts)).digest()[:8], "little")
