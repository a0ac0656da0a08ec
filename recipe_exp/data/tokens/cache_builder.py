"""Builds a token cache in a folder aside: a tokenizer if one is to be trained, then tokens; a killed one goes on."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import msgspec
import numpy as np

from recipe_exp.config.data import DataConfig
from recipe_exp.data.append_log import AppendLog
from recipe_exp.data.card_file import CARD_FILE, Identity, files_below, fingerprint_of, hashes_of, publish, sizes_of
from recipe_exp.data.contents import state_of
from recipe_exp.data.in_order import map_in_threads
from recipe_exp.data.preparation.pipeline import Progress
from recipe_exp.data.preparation.prepared import PreparedData, decode_record
from recipe_exp.data.preparation.stored_record import score_of
from recipe_exp.data.prompts import PromptMix, example_of
from recipe_exp.data.split import SPLITS, Split
from recipe_exp.data.tokens.cache_card import CacheCard, InexactCause, SplitCard
from recipe_exp.data.tokens.round_trip import RoundTrips
from recipe_exp.data.tokens.token_files import (
    QUALITY_SCORES,
    TEXT_ENDS,
    token_bytes,
    token_files,
    token_type,
    tokens_file,
)
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.data.tokens.vocabulary import train_unigram
from recipe_exp.errors import DataError
from recipe_exp.files import flush_to_disk

TOKENIZER_FOLDER = "tokenizer"

_CHUNK_EXAMPLES = 256
_BLOCK_CHUNKS = 8
_NUM_CAUSES = 10
_LOG = "tokens.log"
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheRequest:
    """What a cache is asked to hold, and how it is built.

    Attributes:
        config: the `data` section.
        prompts: of training, and that of validation and test.
        tokenizer: the tokenizer to encode with, or None to train one.
        vocab_size: pieces of the tokenizer to train; None with a given one.
        num_workers: threads that tokenize.
        progress: called now and then with a stage's name and how many examples it has done.
    """

    config: DataConfig
    prompts: PromptMix
    tokenizer: RecipeTokenizer | None
    vocab_size: int | None
    num_workers: int
    progress: Progress


def build_cache(request: CacheRequest, prepared: PreparedData, identity: Identity, folder: Path) -> CacheCard:
    """Builds a cache and returns its card; the folder appears as a whole or not at all.

    The caller sees to it that no other process builds the same folder. What a killed build wrote is gone on with.

    Raises:
        DataError: the data cannot be read.
    """
    building = folder.with_name(f"{folder.name}.building")
    if building.exists():
        _LOGGER.info("%s: left behind by a build that did not end; it goes on from there", building)
    if folder.exists():
        _LOGGER.warning("%s: this token cache is damaged and is built again", folder)
    building.mkdir(exist_ok=True)
    # A kill just before the end leaves one, which would count as one of the files.
    (building / CARD_FILE).unlink(missing_ok=True)
    tokenizer = request.tokenizer or _trained_tokenizer(request, prepared, building)
    splits = {split: _write_tokens(request, tokenizer, prepared, building / split, split) for split in SPLITS}
    try:
        prepared.refuse_changed()
    except DataError:
        shutil.rmtree(building)
        raise
    for split in SPLITS:
        (building / split / _LOG).unlink()
    names = files_below(building)
    card = CacheCard(
        fingerprint=fingerprint_of(identity),
        data_fingerprint=prepared.data_fingerprint,
        identity=identity,
        pad_id=tokenizer.pad_id,
        splits=splits,
        file_bytes=sizes_of(building, names),
        file_hashes=hashes_of(building, names),
    )
    publish(building, card, folder)
    return card


def _trained_tokenizer(request: CacheRequest, prepared: PreparedData, building: Path) -> RecipeTokenizer:
    folder = building / TOKENIZER_FOLDER
    if folder.exists():
        return RecipeTokenizer.from_pretrained(folder)
    num_examples = prepared.report.num_examples["train"]
    if request.vocab_size is None or not num_examples:
        raise DataError("data.path: no example is left in the training split, so no tokenizer can be trained on it")
    request.progress("training the tokenizer", num_examples)
    tokenizer = RecipeTokenizer.from_tokenizer(train_unigram(_texts(request, prepared), request.vocab_size))
    aside = building / f"{TOKENIZER_FOLDER}.aside"
    shutil.rmtree(aside, ignore_errors=True)
    tokenizer.save(aside)
    for path in [*aside.iterdir(), aside]:
        flush_to_disk(path)
    aside.rename(folder)
    return tokenizer


def _texts(request: CacheRequest, prepared: PreparedData) -> Iterator[str]:
    # One prompt each, in turn: as much text as with one template, and the words of all of them.
    templates = cycle(request.prompts.templates)
    for record, template in zip(prepared.records("train"), templates, strict=False):
        example = example_of(record.content, template)
        yield example.source_text
        yield example.target_text


class _Tally(msgspec.Struct):
    """Sums of one split."""

    num_examples: int = 0
    num_text_bytes: int = 0
    num_sources: int = 0
    num_source_tokens: int = 0
    num_target_tokens: int = 0
    num_unknown_tokens: int = 0
    num_truncated_sources: int = 0
    num_truncated_targets: int = 0
    num_inexact_targets: int = 0
    inexact_causes: dict[str, int] = msgspec.field(default_factory=dict)

    def plus(self, other: _Tally) -> _Tally:
        """Returns the sums of both."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        return _Tally(**sums, inexact_causes=dict(Counter(self.inexact_causes) + Counter(other.inexact_causes)))

    def card(self, round_trips: RoundTrips) -> SplitCard:
        """What the card says of them."""
        num_tokens = self.num_source_tokens + self.num_target_tokens
        causes = sorted(self.inexact_causes.items(), key=lambda cause: (-cause[1], cause[0]))
        return SplitCard(
            num_examples=self.num_examples,
            num_source_tokens=self.num_source_tokens,
            num_target_tokens=self.num_target_tokens,
            truncated_source_fraction=self.num_truncated_sources / max(self.num_sources, 1),
            truncated_target_fraction=self.num_truncated_targets / max(self.num_examples, 1),
            unknown_token_fraction=self.num_unknown_tokens / max(num_tokens, 1),
            inexact_target_fraction=self.num_inexact_targets / max(self.num_examples, 1),
            inexact_causes=tuple(
                InexactCause(what, count, round_trips.returned(what) if len(what) == 1 else None)
                for what, count in causes[:_NUM_CAUSES]
            ),
        )


