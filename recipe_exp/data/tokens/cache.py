"""Prepared data and the token cache: made once for a fingerprint, then opened by every run that needs them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from recipe_exp.config.data import DataConfig
from recipe_exp.data.card_file import CARD_FILE, Identity, fingerprint_of, read_card
from recipe_exp.data.contents import Contents, open_contents, remembers_hashes
from recipe_exp.data.preparation import prepared as prepared_folder
from recipe_exp.data.preparation.corpus_report import REJECTS_FILE, CorpusReport
from recipe_exp.data.preparation.pipeline import CORPUS_VERSION, PreparationRequest, Progress, prepare
from recipe_exp.data.preparation.prepared import PreparedCard, PreparedData, counted
from recipe_exp.data.prompts import PromptMix, find_prompts
from recipe_exp.data.split import Split
from recipe_exp.data.tokens.cache_builder import TOKENIZER_FOLDER, CacheRequest, build_cache
from recipe_exp.data.tokens.cache_card import CacheCard
from recipe_exp.data.tokens.token_files import StoredExamples, TokenSplit
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.errors import DataError

# Part of every cache's address: raise it when the files of a cache change their meaning.
CACHE_FORMAT_VERSION = 3
# Likewise, for a tokenizer trained with the cache: raise it when the same texts would be encoded otherwise.
TOKENIZER_TRAINING_VERSION = 1

# What decides the splits besides what the files hold; the rest of `data` leaves them as they are.
_KEYS_OF_PREPARATION = {
    "min_quality_score",
    "validation_fraction",
    "test_fraction",
    "max_examples",
    "language",
    "duplicates",
}
_FOLDER_NAME_CHARACTERS = 32
_LOGGER = logging.getLogger(__name__)


class TokenCache:
    """An open cache.

    Attributes:
        folder: where its files are; nothing in it may be changed.
        card: what it is and holds.
        prepared: the splits that were tokenized.
        prompts: how its examples are prompted.
    """

    def __init__(
        self,
        folder: Path,
        card: CacheCard,
        prepared: PreparedData,
        prompts: PromptMix,
        tokenizer: RecipeTokenizer | None = None,
    ) -> None:
        self.folder = folder
        self.card = card
        self.prepared = prepared
        self.prompts = prompts
        self._given_tokenizer = tokenizer

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the tokens: splits, prompts, limits, tokenizer."""
        return self.card.fingerprint

    @property
    def data_fingerprint(self) -> str:
        """Hash of the splits, the same on every machine."""
        return self.card.data_fingerprint

    @property
    def report(self) -> CorpusReport:
        """What became of the records."""
        if self.prepared.card is None:
            return counted({split: card.num_examples for split, card in self.card.splits.items()})
        return self.prepared.report

    @cached_property
    def tokenizer(self) -> RecipeTokenizer:
        """The tokenizer that made the tokens: the one that was given, else the one trained with the cache."""
        return self._given_tokenizer or RecipeTokenizer.from_pretrained(str(self.folder / TOKENIZER_FOLDER))

    def split(self, split: Split) -> TokenSplit:
        """Returns the tokens of one split."""
        num_prompts = len(self.prompts.templates) if split == "train" else 1
        return TokenSplit(self.folder / split, self.card.pad_id, num_prompts)

    def examples(self, split: Split, prompt: int = 0) -> StoredExamples:
        """Returns the texts of one split, in the order of its tokens; they are read when they are asked for.

        Args:
            split: which one.
            prompt: which of the prompts of training; the other splits have one.
        """
        template = self.prompts.templates[prompt] if split == "train" else self.prompts.held_out
        return StoredExamples(self.folder / split, self.prepared.path(split), template)


def build_or_open_cache(
    config: DataConfig,
    *,
    cache_dir: Path,
    tokenizer: RecipeTokenizer | None,
    vocab_size: int | None = None,
    num_workers: int | Literal["auto"] = "auto",
    progress: Progress | None = None,
) -> TokenCache:
    """Returns the cache of a `data` section and a tokenizer; what there is not yet is made.

    Processes that ask for the same cache at the same time share one build. A damaged cache is built again.

    Args:
        config: the `data` section; its `cache_dir` is not looked at.
        cache_dir: the folder of all caches; made if it is missing.
        tokenizer: the tokenizer of the model, or None to train one on the training split.
        vocab_size: pieces of the tokenizer to train; None with a given tokenizer.
        num_workers: processes that clean, and threads that tokenize; `auto` takes every core that this process may use.
        progress: called now and then with a stage's name and how many rows or examples it has done.

    Raises:
        ConfigError: `data.path` is missing, or `data.prompt`, `data.prompts` or `data.templates` holds no template.
        DataError: the data cannot be read, too much of it was rejected, or the cache cannot be written.
        ValueError: both a tokenizer and a vocabulary size are given, or neither.
    """
    if (tokenizer is None) == (vocab_size is None):
        raise ValueError("either a tokenizer or the vocabulary size of one to train")
    workers = num_cores() if num_workers == "auto" else num_workers
    prompts = find_prompts(config)
    request = CacheRequest(config, prompts, tokenizer, vocab_size, workers, progress or _no_progress)
    prepared = open_or_prepare(config, cache_dir=cache_dir, num_workers=workers, progress=progress)
    with _write_errors_in_one_line(cache_dir):
        folder, card = _open_or_build(request, prepared, cache_dir)
    return TokenCache(folder, card, prepared, prompts, tokenizer)


