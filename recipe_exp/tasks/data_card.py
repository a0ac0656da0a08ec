"""Where data cards are written, and how the tracker hears of the data."""

from __future__ import annotations

import sys
from pathlib import Path

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.relevance import flatten
from recipe_exp.data.split import Split
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.files import write_atomically
from recipe_exp.reports.data_card import DATA_CARD_FILES, render
from recipe_exp.secrets import redact_command
from recipe_exp.tasks.data import describe_data
from recipe_exp.tracking import Journal, RunFolder, Status, is_alive, list_runs, start_uploader

_, _, DATA_CARD_HTML = DATA_CARD_FILES

_CONTEXTS: dict[Split, str] = {"train": "training", "validation": "validation", "test": "test"}


def write_data_card(cache: TokenCache, folder: Path) -> None:
    """Writes the data card of a token cache into a folder, each file as a whole; the folder is made if it is missing.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in render(cache.prepared, cache.card).items():
        write_atomically(folder / name, text.encode())


def record_data(journal: Journal, folder: Path, cache: TokenCache, config: ExperimentConfig, *splits: Split) -> None:
    """Leaves the data card in a run folder, and tells the tracker of it and of the splits, by the digest of the data.

    Args:
        journal: of the run.
        folder: of the run.
        cache: the data.
        config: of the run.
        *splits: which ones the run uses; empty ones are left out.
    """
    write_data_card(cache, folder)
    for name in DATA_CARD_FILES:
        journal.artifact(folder / name)
    for split in splits:
        card = cache.card.splits[split]
        if card.num_examples:
            profile = {
                "num_examples": card.num_examples,
                "num_source_tokens": card.num_source_tokens,
                "num_target_tokens": card.num_target_tokens,
                "token_cache": cache.fingerprint,
            }
            source = config.data.path or "generated"
            journal.dataset(f"recipes/{split}", cache.data_fingerprint, profile, _CONTEXTS[split], source)


def publish_data_card(cache: TokenCache, config: ExperimentConfig) -> Path:
    """Returns the folder under `output_dir` that holds the data card and its record; made once for the same tokens.

    The tracker gets it as a run of its own, with the digest of the data as that of its datasets.

    Raises:
        OSError: it cannot be written.
        CheckpointError: the folder cannot be made.
    """
    for known in list_runs(Path(config.output_dir), kind="data"):
        record = known.read_record()
        is_same = (record.get("data") or {}).get("fingerprint") == cache.fingerprint
        if is_same and record.get("status") == "finished" and not is_alive(known):
            write_data_card(cache, known.path)
            return known.path
    name = f"data {Path(config.data.path).name if config.data.path else 'generated'}"
    command = redact_command(["python", "-m", "recipe_exp", *sys.argv[1:]])
    folder = RunFolder.create(Path(config.output_dir), run_name=name, kind="data", command=command)
    with folder.lock():
        _record(folder, cache, config)
    return folder.path


def _record(folder: RunFolder, cache: TokenCache, config: ExperimentConfig) -> None:
    tracking, journal = config.tracking, Journal(folder)
    uploader = None
    status: Status = "failed"
    try:
        if tracking.enabled:
            uploader = start_uploader(folder, tracking.uri, tracking.experiment, system_metrics=False)
        journal.status("running")
        folder.update_record(data=describe_data(cache))
        journal.params({f"data.{key}": value for key, value in flatten(config.data.model_dump(mode="json"))})
        record_data(journal, folder.path, cache, config, "train", "validation", "test")
        status = "finished"
    finally:
        journal.status(status)
        journal.close()
        if uploader is not None and not uploader.finish(tracking.flush_timeout_seconds):
            print("the data card is not sent to the tracker yet; python -m recipe_exp task=sync sends it")
