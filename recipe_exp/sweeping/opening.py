"""Finding the folder of the sweep that a command means, or making one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_exp.config.relevance import differences
from recipe_exp.config.sweep import SweepConfig
from recipe_exp.errors import ConfigError
from recipe_exp.files import file_lock
from recipe_exp.sweeping.ledger import Ledger
from recipe_exp.tracking import RunFolder, find_run, list_runs

LEDGER_NAME = "ledger.jsonl"
_MAX_SHOWN_DIFFERENCES = 5


@dataclass(frozen=True)
class Meaning:
    """What a command's sweep is known by.

    Attributes:
        identity: the same for every command that means the same trials.
        common: what all trials agree on, of all that alters numbers.
        swept: the varying keys.
        name: for people.
    """

    identity: str
    common: Mapping[str, Any]
    swept: Sequence[str]
    name: str


def open_sweep(output_dir: Path, meaning: Meaning, sweep: SweepConfig, cores: int, command: Sequence[str]) -> RunFolder:
    """Returns the folder of the sweep: of one that there is, of the one that is extended, or a fresh one.

    Args:
        output_dir: where sweeps are.
        meaning: of the command.
        sweep: whether it begins again, or extends another.
        cores: for each trial, if the sweep is a fresh one.
        command: the command line.

    Raises:
        ConfigError: the sweep to extend is of other keys, or of a configuration that gives other numbers.
        CheckpointError: there is no such sweep, or a folder cannot be read or written.
    """
    extended = None if sweep.extend is None else _sweep_to_extend(output_dir, sweep.extend, meaning)
    place = output_dir.absolute() / "sweeps"
    place.mkdir(parents=True, exist_ok=True)
    # Two commands at once would each make a folder.
    with file_lock(place / ".lock"):
        folder = extended or (None if sweep.new else _known(output_dir, meaning.identity))
        if folder is None:
            folder = RunFolder.create(output_dir, run_name=meaning.name, kind="sweep", command=command)
            folder.update_record(cores_per_trial=cores, common=dict(meaning.common), swept=list(meaning.swept))
        with folder.edit_record() as record:
            identities = record.get("identities", [])
            # The newest sweep of an identity is the one that is continued.
            record["identities"] = [*(known for known in identities if known != meaning.identity), meaning.identity]
        return folder


def ledger_of(folder: RunFolder) -> Ledger:
    """Returns the ledger of a sweep's folder."""
    return Ledger(folder.path / LEDGER_NAME)


def _known(output_dir: Path, identity: str) -> RunFolder | None:
    sweeps = list_runs(output_dir, "sweep")
    return next((folder for folder in sweeps if identity in folder.read_record().get("identities", ())), None)


def _sweep_to_extend(output_dir: Path, reference: str, meaning: Meaning) -> RunFolder:
    newest = list_runs(output_dir, "sweep")[:1] if reference == "latest" else []
    folder = newest[0] if newest else find_run(output_dir, reference)
    record = folder.read_record()
    if record.get("kind") != "sweep" or "common" not in record:
        raise ConfigError([f"sweep.extend={reference}: is no sweep that can be extended; name a sweep's run id"])
    swept = list(record["swept"])
    if set(swept) != set(meaning.swept):
        raise ConfigError(
            [
                f"sweep.extend={reference}: that sweep varies {', '.join(swept) or 'nothing'}, this command "
                f"{', '.join(meaning.swept) or 'nothing'}; vary the same keys, or start a sweep of its own"
            ]
        )
    # What only some trials have is what is swept; the rest must agree.
    both = set(record["common"]) & set(meaning.common)
    found = differences(*({key: common[key] for key in both} for common in (record["common"], dict(meaning.common))))
    if found:
        shown = ", ".join(str(difference) for difference in found[:_MAX_SHOWN_DIFFERENCES])
        raise ConfigError([f"sweep.extend={reference}: its trials would not be comparable: {shown}"])
    return folder
