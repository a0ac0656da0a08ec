"""Builds a token cache in a folder aside: texts, then a tokenizer if one is to be trained, then tokens."""

from __future__ import annotations

import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias, TypeVar

from recipe_exp.config.data import DataConfig
from recipe_exp.data.cache_card import (
    CARD_FILE,
    CacheCard,
    Identity,
    SplitCard,
    fingerprint_of,
    sizes_of_files,
    write_card,
)
from recipe_exp.data.contents import Contents
from recipe_exp.data.corpus import REJECTS_FILE, SPLITS, Corpus, CorpusReport, Split
from recipe_exp.data.token_files import MAX_VOCAB_SIZE, StoredExamples, TextWriter, TokenWriter
from recipe_exp.data.tokenizer import RecipeTokenizer
from recipe_exp.data.vocabulary import train_unigram
from recipe_exp.errors import DataError, ModelError
from recipe_exp.files import flush_to_disk

TOKENIZER_FOLDER = "tokenizer"

Progress: TypeAlias = Callable[[str, int], None]

_CHUNK_EXAMPLES = 256
_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class CacheRequest:
    """What a cache is asked to hold, and how it is built.

    Attributes:
        config: the `data` section.
        tokenizer: the tokenizer to encode with, or None to train one.
        vocab_size: pieces of the tokenizer to train; None with a given one.
        num_workers: threads that tokenize.
        progress: called now and then with a stage's name and how many examples it has done.
    """

    config: DataConfig
    tokenizer: RecipeTokenizer | None
    vocab_size: int | None
    num_workers: int
    progress: Progress


def build_cache(request: CacheRequest, contents: Contents, identity: Identity, folder: Path) -> CacheCard:
    """Builds a cache and returns its card; the folder appears as a whole or not at all.

    The caller sees to it that no other process builds the same folder. What stands there, and what a build that
    died left behind, is removed.

    Raises:
        DataError: the data cannot be read, or too much of it was rejected.
        ModelError: the trained vocabulary is too large.
    """
    building = folder.with_name(f"{folder.name}.building")
    if building.exists():
        _LOGGER.info("%s: left behind by a build that did not end, removed", building)
        shutil.rmtree(building)
    if folder.exists():
        _LOGGER.warning("%s: this token cache is damaged and is built again", folder)
    try:
        report = _write_texts(request, contents, building)
        tokenizer = request.tokenizer or _train_tokenizer(request, building)
        splits = {split: _write_tokens(request, tokenizer, building / split, split) for split in SPLITS}
        card = CacheCard(
            fingerprint=fingerprint_of(identity),
            data_fingerprint=contents.fingerprint,
            identity=identity,
            pad_id=tokenizer.pad_id,
            report=report,
            splits=splits,
            file_bytes=sizes_of_files(building),
        )
        _publish(building, card, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return card


def refuse_wide_vocabulary(vocab_size: int) -> None:
    """Raises a ModelError if token ids do not fit into 16 bits."""
    if vocab_size > MAX_VOCAB_SIZE:
        raise ModelError(
            f"a vocabulary of {vocab_size} pieces: token caches hold at most {MAX_VOCAB_SIZE}; use a smaller one"
        )


def _write_texts(request: CacheRequest, contents: Contents, building: Path) -> CorpusReport:
    building.mkdir()
    corpus = Corpus(request.config, building)
    with ExitStack() as stack:
        writers = {split: stack.enter_context(TextWriter(building / split)) for split in SPLITS}
        for count, (split, example) in enumerate(corpus.examples(contents.rows()), start=1):
            writers[split].write(example)
            if count % _CHUNK_EXAMPLES == 0:
                request.progress("reading", count)
    report = corpus.report
    request.progress("reading", sum(report.num_examples.values()))
    try:
        report.check(request.config.max_rejected_fraction)
    except DataError as error:
        raise _with_rejects(error, report, building) from None
    return report


def _with_rejects(error: DataError, report: CorpusReport, building: Path) -> DataError:
    """Keeps the list of rejections, which would go with the folder, and names it in the error."""
    if not report.rejected:
        return error
    kept = building.with_suffix(f".{REJECTS_FILE}")
    shutil.copyfile(building / REJECTS_FILE, kept)
    return DataError(f"{error}; see {kept}")


def _train_tokenizer(request: CacheRequest, building: Path) -> RecipeTokenizer:
    examples = StoredExamples(building / "train")
    if request.vocab_size is None or not len(examples):
        raise DataError("data.path: no example is left in the training split, so no tokenizer can be trained on it")
    request.progress("training the tokenizer", len(examples))
    texts = (text for example in examples for text in (example.source_text, example.target_text))
    tokenizer = RecipeTokenizer.from_tokenizer(train_unigram(texts, request.vocab_size))
    refuse_wide_vocabulary(tokenizer.vocab_size)
    tokenizer.save(building / TOKENIZER_FOLDER)
    return tokenizer


@dataclass(frozen=True)
class _EncodedChunk:
    sources: list[list[int]]
    targets: list[list[int]]
    num_truncated_sources: int
    num_truncated_targets: int
    num_unknown_tokens: int


def _write_tokens(request: CacheRequest, tokenizer: RecipeTokenizer, folder: Path, split: Split) -> SplitCard:
    examples = StoredExamples(folder)
    config = request.config

    def encode(start: int) -> _EncodedChunk:
        chunk = examples[start : start + _CHUNK_EXAMPLES]
        sources, cut_sources = _encode(tokenizer, [one.source_text for one in chunk], config.max_source_tokens)
        targets, cut_targets = _encode(tokenizer, [one.target_text for one in chunk], config.max_target_tokens)
        unknown = sum(map(tokenizer.count_unknown, sources)) + sum(map(tokenizer.count_unknown, targets))
        return _EncodedChunk(sources, targets, cut_sources, cut_targets, unknown)

    tally = _Tally()
    with TokenWriter(folder) as writer, _one_core_a_thread():
        for chunk in _map_in_order(encode, range(0, len(examples), _CHUNK_EXAMPLES), request.num_workers):
            writer.write(chunk.sources, chunk.targets)
            tally.add(chunk)
            request.progress(f"tokenizing {split}", tally.num_examples)
    return tally.card()


def _encode(tokenizer: RecipeTokenizer, texts: list[str], max_tokens: int) -> tuple[list[list[int]], int]:
    """Returns the ids of each text, cut to `max_tokens` with the end-of-sequence token last, and how many were cut."""
    rows = tokenizer.encode_batch(texts)
    num_truncated = sum(len(ids) > max_tokens for ids in rows)
    return [ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]] for ids in rows], num_truncated


