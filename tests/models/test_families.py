"""The table of families against transformers' own classes and configurations."""

from __future__ import annotations

import pytest
import transformers

from recipe_exp.models.families import FAMILIES, family_of
from recipe_exp.models.stored_files import SHAPE_NAMES, stored_shape

CONFIGS = {"t5": transformers.T5Config, "mt5": transformers.MT5Config, "bart": transformers.BartConfig}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_ids_and_dimensions_are_those_of_the_class(model_type: str) -> None:
    family, config = FAMILIES[model_type], CONFIGS[model_type]()
    assert getattr(transformers, family.network).config_class is type(config)
    assert config.model_type == model_type
    # T5 says it in its checkpoints only.
    start_id = getattr(config, "decoder_start_token_id", 0)
    found = (start_id, config.pad_token_id, config.eos_token_id)
    assert found == (family.start_id, family.pad_id, family.eos_id)
    shape = stored_shape(config.to_dict())
    assert {*shape} == {*SHAPE_NAMES}
    assert shape["num_layers"] == config.num_hidden_layers
    assert shape["d_kv"] * shape["num_heads"] == config.hidden_size or model_type != "bart"
    if family.max_positions is not None:
        assert getattr(config, family.max_positions) == 1024


def test_only_t5_is_known_in_every_way() -> None:
    assert [name for name, family in FAMILIES.items() if family.unknown is None] == ["t5"]
    for other in ("llama", None, []):
        assert family_of(other) is None
