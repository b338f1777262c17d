"""Pictures and captions through the host's encoders, each once.

Everything encoded is cached, in memory for the run and on disk for the next one. A cache entry is found by what
it was made from: content of the picture, bucket, crop and flip, and a fingerprint of the encoder, which is the
encoding of a fixed probe. So another VAE, clip skip or checkpoint never meets a stale entry, even on hosts that know
no hash of their model.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from lora_eval.dataset import buckets
from lora_eval.dataset.folder import Item
from lora_eval.dataset.images import open_picture
from lora_eval.errors import DatasetError, RunError
from lora_eval.files import atomic_path, file_sha256
from lora_eval.host.protocol import BorrowedModel, Conditioning
from lora_eval.log import logger

CROPS = ((0.5, 0.5), (0.0, 0.0), (1.0, 1.0), (0.25, 0.75), (0.75, 0.25))
# 2: colours by profile
_FORMAT = "2"
_PROBE = "a photo of (a fox:1.2), [blurry], 1girl"
_TEXT_BYTES = 256 << 20
_CACHE_BYTES = 4 << 30


class Cache:
    """Tensors by key in a folder; ``folder`` None keeps nothing. A broken entry is made again."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.hits = 0
        self.misses = 0

    def get(self, key: str, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors of ``key``, read or made (and then written). Raises RunError when writing fails."""
        if self.folder is None:
            self.misses += 1
            return make()
        path = self.folder / key[:2] / f"{key}.safetensors"
        if path.is_file():
            try:
                tensors = load_file(path)
            except Exception as error:  # safetensors raises its own type, which differs between releases
                logger.warning("cache entry %s is broken (%s); it is made again", path, error)
            else:
                self.hits += 1
                return tensors
        self.misses += 1
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in make().items()}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
        return tensors


def _digest(*parts: object) -> str:
    return hashlib.sha256("\x1f".join(str(part) for part in parts).encode("utf-8", "surrogatepass")).hexdigest()


def _fingerprint(tensors: Sequence[torch.Tensor | None]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            digest.update(np.ascontiguousarray(tensor.detach().float().cpu().numpy()).tobytes())
    return digest.hexdigest()


def trim_cache(folder: Path, limit: int = _CACHE_BYTES) -> int:
    """Remove the entries longest unused until the folder holds at most ``limit`` bytes. Returns how many."""
    entries = []
    for path in folder.glob("??/*.safetensors"):
        with contextlib.suppress(OSError):
            state = path.stat()
            entries.append((max(state.st_mtime, state.st_atime), state.st_size, path))
    total, removed = sum(size for _, size, _ in entries), 0
    for _, size, path in sorted(entries):
        if total <= limit:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total, removed = total - size, removed + 1
    return removed


class TextEncodings:
    """Captions through the host's text encoder, one at a time, remembered.

    Encoding one caption at a time keeps its bits independent of the captions beside it in a batch.
    """

    def __init__(self, borrowed: BorrowedModel, cache: Cache, model_key: str) -> None:
        self._borrowed = borrowed
        self._cache = cache
        self._sized = borrowed.family == "sdxl"
        self._memory: OrderedDict[tuple[str, int, int], Conditioning] = OrderedDict()
        self._bytes = 0
        probe = borrowed.encode_text([_PROBE], 256, 256)
        self._model = _digest(_FORMAT, "text", model_key, _fingerprint([probe.context, probe.vector]))

    def one(self, caption: str, size: tuple[int, int], keep: bool = True) -> Conditioning:
        """Encoding of one caption, (1, T, D) on the CPU.

        Args:
            caption: the text.
            size: (width, height) in pixels, matters to SDXL alone.
            keep: also keep it on disk; off for shuffled captions, which hardly come back.
        """
        width, height = size if self._sized else (0, 0)
        key = (caption, width, height)
        found = self._memory.get(key)
        if found is not None:
            self._memory.move_to_end(key)
            return found

        def make() -> dict[str, torch.Tensor]:
            encoded = self._borrowed.encode_text([caption], *size)
            tensors = {"context": encoded.context}
            if encoded.vector is not None:
                tensors["vector"] = encoded.vector
            return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

        name = _digest(self._model, caption, width, height)
        tensors = self._cache.get(name, make) if keep else make()
        found = Conditioning(tensors["context"], tensors.get("vector"))
        self._memory[key] = found
        self._bytes += _bytes(found)
        while self._bytes > _TEXT_BYTES and len(self._memory) > 1:
            self._bytes -= _bytes(self._memory.popitem(last=False)[1])
        return found

    def batch(self, captions: Sequence[str], size: tuple[int, int], keep: bool = True) -> Conditioning:
        """Encodings of a batch. Shorter ones are filled up with the empty prompt's, as the WebUI fills chunks."""
        parts = [self.one(caption, size, keep) for caption in captions]
        longest = max(part.context.shape[1] for part in parts)
        contexts = []
        for part in parts:
            context = part.context
            while context.shape[1] < longest:
                filler = self.one("", size).context[:, : longest - context.shape[1]]
                context = torch.cat([context, filler.to(context.dtype)], dim=1)
            contexts.append(context)
        vectors = [part.vector for part in parts if part.vector is not None]
        if vectors and len(vectors) != len(parts):
            raise RuntimeError("the host gave a pooled vector for some captions only")
        return Conditioning(torch.cat(contexts), torch.cat(vectors) if vectors else None)


def _bytes(encoding: Conditioning) -> int:
    return sum(t.numel() * t.element_size() for t in (encoding.context, encoding.vector) if t is not None)


@dataclass
class EncodedPicture:
    """One picture in latent space.

    Attributes:
        item: where it came from.
        sha256: hash of the file's content: its name in caches and in seeds.
        size: (width, height) of the picture on disk; ``placement`` says what became of it.
        variants: (V, 4, h, w) float32 latents: crops, then the same crops mirrored when flipping is on.
        crops: number of crops among the variants.
        masks: (V, 1, h, w) float32 in [0, 1], how much each latent cell is learnt; None: all of it.
    """

    item: Item
    sha256: str
    size: tuple[int, int]
    placement: buckets.Placement
    variants: torch.Tensor
    crops: int = 1
    masks: torch.Tensor | None = None

    @property
    def bucket(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.placement.bucket


@dataclass
class Encoded:
    """A dataset in latent space, with the text encodings made on demand."""

    pictures: list[EncodedPicture]
    texts: TextEncodings
    cache: Cache
    notes: list[str] = field(default_factory=list)

    def bucket_info(self) -> dict[str, object]:
        """kohya's ``ss_bucket_info``: resolution and count of each bucket, repeats counted."""
        counts: dict[tuple[int, int], int] = {}
        for picture in self.pictures:
            counts[picture.bucket] = counts.get(picture.bucket, 0) + picture.item.repeats
        rows = {str(i): {"resolution": list(b), "count": counts[b]} for i, b in enumerate(sorted(counts))}
        return {"buckets": rows}


@dataclass(frozen=True)
class Variations:
    """Which forms of a picture are encoded.

    Attributes:
        flip: also mirrored (a mirrored latent is not the latent of the mirrored picture).
        random_crop: also four off-centre crops of pictures that do not fill their bucket exactly.
        no_upscale: smaller buckets for small pictures instead of enlarging them.
    """

    flip: bool = False
    random_crop: bool = False
    no_upscale: bool = False


def encode(
    items: Sequence[Item],
    borrowed: BorrowedModel,
    resolution: tuple[int, int],
    model_key: str = "",
    cache_folder: Path | None = None,
    variations: Variations = Variations(),
    progress: Callable[[int, int], None] | None = None,
) -> Encoded:
    """Encode pictures once; captions are encoded when first asked for.

    Args:
        items: pictures in the order of the result.
        resolution: (width, height) the model is trained at; buckets are made from its area.
        model_key: the checkpoint's hash where known, part of the cache key.
        cache_folder: where encodings are kept between runs; None keeps them in memory only.
        variations: which forms of each picture are encoded.
        progress: called with (pictures done, all), may raise to stop.

    Raises:
        DatasetError: a picture cannot be read; RunError: the cache cannot be written.
    """
    cache = Cache(cache_folder)
    step = buckets.bucket_step(resolution)
    sizes = buckets.make_buckets(resolution, step)
    probe = borrowed.encode_images(_probe_picture())
    vae = _digest(_FORMAT, "latent", model_key, _fingerprint([probe]))
    texts = TextEncodings(borrowed, cache, model_key)
    encoded = Encoded([], texts, cache)
    for number, item in enumerate(items, 1):
        encoded.pictures.append(_encode_picture(item, borrowed, cache, vae, sizes, step, variations))
        if progress is not None:
            progress(number, len(items))
    enlarged = [p for p in encoded.pictures if p.placement.scale > 1.001]
    if enlarged:
        most = max(enlarged, key=lambda p: p.placement.scale)
        encoded.notes.append(
            f"{len(enlarged)} of {len(items)} pictures are enlarged to fit (most: {most.item.path.name}, "
            f"{most.placement.scale:.2f} times); set no_upscale: true to train them at their own size"
        )
    return encoded


def _probe_picture() -> torch.Tensor:
    ramp = torch.linspace(0, 1, 64)
    return torch.stack([ramp.expand(64, 64), ramp.expand(64, 64).T, (ramp * 13 % 1).expand(64, 64)])[None].contiguous()


def _encode_picture(
    item: Item,
    borrowed: BorrowedModel,
    cache: Cache,
    vae: str,
    sizes: list[tuple[int, int]],
    step: int,
    variations: Variations,
) -> EncodedPicture:
    image = open_picture(item.path)
    try:
        sha = file_sha256(item.path)
    except OSError as error:
        raise DatasetError(f"cannot read {item.path}: {error.strerror}") from error
    placement = buckets.place(image.size, sizes, step, variations.no_upscale)
    crops = CROPS if variations.random_crop and placement.scaled != placement.bucket else CROPS[:1]
    mask_image = None if item.mask is None else _open_mask(item.mask, image.size)
    variants, masks = [], []
    for mirrored in (False, True)[: 2 if variations.flip else 1]:
        for crop in crops:

            def make(crop: tuple[float, float] = crop, mirrored: bool = mirrored) -> dict[str, torch.Tensor]:
                pixels = buckets.fit(image, placement, crop)
                if mirrored:
                    pixels = np.ascontiguousarray(pixels[:, :, ::-1])
                latent = borrowed.encode_images(torch.from_numpy(pixels)[None])
                return {"latent": latent.detach().float().cpu().clone()}

            key = _digest(vae, sha, placement.bucket, placement.scaled, crop, mirrored)
            latent = cache.get(key, make)["latent"]
            if not torch.isfinite(latent).all():
                raise RunError(
                    f"the VAE turned {item.path} into NaN; use a VAE in full precision (--no-half-vae) "
                    "or remove the picture"
                )
            variants.append(latent)
            if mask_image is not None:
                masks.append(_mask_cells(mask_image, placement, crop, mirrored, latent.shape[-2:]))
                if float(masks[-1].sum()) < 0.5:
                    raise DatasetError(f"{item.mask} leaves nothing to learn (all black); paint white what to learn")
    mask = torch.cat(masks) if masks else None
    return EncodedPicture(item, sha, image.size, placement, torch.cat(variants), len(crops), mask)


def _open_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    mask = open_picture(path)
    if abs(mask.width * size[1] / (mask.height * size[0]) - 1) > 0.01:
        raise DatasetError(
            f"{path} is {mask.width} x {mask.height}, its picture {size[0]} x {size[1]}; draw it to the same shape"
        )
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)


def _mask_cells(
    mask: Image.Image, placement: buckets.Placement, crop: tuple[float, float], mirrored: bool, cells: Sequence[int]
) -> torch.Tensor:
    """(1, 1, h, w): share of white in each latent cell."""
    grey = torch.from_numpy(buckets.fit(mask, placement, crop)).mean(0)[None, None].clamp(0, 1)
    found = torch.nn.functional.adaptive_avg_pool2d(grey.flip(-1) if mirrored else grey, (cells[0], cells[1]))
    return found
