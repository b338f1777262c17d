"""Second opinions on fidelity, used where their package and weights are on the machine already.

Nothing is downloaded and nothing is installed: what is missing is said, with how to get it.

* ``dino``: DINOv2 ViT-S/14 (arXiv 2304.07193) by timm, which open_clip brings along. It looks at form
  more than CLIP does; DreamBooth and peft's method comparison judge subjects by it.
* ``face``: InsightFace's buffalo_l, for characters. Same person from about 0.5, strangers about 0.13
  (deepinsight/insightface#168); a picture without a face counts as not detected, never as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lora_eval.errors import DatasetError
from lora_eval.scorecard.draw.store import RunFolder, content_hash
from lora_eval.scorecard.features.cache import AnyEncoder, FeatureCache, Source
from lora_eval.scorecard.features.references import fit

DINO = "vit_small_patch14_dinov2.lvd142m"
DINO_SIDE = 224
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


class Missing(Exception):
    """Why an encoder is not there, and how to get it."""


class _Dino:
    id = "dinov2-vits14"
    dim = 384

    def __init__(self) -> None:
        try:
            import timm
            from huggingface_hub import try_to_load_from_cache
        except ImportError as error:
            raise Missing(f"DINOv2 needs timm ({error}); pip install timm") from None
        cached = (try_to_load_from_cache(f"timm/{DINO}", name) for name in ("model.safetensors",))
        if not any(isinstance(path, str) for path in cached):
            raise Missing(f"DINOv2 weights are not on this machine; get them once with: hf download timm/{DINO}")
        self._model: Any = timm.create_model(DINO, pretrained=True, num_classes=0, img_size=DINO_SIDE).eval()

    def prepare(self, image: Image.Image) -> np.ndarray:
        from lora_eval.encoders.embed import preprocess

        return preprocess(image, DINO_SIDE, _MEAN, _STD)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return _unit(self._model(torch.from_numpy(batch)).float().cpu().numpy())

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        raise NotImplementedError("DINOv2 knows no text")


class _Face:
    id = "buffalo_l"
    dim = 512

    def __init__(self) -> None:
        try:
            from insightface.app import FaceAnalysis
        except ImportError:
            raise Missing("InsightFace is not installed; pip install insightface onnxruntime") from None
        if not (Path.home() / ".insightface" / "models" / "buffalo_l").is_dir():
            raise Missing("InsightFace's buffalo_l models are not in ~/.insightface/models; put them there")
        self._app: Any = FaceAnalysis(name="buffalo_l", allowed_modules=["detection", "recognition"])
        self._app.prepare(ctx_id=-1)

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])

    def encode(self, batch: np.ndarray) -> np.ndarray:
        rows = np.full((len(batch), self.dim), np.nan, np.float32)
        for at, picture in enumerate(batch):
            faces = self._app.get(picture)
            if faces:
                # the largest face is the subject's
                largest = max(faces, key=lambda face: (face.bbox[2] - face.bbox[0]) * (face.bbox[3] - face.bbox[1]))
                rows[at] = largest.normed_embedding
        return rows

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        raise NotImplementedError("InsightFace knows no text")


REGISTRY: dict[str, tuple[tuple[str, ...], Callable[[], AnyEncoder]]] = {
    "dino": (("style", "character", "object"), _Dino),
    "face": (("character",), _Face),
}
"""Name in ``RunData.extra`` -> the kinds it judges, and how it is made (raises Missing)."""


def measure_extras(
    folder: RunFolder, kind: str, sources: Sequence[Source], references: Sequence[Path], size: tuple[int, int]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, str]]:
    """Features of pictures and references by every second encoder that is there.

    Returns:
        name -> (N, D) of the pictures, name -> (R, D) of the references, name -> why not measured.
    """
    pictures: dict[str, np.ndarray] = {}
    of_references: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    for name, (kinds, make) in REGISTRY.items():
        if kind not in kinds:
            continue
        try:
            encoder = make()
        except Missing as why:
            missing[name] = f"not measured: {why}"
            continue
        readable = [path for path in references if _readable(path, size)]
        if not readable:
            missing[name] = "not measured: no reference pictures"
            continue
        cache = FeatureCache(folder, encoder.id, lambda encoder=encoder: encoder)  # type: ignore[misc]
        shown = [
            Source(f"{content_hash(path)}@{size[0]}x{size[1]}", lambda path=path: fit(path, size))  # type: ignore[misc]
            for path in readable
        ]
        pictures[name] = cache.pictures(sources).features
        of_references[name] = cache.pictures(shown).features
    return pictures, of_references, missing


def _readable(path: Path, size: tuple[int, int]) -> bool:
    try:
        fit(path, size)
    except DatasetError:
        return False
    return True


def _unit(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12), np.float32)
