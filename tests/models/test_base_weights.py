from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from recipe_exp.errors import ModelError
from recipe_exp.models.base_weights import BaseFacts, base_fingerprint, read_facts, refuse_other_base, write_facts

STATE = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.weight": torch.ones(4, dtype=torch.bfloat16),
    "scalar": torch.tensor(2.0),
    "nothing": torch.zeros(0),
}


def saved(folder: Path, state: dict[str, torch.Tensor]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_the_same_weights_have_one_fingerprint_however_they_are_stored(tmp_path: Path) -> None:
    whole = base_fingerprint(saved(tmp_path / "whole", STATE))
    backwards = dict(reversed(STATE.items()))
    assert base_fingerprint(saved(tmp_path / "backwards", backwards)) == whole

    sharded = tmp_path / "sharded"
    sharded.mkdir()
    shards = {"one.safetensors": ["b.weight", "nothing"], "two.safetensors": ["a.weight", "scalar"]}
    for file, names in shards.items():
        save_file({name: STATE[name] for name in names}, sharded / file)
    weight_map = {name: file for file, names in shards.items() for name in names}
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert base_fingerprint(str(sharded)) == whole


@pytest.mark.parametrize(
    "change",
    [
        {"a.weight": STATE["a.weight"].reshape(3, 2)},
        {"a.weight": STATE["a.weight"].to(torch.float64)},
        {"a.weight": torch.nextafter(STATE["a.weight"], torch.tensor(9.0))},
        {"a.weight": -STATE["a.weight"]},
        {"other": torch.zeros(0)},
    ],
    ids=["shape", "type", "last bit", "sign of zero", "name"],
)
def test_other_weights_have_another_fingerprint(tmp_path: Path, change: dict[str, torch.Tensor]) -> None:
    before = base_fingerprint(saved(tmp_path / "before", STATE))
    assert base_fingerprint(saved(tmp_path / "after", STATE | change)) != before


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(STATE)[:2]), st.data())
def test_every_bit_counts(tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("bits")
    before = base_fingerprint(saved(folder / "before", STATE))
    flipped = STATE[name].clone()
    flat = flipped.reshape(-1).view(torch.uint8)
    flat[data.draw(st.integers(0, len(flat) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert base_fingerprint(saved(folder / "after", STATE | {name: flipped})) != before


@pytest.mark.parametrize("broken", ["nothing", "damaged", "shard", "index", "absent folder"])
def test_weights_that_cannot_be_read_are_one_line(tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "model"
    if broken != "absent folder":
        folder.mkdir()
    if broken == "damaged":
        (folder / "model.safetensors").write_bytes(b"damaged")
    if broken == "shard":
        weight_map = {"weight_map": {"a": "one.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(weight_map))
    if broken == "index":
        (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match=str(folder)) as caught:
        base_fingerprint(str(folder))
    assert "\n" not in str(caught.value)


def test_an_unknown_model_is_one_line_without_the_hub() -> None:
    with pytest.raises(ModelError, match="the hub cannot be reached") as caught:
        base_fingerprint("nobody/such-a-model")
    assert "\n" not in str(caught.value)


def test_nothing_in_a_file_of_weights_is_executed(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",))

    folder = tmp_path / "model"
    folder.mkdir()
    torch.save({"a": Hostile()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be read"):
        base_fingerprint(str(folder))
    assert not (tmp_path / "executed").exists()


def test_an_adapter_knows_its_base(tmp_path: Path) -> None:
    base, adapter = saved(tmp_path / "base", STATE), tmp_path / "adapter"
    adapter.mkdir()
    assert read_facts(adapter) == BaseFacts(fingerprint=None, quantization="none", init="lora")
    refuse_other_base(adapter, base, None)
    facts = BaseFacts(base_fingerprint(base), "nf4", "pissa")
    write_facts(adapter, facts)
    assert read_facts(adapter) == facts
    refuse_other_base(adapter, base, None)
    saved(tmp_path / "base", STATE | {"scalar": torch.tensor(3.0)})
    with pytest.raises(ModelError, match="trained on other base weights than those of"):
        refuse_other_base(adapter, base, None)
    for damaged in ("{", "[]", '{"fingerprint": 3}', '{"fingerprint": null, "quantization": "int3"}'):
        (adapter / "base.json").write_text(damaged)
        with pytest.raises(ModelError, match=r"base\.json: damaged"):
            refuse_other_base(adapter, base, None)
