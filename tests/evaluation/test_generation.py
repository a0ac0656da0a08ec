from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BartConfig, BartForConditionalGeneration, T5ForConditionalGeneration

from recipe_exp.config.model import ModelShape
from recipe_exp.data.tokens.cache import TokenCache
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.evaluation import generation
from recipe_exp.evaluation.generation import BATCH_TOKENS, Decoding, generate
from recipe_exp.evaluation.searching import Sampling
from recipe_exp.models import load
from recipe_exp.models.families import FAMILIES


@pytest.fixture
def prompts(cache: TokenCache) -> list[str]:
    """Prompts of very different lengths, not in their order."""
    texts = [example.source_text for example in cache.examples("train")[:8]]
    return [*texts[:4], "soup", *texts[4:], "a", texts[0][:30]]


def alone(network: Any, tokenizer: RecipeTokenizer, prompt: str, **settings: Any) -> str:
    """What transformers writes for one prompt without any company."""
    network.eval()
    output = network.generate(input_ids=torch.tensor([tokenizer.encode(prompt)]), do_sample=False, **settings)
    return tokenizer.decode(output[0].tolist())


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_tokens_are_those_of_transformers_for_any_batch(
    network: T5ForConditionalGeneration, cache: TokenCache, prompts: list[str], num_beams: int
) -> None:
    expected = [alone(network, cache.tokenizer, prompt, max_new_tokens=20, num_beams=num_beams) for prompt in prompts]
    lengths = {len(cache.tokenizer.encode(text)) for text in expected}
    assert len(set(expected)) > 3, "the prompts matter"
    assert len(lengths) > 3, "some end before others"
    for batch_tokens in (BATCH_TOKENS, 400, 1):
        decoding = Decoding(20, num_beams, batch_tokens=batch_tokens)
        assert generate(network, cache.tokenizer, prompts, decoding) == expected
    assert generate(network, cache.tokenizer, prompts[::-1], Decoding(20, num_beams)) == expected[::-1]


@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_beams_and_likeliest_texts_are_those_of_transformers_whatever_the_network(
    cache: TokenCache, prompts: list[str], seed: int, num_beams: int
) -> None:
    torch.manual_seed(seed)
    shape = ModelShape(vocab_size=400, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_decoder_layers=3, num_heads=2)
    network = load.from_shape(shape, dtype=torch.float32, attention="sdpa" if seed % 2 else "eager")
    with torch.no_grad():
        network.lm_head.weight *= 3
        network.lm_head.weight[cache.tokenizer.eos_id] *= 1 + seed
    expected = [alone(network, cache.tokenizer, prompt, max_new_tokens=33, num_beams=num_beams) for prompt in prompts]
    assert generate(network, cache.tokenizer, prompts, Decoding(33, num_beams)) == expected


@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_adapter_writes_what_transformers_writes_with_it(
    network: T5ForConditionalGeneration, cache: TokenCache, prompts: list[str], num_beams: int
) -> None:
    bare = generate(network, cache.tokenizer, prompts, Decoding(20, num_beams))
    adapted = get_peft_model(network, LoraConfig(r=4, target_modules=["q", "v", "wo"], task_type="SEQ_2_SEQ_LM"))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.5)
    expected = [alone(adapted, cache.tokenizer, prompt, max_new_tokens=20, num_beams=num_beams) for prompt in prompts]
    assert generate(adapted, cache.tokenizer, prompts, Decoding(20, num_beams)) == expected
    assert expected != bare


@pytest.mark.parametrize("num_beams", [1, 3])
def test_bart_writes_what_transformers_writes_with_it(cache: TokenCache, prompts: list[str], num_beams: int) -> None:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=400,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=300,
        init_std=0.6,
    )
    network = BartForConditionalGeneration(config)
    network.generation_config = load.generation_config(FAMILIES["bart"])
    expected = [alone(network, cache.tokenizer, prompt, max_new_tokens=20, num_beams=num_beams) for prompt in prompts]
    assert len(set(expected)) > 3, "the prompts matter"
    for batch_tokens in (BATCH_TOKENS, 1):
        decoding = Decoding(20, num_beams, batch_tokens=batch_tokens)
        assert generate(network, cache.tokenizer, prompts, decoding) == expected