_NUMBERS = tuple(name for name in _Tally.__struct_fields__ if name != "inexact_causes")


@dataclass(frozen=True)
class _Chunk:
    """Some examples, encoded."""

    sources: list[list[list[int]]]
    targets: list[list[int]]
    line_lengths: list[int]
    quality_scores: list[float]
    tally: _Tally


def _write_tokens(
    request: CacheRequest, tokenizer: RecipeTokenizer, prepared: PreparedData, folder: Path, split: Split
) -> SplitCard:
    templates = request.prompts.templates if split == "train" else (request.prompts.held_out,)
    round_trips = RoundTrips(tokenizer)
    path = prepared.path(split)
    encode = partial(_encode, request.config, tokenizer, round_trips, templates, path)
    tokens = tokens_file(tokenizer.vocab_size)
    # What a killed build read of a file that was touched since may be of another one.
    origin = repr(state_of(path))
    with AppendLog(folder, _LOG, token_files(tokens), _Tally(), origin) as log, path.open("rb") as file:
        file.seek(log.state.num_text_bytes)
        numbered = enumerate(file, start=log.state.num_examples + 1)
        chunks = iter(lambda: list(islice(numbered, _CHUNK_EXAMPLES)), [])
        with _one_core_a_thread():
            for number, chunk in enumerate(map_in_threads(encode, chunks, request.num_workers), start=1):
                _append(log, chunk, tokens)
                if number % _BLOCK_CHUNKS == 0:
                    log.commit(log.state)
                request.progress(f"tokenizing {split}", log.state.num_examples)
        log.commit(log.state)
        return log.state.card(round_trips)


def _encode(
    config: DataConfig,
    tokenizer: RecipeTokenizer,
    round_trips: RoundTrips,
    templates: tuple[str, ...],
    path: Path,
    lines: list[tuple[int, bytes]],
) -> _Chunk:
    records = [decode_record(line, path, number) for number, line in lines]
    contents = [record.content for record in records]
    examples = [[example_of(content, template) for content in contents] for template in templates]
    encoded = [
        _cut(tokenizer.encode_batch([one.source_text for one in row]), config.max_source_tokens) for row in examples
    ]
    target_texts = [one.target_text for one in examples[0]]
    whole_targets = tokenizer.encode_batch(target_texts)
    targets, num_cut_targets = _cut(whole_targets, config.max_target_tokens)
    inexact = [
        text for text, ids in zip(target_texts, whole_targets, strict=True) if not round_trips.is_exact(text, ids)
    ]
    sources = [rows for rows, _ in encoded]
    every = [*(ids for rows in sources for ids in rows), *targets]
    tally = _Tally(
        num_examples=len(lines),
        num_text_bytes=sum(len(line) for _, line in lines),
        num_sources=len(lines) * len(templates),
        num_source_tokens=sum(len(ids) for rows in sources for ids in rows),
        num_target_tokens=sum(map(len, targets)),
        num_unknown_tokens=sum(map(tokenizer.count_unknown, every)),
        num_truncated_sources=sum(num_cut for _, num_cut in encoded),
        num_truncated_targets=num_cut_targets,
        num_inexact_targets=len(inexact),
        inexact_causes=dict(sum(map(round_trips.causes, inexact), Counter())),
    )
    return _Chunk(sources, targets, [len(line) for _, line in lines], list(map(score_of, records)), tally)


def _cut(rows: list[list[int]], max_tokens: int) -> tuple[list[list[int]], int]:
    """Returns the ids of each text, cut to `max_tokens` with the end-of-sequence token last, and how many were cut."""
    num_truncated = sum(len(ids) > max_tokens for ids in rows)
    return [ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]] for ids in rows], num_truncated


def _append(log: AppendLog[_Tally], chunk: _Chunk, tokens: str) -> None:
    num_tokens = log.size(tokens) // np.dtype(token_type(tokens)).itemsize
    for name, content in token_bytes(chunk.sources, chunk.targets, num_tokens, tokens).items():
        log.append(name, content)
    ends = log.state.num_text_bytes + np.cumsum(chunk.line_lengths, dtype=np.int64)
    log.append(TEXT_ENDS, ends.tobytes())
    log.append(QUALITY_SCORES, np.array(chunk.quality_scores, dtype=np.float32).tobytes())
    log.state = log.state.plus(chunk.tally)


@contextmanager
def _one_core_a_thread() -> Iterator[None]:
    """Keeps each call of the tokenizer on its own thread, so that `num_workers` is the number of busy cores."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
