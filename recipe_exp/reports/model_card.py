"""The model card: what a published model is, what it was made of, and what was checked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from recipe_exp.reports.markdown import escape
from recipe_exp.reports.page import count_text, share_text

MODEL_CARD = "README.md"
_USE = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)

prompt = {prompt!r}
inputs = tokenizer(prompt, return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens={max_new_tokens})
print(tokenizer.decode(ids[0], skip_special_tokens=True))
"""


@dataclass(frozen=True)
class Origin:
    """What the weights were before training.

    Attributes:
        name: of the base on the hub, or the last part of a local folder's name; None for random weights.
        is_public: whether the name is one of the hub.
        revision: as it was configured.
        commit: what that stood for.
        fingerprint: hash of the base's weights; None if it is not known.
    """

    name: str | None
    is_public: bool = False
    revision: str | None = None
    commit: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class ModelCard:
    """Everything that the card says.

    Attributes:
        title: of the model.
        license: as it was given; None leaves it unknown.
        origin: of the weights.
        how: one sentence on how they were tuned.
        step: of the checkpoint; None if it is not known.
        data: what the run's record says of its data.
        settings: key and value of what differs from the defaults.
        metrics: name, value at the checkpoint, value at the first evaluation; None where there is none.
        best: metric by which the checkpoint was chosen; None without an evaluation.
        machine: what it was trained on, one fact a line.
        certificate: content of `certificate.json`.
        failures: what the certificate found wrong.
        prompt: an example.
        max_new_tokens: longest recipe.
    """

    title: str
    license: str | None
    origin: Origin
    how: str
    step: int | None
    data: Mapping[str, Any]
    settings: Sequence[tuple[str, str]]
    metrics: Sequence[tuple[str, float | None, float | None]]
    best: str | None
    machine: Sequence[str]
    certificate: Mapping[str, Any]
    failures: Sequence[str]
    prompt: str
    max_new_tokens: int


def render(card: ModelCard) -> str:
    """Returns the card as Markdown with the front matter that model hubs read."""
    sections = {
        "Use": f"```python\n{_USE.format(prompt=card.prompt, max_new_tokens=card.max_new_tokens)}```",
        "Certificate": _certificate(card),
        "Results": _results(card),
        "Data": _data(card.data),
        "Base": _base(card.origin),
        "Configuration": _settings(card.settings),
        "Hardware and software": "\n".join(f"- {escape(fact)}" for fact in card.machine) or "Not recorded.",
        "License": _license(card.license),
    }
    parts = [_front_matter(card), f"# {escape(card.title)}", escape(card.how)]
    return "\n\n".join([*parts, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _front_matter(card: ModelCard) -> str:
    facts: dict[str, Any] = {
        "license": card.license or "unknown",
        "library_name": "transformers",
        "pipeline_tag": "text2text-generation",
        "tags": ["t5", "recipes"],
    }
    if card.origin.is_public:
        facts["base_model"] = card.origin.name
    return f"---\n{yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)}---"


def _certificate(card: ModelCard) -> str:
    found = card.certificate
    again, tokenizer = found["reloaded"], found["tokenizer"]
    verdict = "**Passed.**" if not card.failures else "**Failed.** This folder is not the model that was trained:"
    lines = [
        *(f"{failure}." for failure in card.failures),
        f"Reloaded by plain transformers in a process of its own and asked {found['prompts']['number']} prompts "
        f"({found['prompts']['from']}): largest error of a logit {again['max_error']:.2g} at logits of up to "
        f"{again['largest_logit']:.2g}; {again['num_identical']} of {again['num_generations']} greedy generations "
        "identical.",
        *_reported("The training model in fp32", found["against_fp32"]),
        *_reported("The training model as it was evaluated", found["as_evaluated"]),
        f"The tokenizer gives the same ids for {tokenizer['num_same_ids']} of {tokenizer['num_texts']} texts. "
        + _survivals(tokenizer["survive"]),
        *_ctranslate2(found["ctranslate2"]),
    ]
    claim = f"Claimed: {found['claim']} (weights in {found['dtype']}). The measurements stand in certificate.json."
    return "\n".join([verdict, "", *(f"- {escape(line)}" for line in lines), "", escape(claim)])


def _reported(what: str, found: Mapping[str, Any] | str | None) -> list[str]:
    if found is None:
        return []
    if isinstance(found, str):
        return [f"{what} was not asked: {found}."]
    return [
        f"{what} differs by at most {found['max_error']:.2g} in a logit, {found['mean_kl']:.2g} nats in the mean of a "
        f"token's distribution ({found['max_kl']:.2g} at most); the most likely token is the same for "
        f"{share_text(found['top1_agreement'])} of the target tokens, and {share_text(found['token_agreement'])} of "
        "the generated ones are the same. No identity is claimed."
    ]


def _survivals(found: Mapping[str, bool]) -> str:
    kept = [name for name, survives in found.items() if survives]
    lost = [name for name, survives in found.items() if not survives]
    return f"What comes back: {', '.join(kept) or 'nothing'}; what does not: {', '.join(lost) or 'nothing'}."


def _ctranslate2(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        f"CTranslate2 {found['version']} (folder ctranslate2): log-probabilities of target tokens differ by at most "
        f"{found['max_log_probability_error']:.2g}; {found['num_identical']} of {found['num_generations']} greedy "
        "generations are identical."
    ]


def _results(card: ModelCard) -> str:
    if not card.metrics:
        return "The model was not evaluated."
    chosen = f", chosen by `{card.best}`" if card.best else ""
    rows = [f"| `{name}` | {_number(value)} | {_number(first)} |" for name, value, first in card.metrics]
    head = f"On validation recipes, at step {card.step}{chosen}; beside it the run's first evaluation."
    return "\n".join([head, "", "| metric | this model | first evaluation |", "| --- | ---: | ---: |", *rows])


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _data(data: Mapping[str, Any]) -> str:
    if not data:
        return "Not recorded."
    counts = data.get("num_examples", {})
    lines = [
        f"digest of the recipes `{data.get('data_fingerprint', 'unknown')}`",
        ", ".join(f"{count_text(number)} {split}" for split, number in counts.items()) + " recipes",
    ]
    names = {
        "num_duplicates": "duplicates left out",
        "num_leaks": "left out for being near a held-out one",
        "num_low_quality": "of low quality left out",
    }
    lines += [f"{count_text(data[key])} {name}" for key, name in names.items() if data.get(key)]
    return "\n".join(f"- {line}" for line in lines)


def _base(origin: Origin) -> str:
    if origin.name is None:
        return "Trained from random weights."
    revision = origin.commit or origin.revision or "not recorded"
    lines = [f"- {escape(origin.name)}", f"- revision `{revision}`"]
    if origin.fingerprint:
        lines.append(f"- weights `{origin.fingerprint}` (sha256 over names, types, shapes and bytes of all tensors)")
    return "\n".join(lines)


def _settings(settings: Sequence[tuple[str, str]]) -> str:
    if not settings:
        return "The defaults."
    rows = [f"| `{key}` | {escape(value)} |" for key, value in settings]
    return "\n".join(["What differs from the defaults:", "", "| key | value |", "| --- | --- |", *rows])


def _license(license_name: str | None) -> str:
    if license_name is None:
        return "Unknown: none was given. The licences of the base model and of the recipes may bind this model too."
    return f"{escape(license_name)}, as given by the publisher."
