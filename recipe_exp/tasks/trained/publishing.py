"""What `task=merge` and `task=export` share: a run's model as a folder for others, certified, with a card."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from recipe_exp.config.experiment import ExperimentConfig
from recipe_exp.config.model import ModelConfig
from recipe_exp.data.example import Example
from recipe_exp.data.prompts import find_template, make_example, parse_prompt
from recipe_exp.data.sample import sample_recipes
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.errors import ExportError, ModelError, RecipeExpError
from recipe_exp.files import flush_to_disk
from recipe_exp.models.certificate import Certificate, Trial, add_ctranslate2, certify
from recipe_exp.models.download import known_family
from recipe_exp.models.export import ExportType, record_evaluated, write_model
from recipe_exp.models.finetuned import folder_written_aside
from recipe_exp.reports.model_card import MODEL_CARD, render
from recipe_exp.secrets import redact
from recipe_exp.tasks.data import open_data
from recipe_exp.tasks.trained.loading import StoredRun, warn_of_unknown_base
from recipe_exp.tasks.trained.model_facts import describe
from recipe_exp.tasks.trained.model_folders import write_settings

NUM_PROMPTS = 20
_MAX_TARGET_TOKENS = 48
_MAX_NEW_TOKENS = 64
_EXAMPLE = "title=Onion Soup; ingredients=3 onions, 2 cups broth"


@dataclass(frozen=True)
class Wishes:
    """How a model is published.

    Attributes:
        dtype: of the written weights.
        license: for the model card; None leaves it unknown.
        ctranslate2: whether it is converted for CTranslate2 too.
    """

    dtype: ExportType = "fp32"
    license: str | None = None
    ctranslate2: bool = False


def publish(stored: StoredRun, config: ExperimentConfig, folder: str | Path, wishes: Wishes, console: Console) -> Path:
    """Writes a run's model into a folder, certifies it and returns the folder; one that fails does not get its name.

    Args:
        stored: the run.
        config: of the run, with this machine's places.
        folder: where to; made, and empty if it is there.
        wishes: how.
        console: shows what is going on, and the verdict.

    Raises:
        ExportError: if the certificate failed; the folder is kept as `FOLDER.uncertified`.
        ModelError: if the model cannot be loaded or written, or the folder is in use.
    """
    target = Path(folder).expanduser().absolute()
    _refuse_used(target)
    if wishes.ctranslate2:
        _refuse_unconvertible(config.model)
    warn_of_unknown_base(stored.model)
    kept = target.with_name(f"{target.name}.uncertified")
    shutil.rmtree(kept, ignore_errors=True)
    trial = _trial(stored, config, wishes.dtype, console)
    with folder_written_aside(target) as aside:
        certificate = _write_and_certify(stored, aside, trial, wishes, console)
        write_settings(aside, config)
        prompt = parse_prompt(_EXAMPLE, find_template(config.data.prompt, config.data.templates))
        card = describe(stored, certificate, wishes.license, prompt, config.evaluation.max_new_tokens)
        (aside / MODEL_CARD).write_text(redact(render(card)), encoding="utf-8")
        certificate.write(aside)
        _settle(aside)
        if not certificate.is_passed:
            aside.rename(kept)
            raise ExportError(
                f"{target}: not published, because {'; '.join(certificate.failures)}; what was written is in {kept}"
            )
    _print_verdict(console, target, certificate)
    return target


def _refuse_used(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target}: exists and is not empty; choose another folder with task.output=...")


def _refuse_unconvertible(model: ModelConfig) -> None:
    family = known_family(model)
    if family is not None and not family.is_converted:
        raise ModelError(
            f"task.ctranslate2=true: CTranslate2's converter does not read a {family.network} of transformers 5; "
            "publish it without"
        )


def _settle(folder: Path) -> None:
    """Puts every file on the disk, readable for those who may read the card: weights are written for their owner."""
    mode = (folder / MODEL_CARD).stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
        flush_to_disk(path)


def _print_verdict(console: Console, folder: Path, certificate: Certificate) -> None:
    """Says in a few lines what was checked and what was found."""
    found = certificate.content
    again = found["reloaded"]
    console.print(
        f"certified: logits within {again['max_error']:.1e}, {again['num_identical']} of {again['num_generations']} "
        f"greedy generations identical ({found['prompts']['from']})",
        highlight=False,
    )
    for what, one in (("fp32", found["against_fp32"]), ("evaluated", found["as_evaluated"])):
        if isinstance(one, dict):
            console.print(
                f"against the model as {what}: error {one['max_error']:.1e}, KL {one['mean_kl']:.1e} nats, "
                f"{one['token_agreement']:.1%} of the generated tokens; no identity is claimed",
                highlight=False,
            )
    if found["ctranslate2"] is not None:
        one = found["ctranslate2"]
        console.print(
            f"CTranslate2: log-probabilities within {one['max_log_probability_error']:.1e}, {one['num_identical']} of "
            f"{one['num_generations']} generations identical",
            highlight=False,
        )
    console.print(f"model {folder}", highlight=False)


def _write_and_certify(stored: StoredRun, folder: Path, trial: Trial, wishes: Wishes, console: Console) -> Certificate:
    # On the disk of the model, and gone with it if the process is killed.
    answers = folder / "answers"
    answers.mkdir()
    asked: dict[str, Any] = {
        "probes": trial.probes,
        "answers": answers,
        "max_new_tokens": trial.max_new_tokens,
    }
    with console.status("asking the trained model, and writing it"):
        write_model(stored.model, folder, dtype=wishes.dtype, **asked)
        precision = stored.folder.read_record().get("machinery", {}).get("precision", "fp32")
        not_evaluated = record_evaluated(stored.model, precision=precision, **asked)
    with console.status("asking what was written"):
        certificate = certify(folder, trial, answers, not_evaluated)
    if wishes.ctranslate2:
        with console.status("converting for CTranslate2"):
            add_ctranslate2(certificate, folder, trial, answers)
    shutil.rmtree(answers)
    return certificate


def _trial(stored: StoredRun, config: ExperimentConfig, dtype: ExportType, console: Console) -> Trial:
    tokenizer = RecipeTokenizer.from_pretrained(stored.model)
    examples, prompts = _examples(stored, config, tokenizer, console)
    probes = [_probe(tokenizer, example, config.data.max_source_tokens) for example in examples]
    texts = [text for example in examples for text in (example.source_text, example.target_text)]
    max_new_tokens = min(config.evaluation.max_new_tokens, _MAX_NEW_TOKENS)
    return Trial(probes, prompts, texts, max_new_tokens, dtype)


def _probe(tokenizer: RecipeTokenizer, example: Example, max_source_tokens: int) -> dict[str, Any]:
    source, target = tokenizer.encode(example.source_text), tokenizer.encode(example.target_text)
    if len(source) > max_source_tokens:
        source = [*source[: max_source_tokens - 1], source[-1]]
    is_whole = len(target) <= _MAX_TARGET_TOKENS
    return {"source_ids": source, "target_ids": target[:_MAX_TARGET_TOKENS], "is_whole": is_whole}


def _examples(
    stored: StoredRun, config: ExperimentConfig, tokenizer: RecipeTokenizer, console: Console
) -> tuple[Sequence[Example], str]:
    """Returns what a model is asked: the run's own validation examples, or built-in ones where those are gone."""
    wanted = stored.folder.read_record().get("data", {}).get("data_fingerprint")
    try:
        cache = open_data(config, console, tokenizer)
    except RecipeExpError:
        return _built_in(config), "built-in ones, since the run's data cannot be read here"
    examples = cache.examples("validation")
    if cache.data_fingerprint != wanted:
        return _built_in(config), "built-in ones, since the run's data is another by now"
    if not len(examples):
        return _built_in(config), "built-in ones, since the run has no validation split"
    own = [examples[number] for number in range(min(NUM_PROMPTS, len(examples)))]
    if len(own) == NUM_PROMPTS:
        return own, "of the run's validation split"
    return [*own, *_built_in(config)][:NUM_PROMPTS], f"{len(own)} of the run's validation split, the others built in"


def _built_in(config: ExperimentConfig) -> list[Example]:
    template = find_template(config.data.prompt, config.data.templates)
    return [make_example(recipe, template) for recipe in itertools.islice(sample_recipes(), NUM_PROMPTS)]
