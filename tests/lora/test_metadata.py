"""What a file says about itself, and its hashes."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_eval.lora.files import save_lora
from lora_eval.lora.metadata import TrainingFacts, build_metadata, family_of, legacy_hash, model_hash, read_facts

words = st.text(st.characters(blacklist_categories=["Cs"], min_codepoint=32), min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and text != "None"
)
whole = st.none() | st.integers(0, 10**9)
real = st.none() | st.floats(0, 1e6, allow_nan=False)


def full_facts() -> TrainingFacts:
    return TrainingFacts(
        output_name="zorp-000300",
        family="sd1",
        rank=8,
        alpha=8.0,
        conv_rank=4,
        conv_alpha=1.0,
        title="Zorp",
        base_model="tiny",
        base_model_sha256="ab" * 32,
        clip_skip=2,
        dataset_dirs={"10_zorp": {"img_count": 30, "n_repeats": 10}},
        tag_frequency={"10_zorp": {"a zorp": 30, "red": 4}},
        buckets={"64x64": 28, "48x80": 2},
        resolution=(64, 64),
        num_train_images=300,
        num_validation_images=3,
        epoch=2,
        num_epochs=5,
        steps=300,
        max_train_steps=750,
        learning_rate=3e-3,
        optimizer="AdamW",
        seed=42,
        started_at=1_760_000_000.5,
        finished_at=1_760_000_300.25,
        trigger="zorp",
        class_word="glyph",
        kind="object",
        references="10_zorp",
        history="history.csv",
    )


def test_what_a1111_reads() -> None:
    metadata = build_metadata(full_facts())
    assert metadata["ss_output_name"] == "zorp-000300"
    assert metadata["ss_base_model_version"] == "sd_v1" and metadata["ss_v2"] == "False"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("8", "8.0")
    assert metadata["ss_network_module"] == "networks.lora"
    assert float(metadata["ss_training_started_at"]) == 1_760_000_000.5
    assert json.loads(metadata["ss_bucket_info"])["buckets"]["1"] == {"resolution": [48, 80], "count": 2}
    assert json.loads(metadata["ss_tag_frequency"])["10_zorp"]["a zorp"] == 30
    assert json.loads(metadata["ss_dataset_dirs"])["10_zorp"] == {"img_count": 30, "n_repeats": 10}
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "1.0"}


def test_modelspec_musts() -> None:
    metadata = build_metadata(full_facts())
    assert metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.implementation"] == "diffusers"
    assert metadata["modelspec.title"] == "Zorp"
    assert metadata["modelspec.resolution"] == "64x64"
    assert metadata["modelspec.trigger_phrase"] == "zorp"
    assert metadata["modelspec.encoder_layer"] == "2"


@pytest.mark.parametrize(
    ("family", "prediction", "architecture", "version", "v2", "size"),
    [
        ("sd1", "epsilon", "stable-diffusion-v1/lora", "sd_v1", "False", "512x512"),
        ("sd2", "epsilon", "stable-diffusion-v2-512/lora", "sd_v2", "True", "512x512"),
        ("sd2", "v_prediction", "stable-diffusion-v2-768-v/lora", "sd_v2", "True", "768x768"),
        ("sdxl", "epsilon", "stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0", "False", "1024x1024"),
    ],
)
def test_each_family_is_told_in_both_vocabularies(
    family: str, prediction: str, architecture: str, version: str, v2: str, size: str
) -> None:
    metadata = build_metadata(TrainingFacts("x", family, prediction))
    assert metadata["modelspec.architecture"] == architecture
    assert (metadata["ss_base_model_version"], metadata["ss_v2"]) == (version, v2)
    assert metadata["modelspec.resolution"] == size
    assert metadata["modelspec.prediction_type"] == ("v" if prediction == "v_prediction" else "epsilon")
    for prefix in ("ss_", "modelspec."):
        alone = {key: value for key, value in metadata.items() if key.startswith(prefix)}
        assert family_of(alone) == family


@pytest.mark.parametrize("pair", [("flux", "epsilon"), ("sd1", "v")])
def test_an_unknown_family_or_prediction_is_refused(pair: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=pair[0]):
        build_metadata(TrainingFacts("x", *pair))


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({}, None),
        ({"title": "nothing"}, None),
        ({"ss_v2": "True"}, "sd2"),
        ({"ss_v2": "False"}, "sd1"),
        ({"ss_v2": "False", "ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"ss_v2": "False", "ss_base_model_version": "flux1"}, None),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, None),
    ],
)
def test_the_family_of_other_trainers_files(metadata: dict[str, str], family: str | None) -> None:
    assert family_of(metadata) == family


def test_facts_come_back_as_they_went() -> None:
    facts = full_facts()
    assert read_facts(build_metadata(facts)) == facts


@given(
    st.builds(
        TrainingFacts,
        output_name=words,
        family=st.sampled_from(["sd1", "sd2", "sdxl"]),
        prediction=st.sampled_from(["epsilon", "v_prediction"]),
        rank=st.none() | st.integers(1, 128),
        alpha=real,
        dropout=real,
        rank_stabilised=st.none() | st.booleans(),
        gradient_checkpointing=st.none() | st.booleans(),
        learning_rate=real,
        epoch=whole,
        steps=whole,
        seed=whole,
        finished_at=st.none() | st.floats(1, 2e9),
        trigger=words | st.just(""),
        class_word=words | st.just(""),
        description=words | st.just(""),
        tag_frequency=st.dictionaries(words, st.dictionaries(words, st.integers(0, 99), max_size=3), max_size=2),
        resolution=st.tuples(st.integers(8, 4096), st.integers(8, 4096)),
        buckets=st.dictionaries(st.sampled_from(["64x64", "32x96"]), st.integers(1, 99)),
    )
)
def test_any_facts_come_back_and_every_value_is_text(facts: TrainingFacts) -> None:
    metadata = build_metadata(facts)
    assert all(isinstance(value, str) for value in metadata.values())
    back = read_facts(metadata)
    if facts.title == facts.output_name:
        facts.title = ""
    assert back == facts


def test_another_trainers_metadata_is_read_without_complaint() -> None:
    facts = read_facts(
        {
            "ss_network_dim": "None",
            "ss_seed": "forty-two",
            "ss_tag_frequency": "{broken",
            "ss_bucket_info": '{"buckets": [1, 2]}',
            "ss_network_args": "null",
            "ss_resolution": "(768, 512)",
            "ss_learning_rate": "0.0001",
            "modelspec.trigger_phrase": "ohwx",
        }
    )
    assert (facts.rank, facts.seed, facts.tag_frequency, facts.buckets) == (None, None, {}, {})
    assert (facts.resolution, facts.learning_rate, facts.trigger) == ((768, 512), 1e-4, "ohwx")
    assert facts.family == "unknown"


def reference_hashes(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> tuple[str, str]:
    """The rule as published, on bytes in memory: the file with its ss_* metadata alone."""
    raw = BytesIO(safetensors.torch.save(tensors, {k: v for k, v in metadata.items() if k.startswith("ss_")}))
    length = int.from_bytes(raw.read(8), "little")
    raw.seek(8 + length)
    model = hashlib.sha256(raw.read()).hexdigest()
    raw.seek(0x100000)
    return model, hashlib.sha256(raw.read(0x10000)).hexdigest()[:8]


@pytest.mark.parametrize("width", [4, 400_000])
def test_hashes_follow_the_published_rule(tmp_path: Path, width: int) -> None:
    tensors = {
        "lora_unet_a.lora_down.weight": torch.randn(2, width),
        "lora_unet_a.lora_up.weight": torch.randn(3, 2).half(),
        "lora_unet_a.alpha": torch.tensor(2.0),
    }
    metadata = build_metadata(full_facts())
    path = tmp_path / "x.safetensors"
    written = save_lora(path, tensors, metadata)
    expected = reference_hashes(tensors, metadata)
    assert (written["sshs_model_hash"], written["sshs_legacy_hash"]) == expected
    assert written["modelspec.hash_sha256"] == "0x" + expected[0]
    # the finished file has another header and the same tensor bytes
    assert model_hash(path) == expected[0]
    if width == 4:
        assert legacy_hash(path) == "e3b0c442"  # nothing at 1 MiB
    with safetensors.safe_open(str(path), framework="pt") as file:
        assert file.metadata() == written


def test_hashes_do_not_change_with_what_people_edit(tmp_path: Path) -> None:
    tensors = {"lora_unet_a.lora_down.weight": torch.randn(2, 300_000), "lora_unet_a.lora_up.weight": torch.randn(3, 2)}
    metadata = build_metadata(full_facts())
    first = save_lora(tmp_path / "a.safetensors", tensors, metadata)
    second = save_lora(tmp_path / "b.safetensors", tensors, metadata | {"modelspec.description": "x" * 5000})
    keys = ("sshs_model_hash", "sshs_legacy_hash")
    assert [first[key] for key in keys] == [second[key] for key in keys]