def find_cache(config: DataConfig, *, cache_dir: Path, vocab_size: int | None) -> TokenCache | None:
    """Returns the newest cache that is there already for a `data` section; nothing is made, downloaded or written.

    Args:
        config: the `data` section; its `cache_dir` is not looked at.
        cache_dir: the folder of all caches.
        vocab_size: pieces of a tokenizer that was trained with the cache; None takes that of any pretrained tokenizer.

    Raises:
        ConfigError: `data.path` is missing, or `data.prompt`, `data.prompts` or `data.templates` holds no template.
        DataError: the data cannot be read.
    """
    prompts = find_prompts(config)
    prepared = _find_prepared(config, cache_dir)
    if prepared is None:
        return None
    wanted = _identity_of_tokens(config, prepared, prompts, None, vocab_size)
    variable = {"tokenizer", "tokenizer_training_version"} if vocab_size is None else set()
    for path in sorted(cache_dir.glob(f"*/{CARD_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True):
        card = read_card(path.parent, CacheCard)
        if card is not None and all(card.identity.get(key) == wanted[key] for key in wanted.keys() - variable):
            return TokenCache(path.parent, card, prepared, prompts)
    return None


def _find_prepared(config: DataConfig, cache_dir: Path) -> PreparedData | None:
    # Without remembered hashes there is nothing that was made of these files, and no reason to read them all.
    is_cold = config.format != "sample" and not remembers_hashes(cache_dir)
    if is_cold or config.format == "huggingface" or not cache_dir.is_dir():
        return None
    if config.format == "prepared":
        return prepared_folder.open_folder(config.path or "", cache_dir, is_verified=False)
    identity = _identity_of_splits(config, open_contents(config.model_copy(update={"verify": False}), cache_dir))
    folder = cache_dir / f"prepared-{fingerprint_of(identity)[:_FOLDER_NAME_CHARACTERS]}"
    card = read_card(folder, PreparedCard)
    return None if card is None else PreparedData(folder, card.data_fingerprint, card)


def open_or_prepare(
    config: DataConfig, *, cache_dir: Path, num_workers: int, progress: Progress | None = None
) -> PreparedData:
    """Returns the splits of a `data` section; they are made if there are none yet.

    Args:
        config: the `data` section; its `cache_dir` is not looked at.
        cache_dir: the folder of all caches; made if it is missing.
        num_workers: processes that clean.
        progress: called now and then with a stage's name and how many rows it has done.

    Raises:
        ConfigError: `data.path` is missing.
        DataError: the data cannot be read, too much of it was rejected, or nothing can be written.
    """
    with _write_errors_in_one_line(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        if config.format == "prepared":
            return prepared_folder.open_folder(config.path or "", cache_dir, is_verified=config.verify)
        contents = open_contents(config, cache_dir)
        prepared = _open_or_prepare(config, contents, cache_dir, num_workers, progress or _no_progress)
    prepared.report.check(config.max_rejected_fraction, prepared.folder / REJECTS_FILE)
    return prepared


def _open_or_prepare(
    config: DataConfig, contents: Contents, cache_dir: Path, num_workers: int, progress: Progress
) -> PreparedData:
    identity = _identity_of_splits(config, contents)
    folder = cache_dir / f"prepared-{fingerprint_of(identity)[:_FOLDER_NAME_CHARACTERS]}"
    card = read_card(folder, PreparedCard, is_verified=config.verify)
    if card is None:
        with _only_builder(folder):
            # Another process may have made it while this one waited.
            again = read_card(folder, PreparedCard, is_verified=config.verify)
            card = again or prepare(PreparationRequest(config, contents, identity, num_workers, progress), folder)
    return PreparedData(folder, card.data_fingerprint, card)


def _open_or_build(request: CacheRequest, prepared: PreparedData, cache_dir: Path) -> tuple[Path, CacheCard]:
    tokenizer = request.tokenizer.fingerprint if request.tokenizer else None
    identity = _identity_of_tokens(request.config, prepared, request.prompts, tokenizer, request.vocab_size)
    folder = cache_dir / fingerprint_of(identity)[:_FOLDER_NAME_CHARACTERS]
    card = read_card(folder, CacheCard, is_verified=request.config.verify)
    if card is None:
        with _only_builder(folder):
            again = read_card(folder, CacheCard, is_verified=request.config.verify)
            card = again or build_cache(request, prepared, identity, folder)
    return folder, card


def _identity_of_splits(config: DataConfig, contents: Contents) -> Identity:
    return {
        **config.model_dump(mode="json", include=_KEYS_OF_PREPARATION),
        "contents": contents.fingerprint,
        "corpus_version": CORPUS_VERSION,
    }


def _identity_of_tokens(
    config: DataConfig, prepared: PreparedData, prompts: PromptMix, tokenizer: str | None, vocab_size: int | None
) -> Identity:
    return {
        "data": prepared.data_fingerprint,
        "prompts": list(prompts.templates),
        "held_out_prompt": prompts.held_out,
        "max_source_tokens": config.max_source_tokens,
        "max_target_tokens": config.max_target_tokens,
        "tokenizer": tokenizer,
        "trained_vocab_size": vocab_size,
        "tokenizer_training_version": None if tokenizer else TOKENIZER_TRAINING_VERSION,
        "cache_format_version": CACHE_FORMAT_VERSION,
    }


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOGGER.info("%s: another process makes this; waiting for it", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _write_errors_in_one_line(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"data.cache_dir={cache_dir}: cannot be written ({reason}); choose another folder") from error


def num_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _no_progress(stage: str, count: int) -> None:
    """Keeps quiet."""
