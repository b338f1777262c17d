"""DINOv2 ViT-S/14 (Oquab et al. 2023, arXiv:2304.07193) by timm, which open_clip brings along.

It looks at form more than CLIP does; DreamBooth and peft's method comparison judge subjects by it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from lora_eval.encoders.protocol import Encoder, EncoderSpec, MissingEncoder, preprocess, unit

WEIGHTS = "vit_small_patch14_dinov2.lvd142m"
SIDE = 224
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


class Dinov2(Encoder):
    """Pictures alone, (3, 224, 224) to 384 numbers."""

    id = "dinov2-vits14"
    dim = 384

    def __init__(self, device: str = "cpu", batch_size: int = 64) -> None:
        try:
            import timm
            from huggingface_hub import try_to_load_from_cache
        except ImportError as error:
            raise MissingEncoder(f"DINOv2 needs timm ({error}); pip install timm") from None
        cached = (try_to_load_from_cache(f"timm/{WEIGHTS}", name) for name in ("model.safetensors",))
        if not any(isinstance(path, str) for path in cached):
            raise MissingEncoder(
                f"DINOv2 weights are not on this machine; get them once with: hf download timm/{WEIGHTS}"
            )
        self._model: Any = timm.create_model(WEIGHTS, pretrained=True, num_classes=0, img_size=SIDE).eval().to(device)
        self._device, self.batch_size = device, batch_size

    def prepare(self, image: Image.Image) -> np.ndarray:
        return preprocess(image, SIDE, _MEAN, _STD)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return unit(self._model(torch.from_numpy(batch).to(self._device)).float().cpu().numpy())


SPEC = EncoderSpec("dinov2", Dinov2.id, Dinov2, "dino", ("style", "character", "object"))
