"""`task=doctor`: every finding in its good and its bad form."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections import namedtuple

import pytest
from rich.console import Console

from recipe_exp.__main__ import main
from recipe_exp.config.compose import compose
from recipe_exp.config.hardware import HardwareConfig
from recipe_exp.config.tracking import TrackingConfig
from recipe_exp.planning.device import Gpu, planned_device
from recipe_exp.tasks import doctor
from recipe_exp.tasks.plan import plan_run

CARD = Gpu("Some GPU", 32 * 1024**3, 32 * 1024**3, 12.0, "580.65")


@pytest.fixture
def plan():
    config = compose(["model=flan_t5_base", "training=full", "hardware=rtx5090"])
    return plan_run(config, planned_device(config.hardware))


def test_a_sound_machine_exits_with_0(tmp_path, capsys):
    assert main(["task=doctor", "hardware=cpu", f"output_dir={tmp_path}", "tracking=journal_only"]) == 0
    assert "Ready." in capsys.readouterr().out


def test_what_cannot_run_exits_with_1(tmp_path, capsys):
    arguments = ["task=doctor", "model=flan_t5_xxl", "hardware=cpu", "hardware.memory_gb=8", f"output_dir={tmp_path}"]
    assert main(arguments) == 1
    assert "to repair" in capsys.readouterr().out


def test_this_environment_is_within_the_declared_ranges():
    python_range, requirements = doctor.declared_requirements()
    assert any(line.startswith("torch") for line in requirements)
    findings = list(doctor.check_packages(python_range, requirements))
    assert {finding.subject for finding in findings} >= {"python", "packages", "extra gpu"}
    assert all(finding.status == "ok" for finding in findings)


def test_wrong_and_missing_packages_are_named_with_their_cure():
    requirements = ["torch>=999", "no-such-package>=1", "numpy>=2", 'nvidia-ml-py>=12; extra == "gpu"']
    failed = [f for f in doctor.check_packages(">=3.99", requirements) if f.status == "fail"]
    assert [f.subject for f in failed] == ["python", "packages", "packages"]
    assert failed[1].fix == "pip install 'torch>=999'"
    assert "not installed" in failed[2].text


@pytest.mark.parametrize(
    ("capability", "architectures", "status"),
    [
        ((12, 0), ["sm_90", "sm_120"], "ok"),
        ((8, 9), ["sm_80", "sm_90"], "ok"),
        ((9, 0), ["sm_80", "sm_90a"], "ok"),
        ((12, 0), ["sm_80", "sm_90"], "fail"),
        ((8, 0), ["sm_86"], "fail"),
        ((12, 0), ["sm_90", "compute_90"], "warn"),
    ],
)
def test_architectures_that_pytorch_was_built_for(capability, architectures, status):
    assert doctor.check_architecture(capability, architectures).status == status


def test_a_gpu_that_pytorch_does_not_see_is_a_failure():
    # The test environment has a PyTorch without CUDA or a machine without a GPU; the card is told of.
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    findings = {f.subject: f for f in doctor.check_gpu(HardwareConfig(device="cuda"), "auto", [CARD])}
    assert findings["torch"].status == "fail"
    assert "Some GPU" in findings["torch"].text
    assert findings["gpu"].status == "fail"
    alone = {f.subject: f for f in doctor.check_gpu(HardwareConfig(), "auto", [])}
    assert {f.status for f in alone.values()} == {"ok"}


def test_a_smaller_card_than_configured_is_a_failure():
    hardware = HardwareConfig(device="cuda", memory_gb=80)
    assert doctor._check_card(hardware, "Some GPU", 24 * 1024**3).status == "fail"
    assert doctor._check_card(HardwareConfig(memory_gb=32), "Some GPU", 32607 * 1024**2).status == "ok"


def test_disk_is_compared_with_checkpoints(tmp_path, plan, monkeypatch):
    usage = namedtuple("Usage", "total used free")
    statuses = []
    for free in (plan.checkpoint_bytes - 1, plan.disk_bytes - 1, plan.disk_bytes):
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, free=free: usage(0, 0, free))
        statuses.append(doctor.check_disk(tmp_path / "not" / "there", plan).status)
    assert statuses == ["fail", "warn", "ok"]


@pytest.fixture
def server():
    """A server whose /health answers with 200 and everything else with 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{answering.server_port}"
        answering.shutdown()


def test_tracking_servers_are_asked_for_their_health(server, tmp_path):
    assert doctor.check_tracking(TrackingConfig(uri=server), tmp_path).status == "ok"
    wrong = doctor.check_tracking(TrackingConfig(uri=f"{server}/elsewhere"), tmp_path)
    assert (wrong.status, "404" in wrong.text) == ("warn", True)


def test_a_silent_server_is_a_warning(tmp_path):
    finding = doctor.check_tracking(TrackingConfig(uri="http://127.0.0.1:9"), tmp_path)
    assert finding.status == "warn"
    assert "task=sync" in finding.fix


def test_databases_are_tried_where_they_will_lie(tmp_path, monkeypatch):
    assert doctor.check_tracking(TrackingConfig(), tmp_path / "outputs").status == "ok"
    assert doctor.check_tracking(TrackingConfig(enabled=False), tmp_path).text.startswith("off")
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert doctor.check_tracking(TrackingConfig(), tmp_path).status == "warn"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache with one snapshot folder of google/flan-t5-base."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    snapshot = tmp_path / "models--google--flan-t5-base" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    return snapshot


def test_models_are_looked_for_in_the_cache(hub, monkeypatch):
    model = compose(["model=flan_t5_base"]).model
    assert doctor.check_model(model).status == "warn"
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    (hub / "model-1.safetensors").write_text("")
    assert "944 MiB to download" in doctor.check_model(model).text
    (hub / "model-2.safetensors").write_text("")
    assert doctor.check_model(model).status == "ok"
    shutil.rmtree(hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert doctor.check_model(model).status == "fail"


def test_folders_and_random_weights_need_no_download(tmp_path):
    model = compose(["model=flan_t5_base"]).model
    folder = model.model_copy(update={"name": str(tmp_path)})
    assert doctor.check_model(folder).status == "fail"
    (tmp_path / "config.json").write_text("{}")
    assert doctor.check_model(folder).status == "ok"
    assert doctor.check_model(compose(["model=t5_tiny"]).model).status == "ok"


def test_memory_that_is_short_names_the_change(plan):
    assert doctor.check_memory(plan).status == "ok"
    config = compose(["model=flan_t5_xxl", "training=lora", "hardware=rtx5090", "model.gradient_checkpointing=false"])
    finding = doctor.check_memory(plan_run(config, planned_device(config.hardware)))
    assert (finding.status, finding.fix) == ("fail", "add model.gradient_checkpointing=true")


def test_every_finding_is_a_row_with_its_fix():
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(doctor.findings_table([doctor.Finding("disk", "fail", "full", "free some space")]))
    assert ["disk", "fail", "full"] in [line.split() for line in capture.get().splitlines()]
    assert "free some space" in capture.get()
