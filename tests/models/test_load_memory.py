"""What loading a model costs in host memory: its weights, once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recipe_exp.config.model import ModelShape
from recipe_exp.models import load

MEASURE = """
import json, sys, threading, time
from pathlib import Path
import torch
from recipe_exp.models import load

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split() for line in lines}
    return int(fields["RssAnon"][1]) * 1024, int(fields["VmRSS"][1]) * 1024

torch.set_num_threads(1)
before, peaks, is_done = resident(), [0, 0], threading.Event()

def watch():
    while not is_done.wait(0.002):
        peaks[:] = map(max, peaks, resident())

thread = threading.Thread(target=watch)
thread.start()
network = load.load_pretrained(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
is_done.set()
thread.join()
weights = sum(p.numel() * p.element_size() for p in network.parameters())
for parameter in network.parameters():  # as an optimizer would
    parameter.data.mul_(1.0)
after = resident()
print(json.dumps({
    "weights": weights,
    "anonymous": peaks[0] - before[0],
    "resident": peaks[1] - before[1],
    "anonymous_in_use": after[0] - before[0],
}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 200 MiB in fp32."""
    folder = tmp_path_factory.mktemp("model")
    shape = ModelShape(
        vocab_size=32128, d_model=512, d_kv=64, d_ff=1024, num_layers=3, num_decoder_layers=3, num_heads=6
    )
    load.save_plain(load.from_shape(shape, dtype=torch.float32), folder)
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel tells no resident memory")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_in_memory_once(model: Path, dtype: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(model), dtype], capture_output=True, text=True, check=True, timeout=240
    )
    found = json.loads(done.stdout)
    assert found["weights"] > 90 * 2**20
    # Files are mapped: what is not changed is the file itself, which the kernel may drop at any time.
    assert found["anonymous"] <= 1.2 * found["weights"]
    assert found["anonymous_in_use"] <= 1.2 * found["weights"]
    if dtype == "float32":
        assert found["resident"] <= 1.2 * found["weights"]
