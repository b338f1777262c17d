"""From a config to everything the loop needs: pictures, split, encodings, network."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lora_eval.dataset.encode import Encoded, EncodedPicture, Variations, encode, trim_cache
from lora_eval.dataset.folder import Dataset, Item, scan
from lora_eval.dataset.quality import duplicate_groups, look, near_duplicates
from lora_eval.dataset.split import auto_fraction, split
from lora_eval.errors import ConfigError, DatasetError, HostError
from lora_eval.host.protocol import BorrowedModel, Host, Job, ModelInfo
from lora_eval.lora.files import check_fits, load_lora
from lora_eval.lora.layers import LoraNetwork, LoraOptions, Naming
from lora_eval.lora.targets import find_targets
from lora_eval.training.config import TrainConfig
from lora_eval.training.randomness import derive
from lora_eval.training.run import cache_folder


@dataclass
class Material:
    """Pictures in latent space, split.

    Attributes:
        dataset: as scanned.
        training, held_out: encoded pictures.
        encoded: the encodings of both with the captions' encoder.
        resolution: (width, height) trained at.
        fingerprint: of contents, captions, repeats and split; what a resumed run must find again.
    """

    dataset: Dataset
    training: list[EncodedPicture]
    held_out: list[EncodedPicture]
    encoded: Encoded
    resolution: tuple[int, int]
    fingerprint: str
    notes: list[str] = field(default_factory=list)

    @property
    def concept(self) -> list[EncodedPicture]:
        """The training pictures without the regularisation pictures."""
        return [picture for picture in self.training if not picture.item.regular]


def check_model(config: TrainConfig, info: ModelInfo) -> None:
    """Make sure that ``base_model`` names the checkpoint that the host holds. Raises HostError."""
    if not config.base_model:
        return
    wanted = Path(config.base_model.replace("\\", "/"))
    names = {info.name.casefold(), Path(info.name).stem.casefold()}
    if info.path is not None:
        names |= {info.path.name.casefold(), info.path.stem.casefold()}
    asked = {wanted.name.casefold(), wanted.stem.casefold()}
    # the WebUI shows titles such as "folder/model.safetensors [6ce0161689]"
    if asked & names or any(wanted.stem.casefold() in name for name in names):
        return
    raise HostError(
        f"base_model is {config.base_model}, but {info.name} is loaded; load that checkpoint, or remove base_model to "
        "train on the one in memory"
    )


def read_items(config: TrainConfig) -> tuple[Dataset, list[Item], list[str]]:
    """The pictures to use, captions completed by the trigger. Raises DatasetError."""
    dataset = scan(config.train_data_dir, config.metadata_path, config.caption_extension)
    dataset.require()
    empty = sum(not item.caption for item in dataset.items)
    notes = []
    items = dataset.items
    if empty:
        if config.trigger:
            items = [item if item.caption else replace(item, caption=config.trigger) for item in items]
            notes.append(f"{empty} picture(s) without a caption get the trigger {config.trigger!r} alone")
        elif empty == len(items):
            raise DatasetError(
                f"no picture in {dataset.root} has a caption; write metadata.csv, a .txt beside each picture, "
                "or set trigger"
            )
        else:
            notes.append(f"{empty} picture(s) have no caption and are trained with an empty prompt")
    for one in dataset.left_out:
        if one.severity == "warning":
            notes.append(f"{one.name}: {one.message}; {one.mend}" if one.name else f"{one.message}; {one.mend}")
    return dataset, items, notes


def regular_items(config: TrainConfig, shown: int) -> tuple[list[Item], list[str]]:
    """Regularisation pictures with repeats such that an epoch shows ``shown`` of them in all.

    Pictures without a caption get the class word. Raises DatasetError.
    """
    if not config.reg_data_dir:
        return [], []
    dataset = scan(config.reg_data_dir, extension=config.caption_extension)
    dataset.require()
    used = dataset.items[:shown]
    each, more = divmod(shown, len(used))
    items = [
        replace(item, caption=item.caption or config.class_word, repeats=each + (i < more), regular=True)
        for i, item in enumerate(used)
    ]
    notes = [f"{len(items)} regularisation picture(s), {shown} shown an epoch"]
    if len(used) < len(dataset.items):
        notes.append(f"{len(dataset.items) - len(used)} more regularisation picture(s) are not used")
    return items, notes


def prepare(config: TrainConfig, host: Host, borrowed: BorrowedModel, info: ModelInfo, job: Job) -> Material:
    """Scan, split, encode. Raises DatasetError, ConfigError, RunError, Interrupted."""
    dataset, items, notes = read_items(config)
    resolution = config.resolution or host.native_size()
    training, held_out = _split(config, items, job)
    regular, more = regular_items(config, sum(items[i].repeats for i in training))
    notes += more
    training = training + list(range(len(items), len(items) + len(regular)))
    items = items + regular

    def progress(done: int, total: int) -> None:
        job.say(f"encoding picture {done} of {total}")
        job.check()

    cache = cache_folder(host) if config.cache_latents_to_disk else None
    if cache is not None:
        trim_cache(cache)
    encoded = encode(
        items,
        borrowed,
        resolution,
        model_key=info.sha256 or info.name,
        cache_folder=cache,
        variations=Variations(config.flip, config.random_crop, config.no_upscale),
        progress=progress,
    )
    digest = hashlib.sha256(repr((resolution, sorted(held_out))).encode())
    for picture in encoded.pictures:
        item = picture.item
        digest.update(f"{picture.sha256}\x1f{item.caption}\x1f{item.repeats}\x1f{item.regular}\n".encode())
        if picture.masks is not None:
            digest.update(picture.masks.numpy().tobytes())
    pictures = encoded.pictures
    return Material(
        dataset,
        [pictures[i] for i in training],
        [pictures[i] for i in held_out],
        encoded,
        resolution,
        digest.hexdigest(),
        notes + encoded.notes,
    )


def _split(config: TrainConfig, items: Sequence[Item], job: Job) -> tuple[list[int], list[int]]:
    fraction = auto_fraction(len(items)) if config.validation_fraction is None else config.validation_fraction
    if fraction == 0:
        return list(range(len(items))), []
    looks = []
    for number, item in enumerate(items, 1):
        job.say(f"looking at picture {number} of {len(items)}")
        job.check()
        looks.append(look(item.path))
    groups = duplicate_groups(len(items), near_duplicates(looks))
    return split(items, fraction, config.seed, [one.sha256 for one in looks], groups)


def make_network(config: TrainConfig, borrowed: BorrowedModel) -> tuple[LoraNetwork, list[str]]:
    """The LoRA, from a random start or from ``init_lora``. Raises ConfigError, LoraFileError."""
    targets = find_targets(borrowed.unet, config.preset, config.blocks or None)
    network = LoraNetwork(
        borrowed.unet,
        targets,
        rank=config.lora_rank,
        alpha=config.alpha,
        seed=derive(config.seed, "lora"),
        device=borrowed.device,
        options=LoraOptions(
            conv_rank=config.conv_rank,
            conv_alpha=None if config.conv_rank is None else config.alpha * config.conv_rank / config.lora_rank,
            dropout=config.dropout,
            rank_stabilised=config.rank_stabilised,
        ),
        naming=Naming(layout=borrowed.layout, family=borrowed.family),
    )
    notes: list[str] = []
    if config.init_lora:
        notes.append(_start_from(network, Path(config.init_lora).expanduser(), borrowed, config))
    network.requires_grad_(True).train()
    return network, notes


def _start_from(network: LoraNetwork, path: Path, borrowed: BorrowedModel, config: TrainConfig) -> str:
    lora = load_lora(path)
    hit = check_fits(lora, find_targets(borrowed.unet, "all"), borrowed.layout, borrowed.family)
    outside = sorted(set(hit) - set(network.layers))
    if outside:
        raise ConfigError(
            f"init_lora {path} trains {len(outside)} layer(s) that preset {config.preset} does not "
            f"(first: {outside[0]}); "
            "choose the preset it was trained with"
        )
    ranks = {layer.target.path: layer.rank for layer in network.layers.values()}
    if all(pair.rank == ranks[place] for place, pair in hit.items()):
        network.load(lora.unet_tensors, str(path))
        return f"started from {path} (rank {lora.rank})"
    loaded = network.load_resized(lora.unet_tensors, str(path))
    kept = min(loaded.kept_energy.values(), default=1.0)
    return (
        f"started from {path}, rank {lora.rank} brought to {config.lora_rank}: at least {kept:.1%} of each layer kept"
    )
