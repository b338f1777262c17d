"""What a LoRA file says about itself.

Three vocabularies side by side, every value a string as safetensors demands:

* ``ss_*``: kohya-ss/sd-scripts (``train_network.py``); A1111 reads the model version, the alias and
  the tag table from these.
* ``modelspec.*``: Stability-AI/ModelSpec 1.0.1 (``library/sai_model_spec.py`` of sd-scripts); Forge
  reads the model version from ``modelspec.architecture``.
* ``lora_eval_*``: what the scorecard wants to know: trigger, class word, kind, references, history.

JSON values are objects: A1111 parses what starts with ``{`` and shows the rest as text.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import lora_eval

ARCHITECTURES = {
    ("sd1", "epsilon"): "stable-diffusion-v1",
    ("sd1", "v_prediction"): "stable-diffusion-v1",
    ("sd2", "epsilon"): "stable-diffusion-v2-512",
    ("sd2", "v_prediction"): "stable-diffusion-v2-768-v",
    ("sdxl", "epsilon"): "stable-diffusion-xl-v1-base",
    ("sdxl", "v_prediction"): "stable-diffusion-xl-v1-base",
}
BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
_FAMILY_STARTS = (("stable-diffusion-xl", "sdxl"), ("stable-diffusion-v2", "sd2"), ("stable-diffusion-v1", "sd1"))


@dataclass
class TrainingFacts:
    """How a LoRA was trained. Everything but the first line has a default; unknown facts stay out.

    Attributes:
        output_name: the file's stem. A1111 takes it as an alias, so it must differ a checkpoint.
        family, prediction: as in ``host.protocol``.
        title: for people; the output name when empty.
        preset: target preset; blocks: the selection, in the words of the configuration.
        base_model, base_model_sha256: name and SHA-256 (hex) of the checkpoint trained on; base_model_legacy: the
            WebUI's old hash of it (:func:`legacy_hash`).
        reg_dataset_dirs, num_reg_images: regularisation pictures, repeats counted.
        dataset_dirs: folder name -> {"img_count", "n_repeats"}.
        tag_frequency: folder name -> {tag: count}.
        buckets: ["64x64", pictures] pairs as a dict, "WIDTHxHEIGHT" -> number of pictures.
        resolution: (width, height) in pixels.
        started_at, finished_at: seconds since 1970.
        trigger, class_word: the trained word and what CLIP is asked for instead.
        kind: ``style``, ``character`` or ``object``.
        references: folder name of the pictures to compare with; history: file name of the loss history.
    """

    output_name: str
    family: str
    prediction: str = "epsilon"
    rank: int | None = None
    alpha: float | None = None
    conv_rank: int | None = None
    conv_alpha: float | None = None
    dropout: float | None = None
    rank_stabilised: bool | None = None
    preset: str = ""
    blocks: str = ""
    title: str = ""
    author: str = ""
    description: str = ""
    license: str = ""
    tags: str = ""
    comment: str = ""
    base_model: str = ""
    base_model_sha256: str = ""
    base_model_legacy: str = ""
    clip_skip: int | None = None
    dataset_dirs: dict[str, dict[str, int]] = field(default_factory=dict)
    reg_dataset_dirs: dict[str, dict[str, int]] = field(default_factory=dict)
    tag_frequency: dict[str, dict[str, int]] = field(default_factory=dict)
    buckets: dict[str, int] = field(default_factory=dict)
    resolution: tuple[int, int] | None = None
    num_train_images: int | None = None
    num_validation_images: int | None = None
    num_reg_images: int | None = None
    num_batches_per_epoch: int | None = None
    batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    gradient_checkpointing: bool | None = None
    cache_latents: bool | None = None
    num_epochs: int | None = None
    epoch: int | None = None
    steps: int | None = None
    max_train_steps: int | None = None
    learning_rate: float | None = None
    optimizer: str = ""
    lr_scheduler: str = ""
    lr_warmup_steps: int | None = None
    max_grad_norm: float | None = None
    min_snr_gamma: float | None = None
    caption_dropout: float | None = None
    tag_dropout: float | None = None
    shuffle_caption: bool | None = None
    keep_tokens: int | None = None
    flip: bool | None = None
    random_crop: bool | None = None
    no_upscale: bool | None = None
    noise_offset: float | None = None
    prior_loss_weight: float | None = None
    mixed_precision: str = ""
    seed: int | None = None
    session_id: int | None = None
    started_at: float | None = None
    finished_at: float | None = None
    trigger: str = ""
    class_word: str = ""
    kind: str = ""
    references: str = ""
    history: str = ""


# field -> metadata key; what needs more than str() is written in build_metadata
_KEYS = {
    "output_name": "ss_output_name",
    "rank": "ss_network_dim",
    "alpha": "ss_network_alpha",
    "dropout": "ss_network_dropout",
    "comment": "ss_training_comment",
    "base_model": "ss_sd_model_name",
    "base_model_sha256": "ss_new_sd_model_hash",
    "base_model_legacy": "ss_sd_model_hash",
    "clip_skip": "ss_clip_skip",
    "dataset_dirs": "ss_dataset_dirs",
    "reg_dataset_dirs": "ss_reg_dataset_dirs",
    "tag_frequency": "ss_tag_frequency",
    "num_train_images": "ss_num_train_images",
    "num_validation_images": "ss_num_validation_images",
    "num_reg_images": "ss_num_reg_images",
    "num_batches_per_epoch": "ss_num_batches_per_epoch",
    "batch_size": "ss_batch_size_per_device",
    "gradient_accumulation_steps": "ss_gradient_accumulation_steps",
    "gradient_checkpointing": "ss_gradient_checkpointing",
    "cache_latents": "ss_cache_latents",
    "num_epochs": "ss_num_epochs",
    "epoch": "ss_epoch",
    "steps": "ss_steps",
    "max_train_steps": "ss_max_train_steps",
    "learning_rate": "ss_learning_rate",
    "optimizer": "ss_optimizer",
    "lr_scheduler": "ss_lr_scheduler",
    "lr_warmup_steps": "ss_lr_warmup_steps",
    "max_grad_norm": "ss_max_grad_norm",
    "min_snr_gamma": "ss_min_snr_gamma",
    "caption_dropout": "ss_caption_dropout_rate",
    "tag_dropout": "ss_caption_tag_dropout_rate",
    "shuffle_caption": "ss_shuffle_caption",
    "keep_tokens": "ss_keep_tokens",
    "flip": "ss_flip_aug",
    "random_crop": "ss_random_crop",
    "no_upscale": "ss_bucket_no_upscale",
    "noise_offset": "ss_noise_offset",
    "prior_loss_weight": "ss_prior_loss_weight",
    "mixed_precision": "ss_mixed_precision",
    "seed": "ss_seed",
    "session_id": "ss_session_id",
    "started_at": "ss_training_started_at",
    "finished_at": "ss_training_finished_at",
    "title": "modelspec.title",
    "author": "modelspec.author",
    "description": "modelspec.description",
    "license": "modelspec.license",
    "tags": "modelspec.tags",
    "trigger": "lora_eval_trigger",
    "class_word": "lora_eval_class_word",
    "kind": "lora_eval_kind",
    "references": "lora_eval_references",
    "history": "lora_eval_history",
    "preset": "lora_eval_preset",
    "blocks": "lora_eval_blocks",
    "rank_stabilised": "lora_eval_rank_stabilised",
    "prediction": "lora_eval_prediction",
}


def build_metadata(facts: TrainingFacts) -> dict[str, str]:
    """The metadata to save with a LoRA; hashes are added by :func:`lora_eval.lora.files.save_lora`.

    Raises:
        ValueError: unknown family or prediction.
    """
    architecture = ARCHITECTURES.get((facts.family, facts.prediction))
    if architecture is None:
        raise ValueError(f"no such model family and prediction: {facts.family!r}, {facts.prediction!r}")
    metadata = {}
    for name, key in _KEYS.items():
        value = getattr(facts, name)
        if value is None or value == "" or value == {}:
            continue
        metadata[key] = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
    network_args: dict[str, str] = {}
    if facts.conv_rank is not None:
        network_args["conv_dim"] = str(facts.conv_rank)
    if facts.conv_alpha is not None:
        network_args["conv_alpha"] = str(facts.conv_alpha)
    metadata |= {
        "ss_v2": str(facts.family == "sd2"),
        "ss_base_model_version": BASE_VERSIONS[facts.family],
        "ss_network_module": "networks.lora",
        "ss_network_args": json.dumps(network_args),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": (
            "https://github.com/Stability-AI/generative-models" if facts.family == "sdxl" else "diffusers"
        ),
        "modelspec.title": facts.title or facts.output_name,
        "modelspec.prediction_type": "v" if facts.prediction == "v_prediction" else "epsilon",
        "lora_eval_version": lora_eval.__version__,
    }
    if facts.learning_rate is not None:
        metadata["ss_unet_lr"] = str(facts.learning_rate)
    if facts.batch_size is not None:
        metadata["ss_total_batch_size"] = str(facts.batch_size * (facts.gradient_accumulation_steps or 1))
    if facts.buckets:
        metadata["ss_enable_bucket"] = "True"
        rows = {
            str(i): {"resolution": [int(side) for side in name.split("x")], "count": count}
            for i, (name, count) in enumerate(facts.buckets.items())
        }
        metadata["ss_bucket_info"] = json.dumps({"buckets": rows})
    width, height = facts.resolution or _native_size(facts)
    metadata["ss_resolution"] = f"({width}, {height})"
    metadata["modelspec.resolution"] = f"{width}x{height}"
    moment = facts.finished_at or facts.started_at
    if moment is not None:
        metadata["modelspec.date"] = datetime.datetime.fromtimestamp(int(moment)).isoformat()
    if facts.trigger:
        metadata["modelspec.trigger_phrase"] = facts.trigger
    if facts.clip_skip is not None:
        metadata["modelspec.encoder_layer"] = str(facts.clip_skip)
    return metadata


def _native_size(facts: TrainingFacts) -> tuple[int, int]:
    if facts.family == "sdxl":
        return 1024, 1024
    return (768, 768) if facts.family == "sd2" and facts.prediction == "v_prediction" else (512, 512)


def read_facts(metadata: Mapping[str, str]) -> TrainingFacts:
    """The facts that a file's metadata gives, of any trainer; what is missing or unreadable stays default.

    ``family`` is "unknown" when nothing tells it. The trigger falls back to
    ``modelspec.trigger_phrase``, which other trainers write.
    """
    facts = TrainingFacts(output_name="", family=family_of(metadata) or "unknown")
    kinds = {f.name: str(f.type) for f in fields(TrainingFacts)}
    for name, key in _KEYS.items():
        value = _parse(metadata.get(key), kinds[name])
        if value is not None:
            setattr(facts, name, value)
    if not facts.trigger:
        facts.trigger = metadata.get("modelspec.trigger_phrase", "")
    if metadata.get("modelspec.prediction_type", "").startswith("v"):
        facts.prediction = "v_prediction"
    network_args = _parse(metadata.get("ss_network_args"), "dict") or {}
    facts.conv_rank = _parse(network_args.get("conv_dim"), "int")
    facts.conv_alpha = _parse(network_args.get("conv_alpha"), "float")
    facts.buckets = _read_buckets(metadata)
    facts.resolution = _read_resolution(metadata)
    if facts.title == facts.output_name:
        facts.title = ""
    return facts


def _parse(text: Any, kind: str) -> Any:
    """``text`` as the type of a field, None when it does not read as one. sd-scripts writes "None"."""
    if text is None or str(text) in ("", "None"):
        return None
    text = str(text)
    try:
        if kind.startswith("dict"):
            value = json.loads(text)
            return value if isinstance(value, dict) else None
        if kind.startswith("bool"):
            return {"True": True, "False": False}.get(text)
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            return float(text)
    except ValueError:
        return None
    return text


def _read_buckets(metadata: Mapping[str, str]) -> dict[str, int]:
    info = _parse(metadata.get("ss_bucket_info"), "dict") or {}
    rows = info.get("buckets")
    result = {}
    for row in rows.values() if isinstance(rows, dict) else []:
        if isinstance(row, dict) and isinstance(row.get("resolution"), list) and isinstance(row.get("count"), int):
            result["x".join(str(side) for side in row["resolution"])] = row["count"]
    return result


def _read_resolution(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    text = metadata.get("modelspec.resolution") or metadata.get("ss_resolution", "").strip("()").replace(", ", "x")
    sides = text.split("x")
    if not all(side.isdigit() for side in sides):
        return None
    return (int(sides[0]), int(sides[-1])) if len(sides) in (1, 2) else None


def family_of(metadata: Mapping[str, str]) -> str | None:
    """``sd1``, ``sd2`` or ``sdxl`` as A1111 and Forge read it from the metadata, None when untold.

    Unlike A1111, metadata that says nothing about the model is not taken for SD1.
    """
    version = metadata.get("ss_base_model_version", "")
    if version.startswith("sdxl"):
        return "sdxl"
    for start, family in _FAMILY_STARTS:
        if metadata.get("modelspec.architecture", "").startswith(start):
            return family
    if metadata.get("ss_v2") == "True" or version.startswith("sd_v2"):
        return "sd2"
    return "sd1" if version.startswith("sd_v1") or (metadata.get("ss_v2") == "False" and not version) else None


def model_hash(path: Path) -> str:
    """``sshs_model_hash``: hex SHA-256 of the bytes after the safetensors header.

    The rule of kohya-ss/sd-scripts (``library/train_util.py``, ``precalculate_safetensors_hashes``):
    the file is thought of as saved with its ``ss_*`` metadata alone. The bytes after the header do not
    depend on metadata, so this is the same for the finished file. Its first 12 digits are the hash
    that the WebUI writes into "Lora hashes" and Civitai calls AutoV3.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def legacy_hash(path: Path) -> str:
    """``sshs_legacy_hash``: first 8 hex digits of the SHA-256 of 0x10000 bytes at offset 0x100000.

    Counted from the start of the file, header included, so it does depend on the metadata: the rule
    (as for :func:`model_hash`) takes it from the file saved with its ``ss_*`` metadata alone. A file
    of less than 1 MiB has the hash of nothing, ``e3b0c442``.
    """
    with open(path, "rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
