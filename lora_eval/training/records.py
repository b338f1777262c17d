"""What is written about a run: the LoRA's metadata and ``run.json``."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

import lora_eval
from lora_eval.dataset.captions import tag_frequency
from lora_eval.dataset.folder import Item
from lora_eval.files import write_json
from lora_eval.host.protocol import BorrowedModel, Host, ModelInfo
from lora_eval.lora.metadata import TrainingFacts, build_metadata, legacy_hash
from lora_eval.training.config import TrainConfig, to_dict
from lora_eval.training.prepare import Material
from lora_eval.training.run import RunPaths

if TYPE_CHECKING:
    from lora_eval.training.result import TrainResult


@dataclass(frozen=True)
class RunFacts:
    """What stays the same over a run and is worth writing down.

    ``batches`` is that of an epoch; ``started`` is in seconds since 1970.
    """

    config: TrainConfig
    paths: RunPaths
    host: Host
    info: ModelInfo
    borrowed: BorrowedModel
    material: Material
    total: int
    batches: int
    started: float


def checkpoint_metadata(run: RunFacts, output_name: str, step: int, epoch: int) -> dict[str, str]:
    """Metadata of one checkpoint. Folder names only, no paths: LoRAs are shared with strangers."""
    config, material, info, borrowed = run.config, run.material, run.info, run.borrowed
    items = [picture.item for picture in material.concept]
    regular = [picture.item for picture in material.training if picture.item.regular]
    buckets: dict[str, int] = {}
    for picture in material.concept:
        size = f"{picture.bucket[0]}x{picture.bucket[1]}"
        buckets[size] = buckets.get(size, 0) + picture.item.repeats
    optimizer = "torch.optim.AdamW" if config.optimizer == "adamw" else config.optimizer
    facts = TrainingFacts(
        output_name=output_name,
        family=borrowed.family,
        prediction=borrowed.prediction,
        rank=config.lora_rank,
        alpha=config.alpha,
        conv_rank=config.conv_rank,
        conv_alpha=None if config.conv_rank is None else config.alpha * config.conv_rank / config.lora_rank,
        dropout=config.dropout or None,
        rank_stabilised=config.rank_stabilised or None,
        preset=config.preset,
        blocks=",".join(config.blocks),
        base_model=info.path.name if info.path is not None else info.name,
        base_model_sha256=info.sha256,
        base_model_legacy=legacy_hash(info.path) if info.path is not None and info.path.is_file() else "",
        dataset_dirs=_folders(items),
        reg_dataset_dirs=_folders(regular),
        tag_frequency=tag_frequency(items),
        buckets=dict(sorted(buckets.items())),
        resolution=material.resolution,
        num_train_images=sum(item.repeats for item in items),
        num_validation_images=len(material.held_out),
        num_reg_images=sum(item.repeats for item in regular),
        num_batches_per_epoch=run.batches,
        batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        gradient_checkpointing=config.gradient_checkpointing,
        cache_latents=True,
        num_epochs=config.epochs,
        epoch=epoch,
        steps=step,
        max_train_steps=run.total,
        learning_rate=config.learning_rate,
        optimizer=optimizer,
        lr_scheduler=config.lr_scheduler,
        lr_warmup_steps=config.warmup(run.total),
        max_grad_norm=config.max_grad_norm,
        min_snr_gamma=config.min_snr_gamma,
        caption_dropout=config.caption_dropout,
        tag_dropout=config.tag_dropout,
        shuffle_caption=config.shuffle_caption,
        keep_tokens=config.keep_tokens,
        flip=config.flip,
        random_crop=config.random_crop,
        no_upscale=config.no_upscale,
        noise_offset=config.noise_offset,
        prior_loss_weight=config.prior_loss_weight,
        mixed_precision=config.mixed_precision,
        seed=config.seed,
        session_id=int(run.started * 1000) % 2**32,
        started_at=run.started,
        finished_at=time.time(),
        trigger=config.trigger,
        class_word=config.class_word,
        kind=config.kind,
        references=material.dataset.root.resolve().name,
        history=run.paths.history.name,
    )
    return {**build_metadata(facts), "lora_eval_run": run.paths.folder.name, "lora_eval_host": run.host.info().name}


def _folders(items: Sequence[Item]) -> dict[str, dict[str, int]]:
    """Pictures and repeats by folder name, as kohya's metadata has them."""
    folders: dict[str, dict[str, int]] = {}
    for item in items:
        entry = folders.setdefault(item.path.parent.name, {"n_repeats": item.repeats, "img_count": 0})
        entry["img_count"] += 1
    return folders


def write_record(run: RunFacts, result: TrainResult) -> None:
    """Write ``run.json``: settings, versions, model, counts and how the run ended. Raises RunError."""
    who, info, material = run.host.info(), run.info, run.material
    write_json(
        run.paths.record,
        {
            "name": run.paths.name,
            "stopped": result.stopped,
            "message": result.message,
            "steps": result.steps,
            "total": result.total,
            "lora": result.lora.name,
            "checkpoints": [{"step": step, "file": path.name} for step, path in result.checkpoints],
            "best_validation": None if result.best is None else {"step": result.best[0], "loss": result.best[1]},
            "pictures": {
                "training": len(material.concept),
                "regularisation": len(material.training) - len(material.concept),
                "held_out": len(material.held_out),
            },
            "resolution": list(material.resolution),
            "model": {"name": info.name, "sha256": info.sha256, "family": info.family, "prediction": info.prediction},
            "host": {"name": who.name, "version": who.version, "device": who.device, "packages": who.packages},
            "versions": {
                "lora_eval": lora_eval.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            "started_at": run.started,
            "seconds": time.time() - run.started,
            "notes": result.notes,
            "config": to_dict(run.config),
        },
    )
