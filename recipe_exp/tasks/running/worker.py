"""One of several processes of a run, started by the task itself: CONFIG.yaml in, RESULT.json out."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from recipe_exp import signals
from recipe_exp.config.base import every_key
from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.errors import RecipeExpError
from recipe_exp.files import printing_on_full_disk
from recipe_exp.hardware.processes import end_when_orphaned, is_main_process
from recipe_exp.secrets import redact_known, redact_traces
from recipe_exp.tasks.train import train


def main() -> int:
    """Trains with the configuration in the first argument's file and returns the exit code.

    The main process leaves what the run came to in the second argument's file. A third one names the folder of a run
    that is repeated.
    """
    redact_traces()
    end_when_orphaned()
    with printing_on_full_disk():
        config_path, result_path, *like = map(Path, sys.argv[1:])
        return _train(config_path, result_path, like[0] if like else None)


def _train(config_path: Path, result_path: Path, like: Path | None) -> int:
    try:
        with signals.raising():
            # The process that started this one has laid the command's keys over a run's own already.
            config = ExperimentConfig.from_yaml(config_path).with_typed_keys(every_key(ExperimentConfig))
            result = train(config, like=like)
    except RecipeExpError as error:
        if is_main_process():
            print(f"error: {redact_known(str(error))}", file=sys.stderr)
        return error.exit_code
    except signals.Interrupted as interruption:
        return interruption.exit_code
    if result.folder is not None:
        result_path.write_text(json.dumps(asdict(result) | {"folder": str(result.folder)}), encoding="utf-8")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
