"""InsightFace's buffalo_l, for characters.

Same person from about 0.5, strangers about 0.13 (deepinsight/insightface#168); a picture without a face counts as not
detected, never as 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lora_eval.encoders.protocol import Encoder, EncoderSpec, MissingEncoder


class InsightFace(Encoder):
    """Pictures alone, of any size, to the 512 numbers of their largest face; NaN without a face."""

    id = "buffalo_l"
    dim = 512
    # pictures keep their size, so each is a batch of its own
    batch_size = 1

    def __init__(self, device: str = "cpu", batch_size: int = 1) -> None:
        try:
            from insightface.app import FaceAnalysis
        except ImportError:
            raise MissingEncoder("InsightFace is not installed; pip install insightface onnxruntime") from None
        if not (Path.home() / ".insightface" / "models" / "buffalo_l").is_dir():
            raise MissingEncoder("InsightFace's buffalo_l models are not in ~/.insightface/models; put them there")
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


# no name of its own: a picture without a face has no feature, which the first encoder of a scorecard must give
SPEC = EncoderSpec("", InsightFace.id, InsightFace, "face", ("character",))
