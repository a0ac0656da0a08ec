"""Converts a folder of plain transformers for CTranslate2, and compares its answers with recorded ones.

Run by its path in a process of its own, which imports nothing of recipe_exp.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ctranslate2
import torch
from safetensors import safe_open
from transformers import AutoTokenizer
from transformers.utils import logging


class _Converter(ctranslate2.converters.TransformersConverter):  # type: ignore[misc]
    """The converter of CTranslate2, told whether T5's decoder states are scaled.

    It takes tied embeddings as the sign of that, and transformers 5 says of every T5 that they are.
    """

    def load_model(self, model_class: Any, model_name_or_path: str, **settings: Any) -> Any:
        model = super().load_model(model_class, model_name_or_path, **settings)
        if model.config.model_type in ("t5", "mt5"):
            # mT5 scales nothing, and its configuration does not speak of it.
            model.config.tie_word_embeddings = getattr(model.config, "scale_decoder_outputs", False)
        return model


def _main(folder: str, request_path: str, answer_path: str) -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    target = Path(folder) / "ctranslate2"
    _Converter(folder).convert(str(target))
    translator = ctranslate2.Translator(
        str(target), device="cpu", compute_type="float32", intra_threads=request["num_threads"]
    )
    pieces = json.loads((target / "shared_vocabulary.json").read_text(encoding="utf-8"))
    with safe_open(request["reference"], framework="pt") as recorded:
        answer = _compare(translator, pieces, request, recorded)
    # What a plain reader takes for granted: that the tokenizer beside the model names its pieces.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer["same_pieces"] = pieces[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    answer["version"] = ctranslate2.__version__
    Path(answer_path).write_text(json.dumps(answer), encoding="utf-8")


def _compare(translator: Any, pieces: list[str], request: dict[str, Any], recorded: Any) -> dict[str, Any]:
    """Returns the largest error of a target token's log-probability, and how many generations agree."""
    errors, num_identical, change_gaps = [0.0], 0, [0.0]
    for number, probe in enumerate(request["probes"]):
        source, target = ([pieces[i] for i in probe[key]] for key in ("source_ids", "target_ids"))
        ours = recorded.get_tensor(f"logits.{number}").log_softmax(-1)
        ours = ours[torch.arange(len(target)), torch.tensor(probe["target_ids"])]
        # It scores the end of a text by itself.
        target = target[:-1] if probe["is_whole"] else target
        theirs = torch.tensor(translator.score_batch([source], [target])[0].log_probs[: len(ours)])
        errors.append(float((ours[: len(theirs)] - theirs).abs().max()))
        answer = translator.translate_batch(
            [source], beam_size=1, max_decoding_length=request["max_new_tokens"], min_decoding_length=0
        )
        found, gaps = answer[0].hypotheses[0], recorded.get_tensor(f"gaps.{number}").tolist()
        ids = recorded.get_tensor(f"generated.{number}").tolist()
        expected = [pieces[i] for i in (ids[:-1] if ids[-1] == request["eos_id"] else ids)]
        num_identical += found == expected
        if found != expected:
            same = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), None)
            change_gaps.append(gaps[min(len(expected), len(found), len(gaps) - 1) if same is None else same])
    return {
        "max_log_probability_error": float(torch.tensor(errors).max()),
        "num_generations": len(request["probes"]),
        "num_identical": num_identical,
        "largest_gap_of_a_change": max(change_gaps),
    }


if __name__ == "__main__":
    _main(*sys.argv[1:])
