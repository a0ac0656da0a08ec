from __future__ import annotations

from typing import Any

import pytest

from recipe_exp.config.compose import compose
from recipe_exp.config.training import LoraConfig
from recipe_exp.errors import ConfigError


def mistakes(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return caught.value.mistakes


def adapter(*overrides: str) -> LoraConfig:
    found = compose(overrides).training.adapter
    assert isinstance(found, LoraConfig)
    return found


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("lora", {"rslora": False, "dora": False, "init": "lora", "learning_rate_ratio": None, "quantization": "none"}),
        ("rslora", {"rslora": True}),
        ("dora", {"dora": True, "dropout": 0.0}),
        ("pissa", {"init": "pissa", "dropout": 0.0}),
        ("lora_plus", {"learning_rate_ratio": 16.0}),
        ("qlora", {"quantization": "nf4", "targets": "all_linear"}),
    ],
)
def test_every_option_is_its_variant(option: str, values: dict[str, Any]) -> None:
    found = adapter(f"training={option}")
    assert {name: getattr(found, name) for name in values} == values
    assert adapter(f"training={option}", "training.adapter.rank=8").rank == 8


def test_the_scale_follows_the_papers() -> None:
    assert LoraConfig(rank=16, alpha=8.0).scale == 0.5
    assert LoraConfig(rank=16, alpha=8.0, rslora=True).scale == 2.0
    assert adapter("training=rslora").scale == adapter("training=lora").scale


@pytest.mark.parametrize(
    ("overrides", "key", "remedy"),
    [
        (["training=lora", "training.adapter.rank=65"], "training.adapter.rank=65", "lower it"),
        (["training=lora", "training.adapter.targets=[q,x]"], "training.adapter.targets", "name of q, k, v, o, wi_0"),
        (["training=lora", "training.adapter.targets=[lm_head]"], "training.adapter.targets", "name of q, k, v, o"),
        (["training=pissa", "training.adapter.rank=20", "model.shape.d_kv=4"], "training.adapter.rank=20", "lower it"),
        (["training=qlora", "training.adapter.init=pissa"], "training.adapter.quantization=nf4", "quantization=none"),
        (["training=qlora", "hardware.num_processes=2"], "training.adapter.quantization=nf4", "num_processes=1"),
        (
            ["training=lora_plus", "training/optimizer=adafactor"],
            "training.adapter.learning_rate_ratio=16",
            "take training/optimizer=adamw",
        ),
        (
            ["training=lora", "training.adapter.start_from=latest", "resume=latest"],
            "training.adapter.start_from=latest",
            "by its id",
        ),
        (["model.name=latest", "resume=latest"], "model.name=latest", "by its id"),
        (["training=lora", "training.adapter.targets=q"], "training.adapter.targets=q", "is written [q]"),
        (["training=lora", "training.adapter.targets=[]"], "training.adapter.targets=[]", "such as [q,wo]"),
        (["training=lora", "training.adapter.targets=[attention]"], "training.adapter.targets=", "without brackets"),
        (["training=lora", "training.adapter.targets=['q v']"], "training.adapter.targets=", "no module's name"),
    ],
)
def test_a_mistake_is_one_line_with_key_and_remedy(overrides: list[str], key: str, remedy: str) -> None:
    (line,) = mistakes(*overrides)
    assert line.startswith(key)
    assert remedy in line


def test_what_may_be_right_is_left_to_the_model_itself() -> None:
    names = "training.adapter.targets=[q_proj]"
    pretrained = ("training=lora", "model.pretrained=true", names)
    assert adapter(*pretrained, "model.name=facebook/bart-base").targets == ("q_proj",)
    assert len(mistakes(*pretrained, "model.name=google/flan-t5-base")) == 1
    first = ("training=lora", "model.pretrained=true", "model.name=t5-small", "training.adapter.targets=[wi]")
    assert adapter(*first).targets == ("wi",)


def test_each_half_of_a_contradiction_is_fine_alone() -> None:
    assert adapter("training=qlora", "training.adapter.dora=true").dora
    assert adapter("training=pissa", "training.adapter.dora=true", "training.adapter.rslora=true").dora
    assert adapter("training=lora_plus", "training.adapter.init=pissa").learning_rate_ratio == 16.0
    assert adapter("training=lora", "training/optimizer=adafactor").rank == 16
