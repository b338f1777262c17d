"""What the contract suite runs against.

A host joins the suite by a :class:`subjects.Subject`: the host and the few facts about its insides that the
promise speaks of and the protocol does not show. Here it is the standalone host on a tiny random
checkpoint of each family.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_eval.host.protocol import Host, ModelInfo, Sampling
from lora_eval.lora.files import save_lora
from tests.contract.subjects import Subject
from tests.live.probe.lora_eval_probe_tools import random_network
from tests.tiny_models import FAMILIES, write_tiny_model


@pytest.fixture(scope="session", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Each host of the suite in turn."""
    pytest.importorskip("diffusers")
    from lora_eval.host.standalone import StandaloneHost

    family = request.param
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / family, family)
    host = StandaloneHost(folder, device="cpu", output_folder=tmp_path_factory.mktemp("outputs"))
    return Subject(
        host=host,
        modules=lambda: host._load().modules(),
        expected=ModelInfo(family, "", family, "v_prediction" if family == "sd2" else "epsilon"),
        sampling=Sampling(sampler="Euler", steps=4, width=64, height=64),
        context_width=96 if family == "sdxl" else 32,
        vector_width=64 + 6 if family == "sdxl" else None,
    )


@pytest.fixture(scope="session")
def host(subject: Subject) -> Host:
    return subject.host


@pytest.fixture(scope="session")
def lora_file(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA for the subject's model, in fp32."""
    path = tmp_path_factory.mktemp("loras") / "strong.safetensors"
    with subject.host.borrow_model() as borrowed:
        network = random_network(borrowed)
        save_lora(path, network.state_dict(), {}, dtype="fp32")
    return path
