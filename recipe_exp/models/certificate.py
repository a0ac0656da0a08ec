"""Whether a written model is the one that was trained: asked of plain transformers, in a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.errors import ModelError
from recipe_exp.models.export import EVALUATED, EXACT, WRITTEN, ExportType
from recipe_exp.signals import ended_with_parent

CERTIFICATE = "certificate.json"
CERTIFICATE_VERSION = 1
TOLERANCE = 1e-5
"""Largest error of a logit, relative to the largest logit where that is over 1."""
CTRANSLATE2_TOLERANCE = 1e-3
"""Largest error of the logarithm of a target token's probability; its kernels round otherwise than PyTorch's."""

_HERE = Path(__file__).parent
_TEXTS = (
    "# Pancakes\n\n## Ingredients\n- 1 ½ cups flour\n- ⅓ cup sugar\n- 2 1/4 cups {salt}\n\n## Instructions\n1. Mix.",
    "½ cup of milk\n\n\n¾ teaspoon salt",
    "{title} in {braces}, 1⁄2 and 3/4",
    "a text with </s> and <pad> in it",
)
_SURVIVALS = {
    "line breaks": ("a\nb", ("a\nb",)),
    "fractions": ("1 ½ cups", ("1 1/2 cups", "1 ½ cups")),
    "braces": ("{a}", ("{a}",)),
}


@dataclass(frozen=True)
class Trial:
    """What a written model is asked.

    Attributes:
        probes: `source_ids`, `target_ids` and whether the target `is_whole`, of each example.
        prompts: where they come from.
        texts: for the tokenizer.
        max_new_tokens: longest generation.
        dtype: of the written weights.
    """

    probes: Sequence[dict[str, Any]]
    prompts: str
    texts: Sequence[str]
    max_new_tokens: int
    dtype: ExportType


@dataclass
class Certificate:
    """What was asked, what was answered, and what follows.

    Attributes:
        content: of `certificate.json`, without the verdict.
        failures: what is not as it has to be, one sentence each.
    """

    content: dict[str, Any]
    failures: list[str] = field(default_factory=list)

    @property
    def is_passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def write(self, folder: Path) -> None:
        """Writes it beside the model, with the hash of every file that it speaks of."""
        files = {str(path.relative_to(folder)): _hash_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
        verdict = {"version": CERTIFICATE_VERSION, "verdict": "passed" if self.is_passed else "failed"}
        content = {**verdict, "failures": self.failures, **self.content, "files": files}
        (folder / CERTIFICATE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def certify(folder: Path, trial: Trial, answers: Path, not_evaluated: str | None) -> Certificate:
    """Returns what plain transformers makes of a folder, compared with what was recorded.

    Args:
        folder: as it was written.
        trial: what it is asked.
        answers: folder of the records.
        not_evaluated: why there is no record of the precision of the run's evaluations; None if there is one.

    Raises:
        ModelError: if the other process ends without an answer.
    """
    tokenizer = RecipeTokenizer.from_pretrained(folder)
    texts = [_as_request(tokenizer, text) for text in (*_TEXTS, *trial.texts)]
    references = {
        # The type that is written rounds, so what was written is compared where nothing else does.
        WRITTEN: {"path": str(answers / f"{EXACT if trial.dtype == 'fp32' else WRITTEN}.safetensors"), "in_fp32": True},
        **({EXACT: {"path": str(answers / f"{EXACT}.safetensors"), "in_fp32": False}} if trial.dtype != "fp32" else {}),
    }
    if not_evaluated is None:
        references[EVALUATED] = {"path": str(answers / f"{EVALUATED}.safetensors"), "in_fp32": False}
    request = {**_request(trial), "texts": texts, "references": references}
    answer = ask(_HERE / "plain_check.py", folder, request)
    comparisons = answer["comparisons"]
    survivals = {name: tokenizer.decode(tokenizer.encode(a)) in b for name, (a, b) in _SURVIVALS.items()}
    content = {
        "dtype": trial.dtype,
        "prompts": {"from": trial.prompts, "number": len(trial.probes), "digest": _digest(trial.probes)},
        "claim": _claim(trial.dtype),
        "tolerance": TOLERANCE,
        "reloaded": comparisons[WRITTEN],
        "against_fp32": comparisons.get(EXACT),
        "as_evaluated": comparisons.get(EVALUATED) or not_evaluated,
        "tokenizer": {
            "num_texts": len(texts),
            "num_same_ids": sum(one["same_ids"] for one in answer["tokenizer"]),
            "num_same_text": sum(one["same_text"] for one in answer["tokenizer"]),
            "survive": survivals,
        },
        "ctranslate2": None,
    }
    certificate = Certificate(content)
    certificate.failures += _failures_of_logits(comparisons[WRITTEN])
    certificate.failures += _failures_of_tokenizer(content["tokenizer"])
    if answer["knows_recipe_exp"]:
        certificate.failures.append("the process that reloaded it had recipe_exp imported")
    return certificate


def add_ctranslate2(certificate: Certificate, folder: Path, trial: Trial, answers: Path) -> None:
    """Converts the folder for CTranslate2 into `ctranslate2/` in it, and adds what that answers.

    Raises:
        ModelError: if the conversion fails.
    """
    tokenizer = RecipeTokenizer.from_pretrained(folder)
    name = EXACT if trial.dtype == "fp32" else WRITTEN
    request = {**_request(trial), "reference": str(answers / f"{name}.safetensors"), "eos_id": tokenizer.eos_id}
    found = ask(_HERE / "ctranslate2_check.py", folder, request)
    certificate.content["ctranslate2"] = found | {"tolerance": CTRANSLATE2_TOLERANCE}
    if not found["max_log_probability_error"] <= CTRANSLATE2_TOLERANCE:
        certificate.failures.append(
            f"CTranslate2 gives other log-probabilities (by {found['max_log_probability_error']:.2g})"
        )
    if found["largest_gap_of_a_change"] > 2 * CTRANSLATE2_TOLERANCE:
        certificate.failures.append(
            f"CTranslate2 writes something else for {found['num_generations'] - found['num_identical']} of "
            f"{found['num_generations']} prompts"
        )
    if not found["same_pieces"]:
        certificate.failures.append("CTranslate2's vocabulary is not the tokenizer's")


def ask(script: Path, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Returns what a script that imports nothing of recipe_exp finds out about a folder, in a process of its own.

    Raises:
        ModelError: if it ends without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="recipe_exp-certify-") as place:
        request_path, answer_path = Path(place) / "request.json", Path(place) / "answer.json"
        request_path.write_text(json.dumps(request), encoding="utf-8")
        # -P: the script's own folder is no place to import from.
        done = subprocess.run(
            [sys.executable, "-P", str(script), str(folder), str(request_path), str(answer_path)],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            preexec_fn=ended_with_parent(),
            check=False,
        )
        if done.returncode != 0 or not answer_path.is_file():
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = lines[-1][:300] if lines else f"exit code {done.returncode}"
            raise ModelError(f"{folder.name}: cannot be loaded by {script.stem.removesuffix('_check')} ({reason})")
        answer: dict[str, Any] = json.loads(answer_path.read_text(encoding="utf-8"))
    return answer


def _request(trial: Trial) -> dict[str, Any]:
    import torch

    return {
        "probes": list(trial.probes),
        "max_new_tokens": trial.max_new_tokens,
        "num_threads": torch.get_num_threads(),
    }


def _as_request(tokenizer: RecipeTokenizer, text: str) -> dict[str, Any]:
    ids = tokenizer.encode(text)
    return {"text": text, "ids": ids, "decoded": tokenizer.decode(ids)}


def _claim(dtype: ExportType) -> str:
    if dtype == "fp32":
        return "the same logits and greedy generations as the training model in fp32"
    return "the written weights are reloaded as they are; against the training model, differences are reported"


def _failures_of_logits(found: dict[str, Any]) -> list[str]:
    allowed = TOLERANCE * max(found["largest_logit"], 1.0)
    failures = []
    # What is no number is no small one either.
    if not found["max_error"] <= allowed:
        failures.append(f"plain transformers gives other logits (by {found['max_error']:.2g}, {allowed:.2g} allowed)")
    if found["largest_gap_of_a_change"] > 2 * allowed:
        num_changed = found["num_generations"] - found["num_identical"]
        failures.append(
            f"plain transformers writes something else for {num_changed} of {found['num_generations']} prompts"
        )
    return failures


def _failures_of_tokenizer(found: dict[str, Any]) -> list[str]:
    failures = [
        f"the plain tokenizer {what} {found['num_texts'] - found[key]} of {found['num_texts']} texts in another way"
        for key, what in (("num_same_ids", "encodes"), ("num_same_text", "decodes"))
        if found[key] != found["num_texts"]
    ]
    # Braces are no part of T5's own vocabulary, so what becomes of them is told and not judged.
    lost = [name for name in ("line breaks", "fractions") if not found["survive"][name]]
    return failures + [f"{name} do not come back from the tokenizer" for name in lost]


def _digest(probes: Sequence[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(list(probes), sort_keys=True).encode()).hexdigest()


def _hash_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
