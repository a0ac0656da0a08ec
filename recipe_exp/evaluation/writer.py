"""A tuned model with everything that it takes to write a recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe_exp.data.prompts import parse_prompt
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.errors import HardwareError
from recipe_exp.evaluation.generation import Decoding, generate
from recipe_exp.evaluation.searching import Sampling
from recipe_exp.hardware.memory import OutOfMemoryError
from recipe_exp.models.finetuned import load_model_folder


@dataclass(frozen=True)
class RecipeWriter:
    """A tuned model with everything that it takes to write a recipe.

    Attributes:
        network: a T5, bare or with an adapter, in evaluation mode.
        tokenizer: of the network.
        template: prompt template of the run, for prompts of the form `title=...; ingredients=...`.
        max_source_tokens: longer prompts are cut, as in training.
        max_new_tokens: longest recipe, unless a call says otherwise.
        num_beams: beams of the search, unless a call says otherwise.
        sampling: how tokens are drawn where there is no search; None draws none.
    """

    network: Any
    tokenizer: RecipeTokenizer
    template: str
    max_source_tokens: int
    max_new_tokens: int
    num_beams: int
    sampling: Sampling | None = None

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        template: str,
        max_source_tokens: int,
        max_new_tokens: int,
        num_beams: int,
        device: str,
        precision: str = "fp32",
    ) -> RecipeWriter:
        """Loads a run's `model/`, a checkpoint, or any plain T5 or LoRA folder.

        Raises:
            ModelError: if the folder holds no model or no tokenizer.
        """
        network = load_model_folder(folder, precision=precision, as_trained=True, device=device).to(device)
        tokenizer = RecipeTokenizer.from_pretrained(str(folder))
        return cls(network, tokenizer, template, max_source_tokens, max_new_tokens, num_beams)

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int | None = None,
        num_beams: int | None = None,
        sampling: Sampling | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[str]:
        """Returns one recipe in markdown for each prompt.

        Args:
            prompts: raw text, or `title=...; ingredients=a, b`, which the run's template renders.
            max_new_tokens: longest recipe; None takes the run's.
            num_beams: beams of the search; None takes the run's.
            sampling: how tokens are drawn instead of searched for; None takes the run's.
            should_stop: asked after every token whether to leave it at that.

        Raises:
            HardwareError: the device's memory is too small for one recipe.
        """
        decoding = Decoding(
            max_new_tokens=max_new_tokens or self.max_new_tokens,
            num_beams=num_beams or self.num_beams,
            sampling=sampling if sampling is not None or num_beams is not None else self.sampling,
            max_source_tokens=self.max_source_tokens,
        )
        rendered = [parse_prompt(prompt, self.template) for prompt in prompts]
        try:
            return generate(self.network, self.tokenizer, rendered, decoding, should_stop=should_stop)
        except OutOfMemoryError as error:
            raise HardwareError(
                f"out of memory in one recipe of up to {decoding.max_new_tokens} tokens and {decoding.num_beams} "
                "beams; lower evaluation.max_new_tokens or evaluation.num_beams, or free the device's memory"
            ) from error