class _Tally:
    """Sums up the chunks of one split."""

    def __init__(self) -> None:
        self.num_examples = 0
        self._num_source_tokens = self._num_target_tokens = self._num_unknown_tokens = 0
        self._num_truncated_sources = self._num_truncated_targets = 0

    def add(self, chunk: _EncodedChunk) -> None:
        self.num_examples += len(chunk.sources)
        self._num_source_tokens += sum(map(len, chunk.sources))
        self._num_target_tokens += sum(map(len, chunk.targets))
        self._num_unknown_tokens += chunk.num_unknown_tokens
        self._num_truncated_sources += chunk.num_truncated_sources
        self._num_truncated_targets += chunk.num_truncated_targets

    def card(self) -> SplitCard:
        num_tokens = self._num_source_tokens + self._num_target_tokens
        return SplitCard(
            num_examples=self.num_examples,
            num_source_tokens=self._num_source_tokens,
            num_target_tokens=self._num_target_tokens,
            truncated_source_fraction=self._num_truncated_sources / max(self.num_examples, 1),
            truncated_target_fraction=self._num_truncated_targets / max(self.num_examples, 1),
            unknown_token_fraction=self._num_unknown_tokens / max(num_tokens, 1),
        )


def _map_in_order(function: Callable[[int], T], arguments: Iterable[int], num_workers: int) -> Iterator[T]:
    """Yields the results in order; as many as there are threads, and as many again, are in memory at a time."""
    remaining = iter(arguments)
    with ThreadPoolExecutor(num_workers) as pool:
        pending: deque[Future[T]] = deque(pool.submit(function, one) for one in islice(remaining, 2 * num_workers))
        try:
            while pending:
                yield pending.popleft().result()
                pending.extend(pool.submit(function, one) for one in islice(remaining, 1))
        finally:
            pool.shutdown(cancel_futures=True)


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


def _publish(building: Path, card: CacheCard, folder: Path) -> None:
    """Makes the files last, the card after them, then gives the folder its name."""
    for path in [*building.rglob("*"), building]:
        flush_to_disk(path)
    write_card(building, card)
    flush_to_disk(building / CARD_FILE)
    flush_to_disk(building)
    if folder.exists():
        shutil.rmtree(folder)
    building.rename(folder)
    flush_to_disk(folder.parent)
    building.with_suffix(f".{REJECTS_FILE}").unlink(missing_ok=True)
