from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional
from transformers import T5ForConditionalGeneration

from recipe_exp.config.data import DataConfig
from recipe_exp.config.evaluation import EvaluationConfig
from recipe_exp.data.tokens.cache import TokenCache, build_or_open_cache
from recipe_exp.errors import DataError, ModelError
from recipe_exp.evaluation.evaluator import Evaluator
from recipe_exp.evaluation.examples import HeldOutExamples
from recipe_exp.evaluation.generation import Decoding, generate
from recipe_exp.evaluation.learnt import knowledge_of
from recipe_exp.evaluation.writer import RecipeWriter
from recipe_exp.hardware.accelerator import create_accelerator
from recipe_exp.metrics import compute_metrics
from recipe_exp.models import load
from recipe_exp.models.sequence_loss import SequenceLoss

TEMPLATE = "Write {title} with {ingredients}"


@pytest.fixture
def accelerator() -> Accelerator:
    return create_accelerator(device="cpu", precision="fp32", num_threads=1)


def build(
    cache: TokenCache, accelerator: Accelerator, *, batch_tokens: int = 4096, split: Any = "validation", **settings: Any
) -> Evaluator:
    evaluation = EvaluationConfig(**{"max_new_tokens": 12, "max_generated_examples": 4, **settings})
    return Evaluator(
        cache,
        (split,),
        evaluation,
        max_source_tokens=96,
        batch_tokens=batch_tokens,
        generation_tokens=4096,
        accelerator=accelerator,
    )


def first(cache: TokenCache, count: int) -> list[Any]:
    return [held_out.example for held_out in HeldOutExamples(cache, ("validation",)).first(count)]


def by_definition(network: Any, cache: TokenCache, num_examples: int) -> float:
    """Sums the cross-entropy of one example after the other and divides by all target tokens."""
    network.eval()
    tokens = cache.split("validation")
    total, count = 0.0, 0
    for _, index in HeldOutExamples(cache, ("validation",)).indices(num_examples):
        source, target = (torch.tensor([ids.tolist()]) for ids in (tokens.source(index), tokens.target(index)))
        with torch.no_grad():
            logits = network(input_ids=source, labels=target).logits
        total += float(functional.cross_entropy(logits[0], target[0], reduction="sum"))
        count += target.numel()
    network.train()
    return total / count


def test_the_loss_is_its_definition_however_it_is_batched(
    network: T5ForConditionalGeneration, cache: TokenCache, accelerator: Accelerator
) -> None:
    num_examples = len(cache.split("validation"))
    assert num_examples > 8
    assert len(set(cache.split("validation").target_lengths.tolist())) > 4, "so that padding would show"
    expected = by_definition(network, cache, num_examples)
    model = SequenceLoss(network).train()
    for batch_tokens in (100, 700, 10**6):
        found = build(cache, accelerator, batch_tokens=batch_tokens).loss(model)
        assert found == pytest.approx(expected, rel=1e-6)
    assert model.training
    assert network.training


def test_only_the_first_examples_count(
    network: T5ForConditionalGeneration, cache: TokenCache, accelerator: Accelerator
) -> None:
    found = build(cache, accelerator, max_examples=3).loss(SequenceLoss(network))
    assert found == pytest.approx(by_definition(network, cache, 3), rel=1e-6)
    assert found != pytest.approx(by_definition(network, cache, 8), rel=1e-4)