def test_bf16_writes_what_transformers_writes_in_it(
    network: T5ForConditionalGeneration, cache: TokenCache, prompts: list[str]
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        expected = [alone(network, cache.tokenizer, prompt, max_new_tokens=12) for prompt in prompts]
        texts = generate(network, cache.tokenizer, prompts, Decoding(12, batch_tokens=1))
    same = sum(text == other for text, other in zip(texts, expected, strict=True))
    assert same >= len(prompts) - 2, "rounding of a product's order may decide a tie"


def test_draws_of_a_prompt_do_not_depend_on_its_company(
    network: T5ForConditionalGeneration, cache: TokenCache, prompts: list[str]
) -> None:
    sampling = Sampling(temperature=1.3, top_p=0.9, seed=5)
    whole = generate(network, cache.tokenizer, prompts, Decoding(20, sampling=sampling))
    for batch_tokens in (400, 1):
        decoding = Decoding(20, sampling=sampling, batch_tokens=batch_tokens)
        assert generate(network, cache.tokenizer, prompts, decoding) == whole
    share = generate(
        network, cache.tokenizer, prompts[1::2], Decoding(20, sampling=sampling), numbers=range(len(prompts))[1::2]
    )
    assert share == whole[1::2], "as a process of two would"
    other = generate(network, cache.tokenizer, prompts, Decoding(20, sampling=Sampling(1.3, 0.9, seed=6)))
    assert other != whole
    again = generate(network, cache.tokenizer, [prompts[0]] * 4, Decoding(20, sampling=sampling))
    assert len(set(again)) > 1, "the same prompt twice is drawn for twice"


def test_a_cold_draw_is_the_likeliest_text(
    network: T5ForConditionalGeneration, cache: TokenCache, prompts: list[str]
) -> None:
    cold = generate(network, cache.tokenizer, prompts, Decoding(20, sampling=Sampling(temperature=1e-4)))
    assert cold == generate(network, cache.tokenizer, prompts, Decoding(20))


def test_batches_hold_similar_lengths_within_the_budget() -> None:
    encoded = [[5] * length for length in (40, 3, 4, 90, 5, 41)]
    order = sorted(range(6), key=lambda index: len(encoded[index]))
    assert generation._batches(order, encoded, Decoding(9, batch_tokens=100)) == [[1, 2, 4], [0, 5], [3]]
    in_beams = generation._batches(order, encoded, Decoding(9, num_beams=3, batch_tokens=100))
    assert in_beams == [[1, 2], [4], [0], [5], [3]]


@torch.no_grad()
def test_a_recipe_is_no_longer_than_allowed_and_at_least_that_long(
    network: T5ForConditionalGeneration, cache: TokenCache
) -> None:
    """transformers stops at 20 tokens where nothing is said."""
    network.lm_head.weight[cache.tokenizer.eos_id] = 0.0
    for limit in (5, 37):
        written = generation._write(network.eval(), [cache.tokenizer.encode("soup")], [0], Decoding(limit), None)
        assert [len(ids) for ids in written] == [limit]


@torch.no_grad()
def test_writing_ends_when_somebody_says_so(network: T5ForConditionalGeneration, cache: TokenCache) -> None:
    network.lm_head.weight[cache.tokenizer.eos_id] = 0.0
    for num_beams in (1, 2):
        asked: list[bool] = []

        def is_enough(asked: list[bool] = asked) -> bool:
            asked.append(True)
            return len(asked) == 4

        written = generation._write(
            network.eval(), [cache.tokenizer.encode("soup")], [0], Decoding(30, num_beams), is_enough
        )
        assert [len(ids) for ids in written] == [4]


@pytest.mark.parametrize("limit", [1, 2, 7, 96])
def test_a_cut_prompt_still_ends_with_the_end_token(
    network: T5ForConditionalGeneration, cache: TokenCache, prompts: list[str], limit: int
) -> None:
    cut = [generation._cut(cache.tokenizer.encode(prompt), limit) for prompt in prompts]
    whole = [cache.tokenizer.encode(prompt) for prompt in prompts]
    assert cut == [ids if len(ids) <= limit else [*ids[: limit - 1], cache.tokenizer.eos_id] for ids in whole]
    texts = generate(network, cache.tokenizer, prompts, Decoding(8, max_source_tokens=limit))
    network.eval()
    for ids, text in zip(cut, texts, strict=True):
        output = network.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=8)
        assert text == cache.tokenizer.decode(output[0].tolist())


def test_a_prompt_is_cut_as_in_training(cache: TokenCache) -> None:
    tokens = cache.split("train")
    limit = 96
    cut = [index for index in range(len(tokens)) if tokens.source_lengths[index] == limit]
    assert cut
    for index in cut:
        ids = cache.tokenizer.encode(cache.examples("train")[index].source_text)
        assert generation._cut(ids, limit) == tokens.source(index).tolist()


def test_the_network_is_left_as_it_was(network: T5ForConditionalGeneration, cache: TokenCache) -> None:
    assert network.training
    first = generate(network, cache.tokenizer, ["soup"], Decoding(8))
    assert network.training
    assert generate(network, cache.tokenizer, ["soup"], Decoding(8)) == first, "without dropout"
    network.lm_head = None
    with pytest.raises(TypeError):
        generate(network, cache.tokenizer, ["soup"], Decoding(8))
    assert network.training
    assert generate(network, cache.tokenizer, [], Decoding(8)) == []


LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from recipe_exp.config.model import ModelShape
from recipe_exp.data.tokens.tokenizer import RecipeTokenizer
from recipe_exp.errors import HardwareError
from recipe_exp.evaluation.writer import RecipeWriter
from recipe_exp.models import load

torch.set_num_threads(1)
torch.manual_seed(0)
shape = ModelShape(vocab_size=400, d_model=32, d_kv=64, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=16)
network = load.from_shape(shape, dtype=torch.float32).eval()
writer = RecipeWriter(network, RecipeTokenizer.from_pretrained(sys.argv[1]), "{title}", 96, 200, 1)
prompts = [f"soup {number}" for number in range(24)]
free = writer.generate(prompts)

def limit(megabytes):
    used = 4096 * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))

# All 24 need 75 MiB for what they write; the second limit has no room for one that is far longer.
limit(30)
tight = writer.generate(prompts)
try:
    writer.generate(prompts[:1], max_new_tokens=40_000)
    refusal = None
except HardwareError as error:
    refusal = str(error)
print(json.dumps({"same": tight == free, "written": len(set(free)), "refusal": refusal}))
"""


def test_a_batch_too_large_for_the_memory_is_written_in_parts(cache: TokenCache, tmp_path: Path) -> None:
    cache.tokenizer.save(tmp_path / "tokenizer")
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "tokenizer")],
        # Memory that the allocator keeps would not count against the limit.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["same"]
    assert found["written"] > 1, "the prompts matter"
    assert found["refusal"].startswith("out of memory in one recipe of up to 40000 tokens")
