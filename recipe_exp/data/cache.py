"""The token cache: built once for a fingerprint, then mapped into memory by every run that needs it."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from recipe_exp.config.data import DataConfig
from recipe_exp.data.cache_builder import (
    TOKENIZER_FOLDER,
    CacheRequest,
    Progress,
    build_cache,
    refuse_wide_vocabulary,
)
from recipe_exp.data.cache_card import CacheCard, Identity, fingerprint_of, read_card
from recipe_exp.data.contents import open_contents
from recipe_exp.data.corpus import CORPUS_VERSION, REJECTS_FILE, CorpusReport, Split
from recipe_exp.data.prompts import find_template
from recipe_exp.data.token_files import StoredExamples, TokenSplit
from recipe_exp.data.tokenizer import RecipeTokenizer
from recipe_exp.errors import DataError

# Part of every cache's address: raise it when the files of a cache change their meaning.
CACHE_FORMAT_VERSION = 1
# Likewise, for a tokenizer trained with the cache: raise it when the same texts would be encoded otherwise.
TOKENIZER_TRAINING_VERSION = 1

# Where the data lies, how it is packed and what is tolerated leave the tokens as they are.
_KEYS_WITHOUT_EFFECT_ON_TOKENS = {"format", "path", "max_rejected_fraction", "cache_dir"}
_FOLDER_NAME_CHARACTERS = 32
_LOGGER = logging.getLogger(__name__)


class TokenCache:
    """An open cache.

    Attributes:
        folder: where its files are; nothing in it may be changed.
        card: what it is and holds.
    """

    def __init__(self, folder: Path, card: CacheCard, tokenizer: RecipeTokenizer | None = None) -> None:
        self.folder = folder
        self.card = card
        self._given_tokenizer = tokenizer

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the tokens: contents, settings of `data`, tokenizer."""
        return self.card.fingerprint

    @property
    def data_fingerprint(self) -> str:
        """Hash of the contents of the data files, or of the sample's version and size."""
        return self.card.data_fingerprint

    @property
    def report(self) -> CorpusReport:
        """What became of the records."""
        return self.card.report

    @cached_property
    def tokenizer(self) -> RecipeTokenizer:
        """The tokenizer that made the tokens: the one that was given, else the one trained with the cache."""
        return self._given_tokenizer or RecipeTokenizer.from_pretrained(str(self.folder / TOKENIZER_FOLDER))

    def split(self, split: Split) -> TokenSplit:
        """Returns the tokens of one split."""
        return TokenSplit(self.folder / split, self.card.pad_id)

    def examples(self, split: Split) -> StoredExamples:
        """Returns the texts of one split, in the order of its tokens; they are read when they are asked for."""
        return StoredExamples(self.folder / split)


def build_or_open_cache(
    config: DataConfig,
    *,
    cache_dir: Path,
    tokenizer: RecipeTokenizer | None,
    vocab_size: int | None = None,
    num_workers: int | Literal["auto"] = "auto",
    progress: Progress | None = None,
) -> TokenCache:
    """Returns the cache of a `data` section and a tokenizer; it is built if there is none yet.

    Processes that ask for the same cache at the same time share one build. A damaged cache is built again.

    Args:
        config: the `data` section; its `cache_dir` is not looked at.
        cache_dir: the folder of all caches; made if it is missing.
        tokenizer: the tokenizer of the model, or None to train one on the training split.
        vocab_size: pieces of the tokenizer to train; None with a given tokenizer.
        num_workers: threads that tokenize; `auto` takes every core that this process may use.
        progress: called now and then with a stage's name and how many examples it has done.

    Raises:
        ConfigError: `data.path` is missing, or `data.prompt` is no template.
        DataError: the data cannot be read, too much of it was rejected, or the cache cannot be written.
        ModelError: the vocabulary does not fit into 16 bits.
        ValueError: both a tokenizer and a vocabulary size are given, or neither.
    """
    if (tokenizer is None) == (vocab_size is None):
        raise ValueError("either a tokenizer or the vocabulary size of one to train")
    refuse_wide_vocabulary(tokenizer.vocab_size if tokenizer else vocab_size or 0)
    threads = _num_cores() if num_workers == "auto" else num_workers
    request = CacheRequest(config, tokenizer, vocab_size, threads, progress or _no_progress)
    with _write_errors_in_one_line(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        folder, card = _open_or_build(request, cache_dir)
    card.report.check(config.max_rejected_fraction, folder / REJECTS_FILE)
    return TokenCache(folder, card, tokenizer)


def _open_or_build(request: CacheRequest, cache_dir: Path) -> tuple[Path, CacheCard]:
    contents = open_contents(request.config, cache_dir)
    identity = _identity(request, contents.fingerprint)
    folder = cache_dir / fingerprint_of(identity)[:_FOLDER_NAME_CHARACTERS]
    card = read_card(folder)
    if card is None:
        with _only_builder(folder):
            # Another process may have built it while this one waited.
            card = read_card(folder) or build_cache(request, contents, identity, folder)
    return folder, card


def _identity(request: CacheRequest, data_fingerprint: str) -> Identity:
    """Everything that decides the tokens; a key of `data` counts unless it is known to have no effect."""
    settings = request.config.model_dump(mode="json", exclude=_KEYS_WITHOUT_EFFECT_ON_TOKENS)
    return {
        **settings,
        "prompt": find_template(request.config.prompt),
        "contents": data_fingerprint,
        "tokenizer": request.tokenizer.fingerprint if request.tokenizer else None,
        "trained_vocab_size": request.vocab_size,
        "tokenizer_training_version": None if request.tokenizer else TOKENIZER_TRAINING_VERSION,
        "corpus_version": CORPUS_VERSION,
        "cache_format_version": CACHE_FORMAT_VERSION,
    }


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOGGER.info("%s: another process builds this token cache; waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _write_errors_in_one_line(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"data.cache_dir={cache_dir}: cannot be written ({reason}); choose another folder") from error


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _no_progress(stage: str, count: int) -> None:
    """Keeps quiet."""
