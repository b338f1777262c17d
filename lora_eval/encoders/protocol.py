"""What an encoder is: pictures, and texts where it knows them, to unit features of one space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lora_eval.errors import LoraEvalError, NoTexts


class Encoder(ABC):
    """Pictures to unit features. A subclass gives ``id``, ``dim``, :meth:`prepare` and :meth:`encode`.

    Attributes:
        id: under which features are stored; it changes when weights or formula do.
        dim: length of a feature.
        batch_size: pictures in one pass.
    """

    id: str
    dim: int
    batch_size: int = 64

    @abstractmethod
    def prepare(self, image: Image.Image) -> np.ndarray:
        """A picture as the encoder wants it; thread-safe, so that pictures are prepared while others are encoded."""

    @abstractmethod
    def encode(self, batch: np.ndarray) -> np.ndarray:
        """(n, ...) prepared pictures -> (n, dim) float32 of unit length; NaN rows for what is not in a picture."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dim) float32 of unit length, in the space of the pictures.

        Raises:
            NoTexts: the encoder knows pictures alone; what compares with texts is then not measured.
        """
        raise NoTexts(f"the encoder {self.id} knows no texts; name an open_clip model as encoder")

    def embed_images(self, images: Iterable[Image.Image]) -> np.ndarray:
        """(n, dim) float32 of unit length; the next batch is prepared while this one is encoded."""
        chunks = _chunks(images, self.batch_size)
        found: list[np.ndarray] = []
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self._prepare_next, chunks)
            while (batch := waiting.result()) is not None:
                waiting = pool.submit(self._prepare_next, chunks)
                found.append(self.encode(batch))
        return np.concatenate(found) if found else np.zeros((0, self.dim), np.float32)

    def _prepare_next(self, chunks: Iterator[list[Image.Image]]) -> np.ndarray | None:
        chunk = next(chunks, None)
        return np.stack([self.prepare(image) for image in chunk]) if chunk else None


class MissingEncoder(LoraEvalError):
    """Why an encoder is not there, and how to get it."""


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder that is chosen by one name. Its file ends in one, which ``registry.py`` lists.

    Attributes:
        name: what ``--encoder`` takes.
        id: see :attr:`Encoder.id`; known without loading anything.
        load: (device, pictures in one pass) -> encoder; raises MissingEncoder where package or weights are not there.
        second: name in ``RunData.extra`` where it also gives a second opinion; "" where it does not.
        kinds: the kinds of concept that it judges as second opinion.
    """

    name: str
    id: str
    load: Callable[[str, int], Encoder]
    second: str = ""
    kinds: tuple[str, ...] = ()


def preprocess(image: Image.Image, size: int, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(3, size, size) float32: shorter side to ``size`` by Pillow's antialiased bicubic, centre cut out."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    width, height = image.size
    if min(width, height) != size:
        scale = size / min(width, height)
        shape = (size, int(height * scale)) if width <= height else (int(width * scale), size)
        image = image.resize(shape, Image.Resampling.BICUBIC)
        width, height = image.size
    if width != height:
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    pixels = np.asarray(image, np.float32) / 255
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


def _chunks(images: Iterable[Image.Image], size: int) -> Iterator[list[Image.Image]]:
    chunk: list[Image.Image] = []
    for image in images:
        chunk.append(image)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def unit(values: np.ndarray) -> np.ndarray:
    """(n, d) rows brought to length 1, as float32."""
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12), np.float32)