def test_shares_of_processes_add_up_to_the_whole(
    network: T5ForConditionalGeneration,
    cache: TokenCache,
    accelerator: Accelerator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each process runs alone here; what they would exchange is kept and handed to the last."""
    expected = build(cache, accelerator).evaluate(SequenceLoss(network))
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    said: dict[int, list[Any]] = {}
    for process in (0, 1, 2):
        heard: list[Any] = []
        said[process] = heard
        monkeypatch.setattr(Accelerator, "process_index", process)

        def exchange(own: list[Any], heard: list[Any] = heard, is_last: bool = process == 2) -> list[Any]:
            heard.append(own[0])
            turn = len(heard) - 1
            return [said[other][turn] for other in range(3)] if is_last else own * 3

        monkeypatch.setattr("recipe_exp.evaluation.evaluator.gather_object", exchange)
        evaluator = build(cache, accelerator)
        # Only the last one hears from the others.
        with nullcontext() if process == 2 else pytest.raises(KeyError):
            loss = evaluator.loss(SequenceLoss(network))
        prompts = [example.source_text for example in cache.examples("validation")[:5]]
        if process < 2:
            heard.append(generate(network, cache.tokenizer, prompts[process::3], Decoding(12)))
        else:
            texts = evaluator._generate(network, prompts)
    assert loss == pytest.approx(expected.metrics["eval/loss"], rel=1e-6)
    assert texts == generate(network, cache.tokenizer, prompts, Decoding(12))


def test_metrics_are_those_of_the_recipes_it_generated(
    network: T5ForConditionalGeneration, cache: TokenCache, accelerator: Accelerator
) -> None:
    result = build(cache, accelerator).evaluate(SequenceLoss(network))
    examples = first(cache, 4)
    texts = generate(network, cache.tokenizer, [e.source_text for e in examples], Decoding(12))
    assert [sample.generated for sample in result.predictions] == texts
    assert [sample.reference for sample in result.predictions] == [example.target_text for example in examples]
    loss = by_definition(network, cache, len(cache.split("validation")))
    expected = compute_metrics(
        references=[example.target_text for example in examples],
        predictions=texts,
        prompts=[example.source_text for example in examples],
        prompt_ingredients=[example.prompt_ingredients for example in examples],
        loss=loss,
        knowledge=knowledge_of(cache.prepared, cache.folder.parent),
    ).to_dict()
    assert result.metrics == pytest.approx({f"eval/{name}": value for name, value in expected.items()}, rel=1e-5)
    assert result.metrics["eval/perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_evaluating_twice_gives_the_same_and_draws_no_random_number(
    network: T5ForConditionalGeneration, cache: TokenCache, accelerator: Accelerator
) -> None:
    evaluator, model = build(cache, accelerator), SequenceLoss(network).train()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = evaluator.evaluate(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert evaluator.evaluate(model) == first


def test_bf16_is_close(network: T5ForConditionalGeneration, cache: TokenCache, accelerator: Accelerator) -> None:
    in_fp32 = build(cache, accelerator).loss(SequenceLoss(network))
    bf16 = create_accelerator(device="cpu", precision="bf16", num_threads=1)
    in_bf16 = build(cache, bf16).loss(SequenceLoss(network))
    assert in_bf16 != in_fp32
    assert in_bf16 == pytest.approx(in_fp32, rel=0.02)


def test_samples_stand_beside_their_references_and_answer_ones_own_prompts(
    network: T5ForConditionalGeneration, cache: TokenCache, accelerator: Accelerator
) -> None:
    prompts = ("just soup", "title=Stew; ingredients=beans, rice")
    evaluator, model = build(cache, accelerator, validation_prompts=prompts), SequenceLoss(network)
    rendered = ["just soup", "Write a recipe for Stew using: beans, rice"]
    samples = evaluator.samples(model)
    examples = first(cache, 3)
    assert [sample.prompt for sample in samples] == [*(example.source_text for example in examples), *rendered]
    assert [sample.reference for sample in samples] == [*(example.target_text for example in examples), None, None]
    assert [sample.generated for sample in samples] == generate(
        network, cache.tokenizer, [sample.prompt for sample in samples], Decoding(12)
    )
    assert evaluator.samples(model, evaluator.evaluate(model)) == samples, "an evaluation's recipes are not made twice"


def test_an_empty_split_is_refused_with_the_key_that_fills_it(cache: TokenCache, accelerator: Accelerator) -> None:
    with pytest.raises(DataError, match=r"data\.test_fraction"):
        build(cache, accelerator, split="test")


def test_a_writer_of_a_folder_writes_what_the_network_does(
    network: T5ForConditionalGeneration, cache: TokenCache, tmp_path: Path
) -> None:
    load.export_model(network, tmp_path)
    cache.tokenizer.save(tmp_path)
    writer = RecipeWriter.from_folder(
        tmp_path, template=TEMPLATE, max_source_tokens=96, max_new_tokens=9, num_beams=1, device="cpu"
    )
    rendered = ["just soup", "Write Stew with beans, rice"]
    prompts = ["just soup", "title=Stew; ingredients=beans, rice"]
    expected = generate(network, cache.tokenizer, rendered, Decoding(9))
    assert writer.generate(prompts) == expected
    longer = generate(network, cache.tokenizer, rendered, Decoding(14, num_beams=2))
    assert writer.generate(prompts, max_new_tokens=14, num_beams=2) == longer


def test_a_writer_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model there"):
        RecipeWriter.from_folder(
            tmp_path, template=TEMPLATE, max_source_tokens=96, max_new_tokens=9, num_beams=1, device="cpu"
        )


def test_a_split_smaller_than_asked_for_is_evaluated_whole(
    network: T5ForConditionalGeneration, cache: TokenCache, accelerator: Accelerator, tmp_path: Path
) -> None:
    config = DataConfig(format="sample", max_examples=30, validation_fraction=0.1, test_fraction=0.0)
    small = build_or_open_cache(config, cache_dir=tmp_path, tokenizer=cache.tokenizer, num_workers=1)
    num_examples = len(small.split("validation"))
    assert num_examples < 20
    result = build(small, accelerator, max_generated_examples=20).evaluate(SequenceLoss(network))
    assert len(result.predictions) == num_examples


def test_every_example_has_its_scores(
    network: T5ForConditionalGeneration, cache: TokenCache, accelerator: Accelerator
) -> None:
    evaluator = build(cache, accelerator, batch_tokens=300)
    result = evaluator.evaluate(SequenceLoss(network))
    scores = result.scores
    assert len(scores.ids) == len(cache.split("validation"))
    assert len(scores.examples_of("bleu")) == len(scores.examples_of("rougeL")) == 4
    places = HeldOutExamples(cache, ("validation",)).indices(len(scores.ids))
    for order in (0, 3, len(scores.ids) - 1):
        assert scores.target_tokens[order] == len(cache.split("validation").target(places[order][1]))
    for name, value in result.metrics.items():
        metric = name.removeprefix("eval/")
        found = scores.summed(metric, range(len(scores.examples_of(metric))))
        if metric.startswith(("chrf", "distinct")):
            assert found is None, "nothing that a run is ranked by"
            continue
        assert found is not None, name
        assert found.value() == pytest.approx(value, rel=1e-6), name
