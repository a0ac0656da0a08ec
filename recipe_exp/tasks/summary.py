"""What a person reads before and after a training run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.data.preparation.corpus_report import REJECTS_FILE
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.hardware.machinery import Machinery
from recipe_exp.reports.data_card import describe_cause
from recipe_exp.reports.numbers import show_number
from recipe_exp.tasks.running.session import RunSession, resume_command

REPORT_FILE = "report.html"
"""The report of an evaluation in a run folder."""

_SAMPLE_WIDTH = 52
_NUM_SAMPLES = 3
_MAX_CHANGES = 5
_MAX_CAUSES = 5
_TOLERATED_INEXACT_FRACTION = 0.01


def print_begin(console: Console, config: ExperimentConfig, session: RunSession | None) -> None:
    """Says what runs and where, and that generated recipes teach a pretrained model nothing about cooking."""
    if config.model.pretrained and config.data.format == "sample":
        console.print(
            "note: training on generated recipes; name your own with data=files data.path=FILE|FOLDER|GLOB",
            style="yellow",
            highlight=False,
        )
    if session is not None:
        console.print(f"run   {session.folder.path}", highlight=False)


def print_data(console: Console, cache: TokenCache, data_card: Path) -> None:
    """Says what there is to learn from, what the tokenizer does not express of it, and where more is said."""
    report, train = cache.report, cache.card.splits["train"]
    counts = report.num_examples
    parts = [
        f"data  {counts['train']:,} recipes to train, {counts['validation']:,} to validate, {counts['test']:,} to test",
        *(
            [f"{report.num_rejected:,} rejected (in {cache.prepared.folder / REJECTS_FILE})"]
            if report.num_rejected
            else []
        ),
        *([f"{report.num_duplicates:,} duplicates"] if report.num_duplicates else []),
        *([f"{report.num_leaks:,} near a held-out one"] if report.num_leaks else []),
        *([f"{report.num_low_quality:,} of low quality"] if report.num_low_quality else []),
        *([f"{report.num_other_language:,} in other languages"] if report.num_other_language else []),
    ]
    console.print(", ".join(parts), highlight=False)
    rates = {
        "prompts cut (data.max_source_tokens)": train.truncated_source_fraction,
        "recipes cut (data.max_target_tokens)": train.truncated_target_fraction,
        "unknown tokens": train.unknown_token_fraction,
    }
    shown = [f"{share:.2%} {name}" for name, share in rates.items() if share > 0]
    if shown:
        console.print("      " + ", ".join(shown), highlight=False)
    if train.inexact_target_fraction > _TOLERATED_INEXACT_FRACTION:
        causes = ", ".join(map(describe_cause, train.inexact_causes[:_MAX_CAUSES]))
        share = f"{train.inexact_target_fraction:.2%} of the recipes do not come back from the tokenizer exactly"
        console.print(f"      {share}: {causes}", style="yellow", highlight=False)
    console.print(f"card  {data_card}", highlight=False)


def print_machinery(console: Console, total_steps: int, machinery: Machinery) -> None:
    """Says on what machine the run learns, and for how long."""
    console.print(
        f"on    {machinery.device_name}, {machinery.precision}, {_processes(machinery)}"
        f"micro-batches of {machinery.micro_batch_tokens:,} tokens, {total_steps:,} steps",
        highlight=False,
    )
    reason = f" ({machinery.attention_reason})" if machinery.attention_reason else ""
    compiled = ", compiled" if machinery.is_compiled else ""
    console.print(f"      {machinery.attention} attention{reason}{compiled}", highlight=False)


def print_notes(console: Console, notes: Sequence[str], changes: Sequence[str]) -> None:
    """Says what is different from the run's last execution, and that packages and machine may change last digits."""
    for note in notes:
        console.print(note, style="yellow", highlight=False)
    if changes:
        more = f" and {len(changes) - _MAX_CHANGES} more" if len(changes) > _MAX_CHANGES else ""
        console.print(
            f"note: since the last execution: {'; '.join(changes[:_MAX_CHANGES])}{more}; "
            "numbers may differ in the last digits",
            style="yellow",
            highlight=False,
        )


def print_results(console: Console, session: RunSession, metrics: Mapping[str, float]) -> None:
    """Shows metrics, samples and the run's folder, before the tracker is waited for."""
    record = session.folder.read_record()
    if session.status != "finished":
        return
    if metrics:
        console.print(metrics_table(metrics))
    for sample in _last_samples(session):
        console.print(_sample_table(sample))
    best = record.get("best")
    if best:
        console.print(f"best  step {best['step']}, {best['metric']} {best['value']:.4f}", highlight=False)
    console.print(f"run   {session.folder.path}", highlight=False)
    report = session.folder.path / REPORT_FILE
    if report.is_file():
        console.print(f"see   {report}", highlight=False)


def print_end(console: Console, config: ExperimentConfig, session: RunSession) -> None:
    """Says what to do next."""
    if session.status != "finished":
        step = session.folder.read_record().get("step", 0)
        console.print(f"{session.status} at step {step}; continue with", highlight=False)
        console.print(f"  {resume_command(config, session.folder)}", highlight=False)
    place = "" if config.output_dir == "outputs" else f" output_dir={shlex.quote(config.output_dir)}"
    if session.is_synced is False:
        server = f" tracking.uri={config.tracking.uri}" if config.tracking.uri else ""
        console.print(
            f"note: the tracker is behind; it is tried for ten more minutes, and python -m recipe_exp task=sync"
            f"{server}{place} sends the rest",
            style="yellow",
        )
    elif config.tracking.enabled and config.tracking.uri is None and session.status == "finished":
        console.print(f"open  make ui, which is python -m recipe_exp task=ui{place}", highlight=False)


def _processes(machinery: Machinery) -> str:
    return f"{machinery.num_processes} processes, " if machinery.num_processes > 1 else ""


def metrics_table(metrics: Mapping[str, float]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name in sorted(metrics):
        table.add_row(name, show_number(metrics[name]))
    return table


def _last_samples(session: RunSession) -> list[dict[str, Any]]:
    if not session.folder.samples_path.exists():
        return []
    lines = session.folder.samples_path.read_text(encoding="utf-8").splitlines()
    try:
        samples: list[dict[str, Any]] = json.loads(lines[-1])["samples"] if lines else []
    except ValueError:  # a full disk cut the line
        return []
    return samples[:_NUM_SAMPLES]


def _sample_table(sample: Mapping[str, Any]) -> Table:
    table = Table(title=Text(sample["prompt"], style="italic"), title_justify="left", expand=False, pad_edge=False)
    table.add_column("generated", width=_SAMPLE_WIDTH)
    if sample["reference"] is not None:
        table.add_column("reference", width=_SAMPLE_WIDTH)
        table.add_row(Text(sample["generated"]), Text(sample["reference"]))
    else:
        table.add_row(Text(sample["generated"]))
    return table
