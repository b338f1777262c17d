"""Features and pixel statistics of pictures, each computed once and kept by content hash.

What is computed together never depends on what is in the cache already: pictures are cut into fixed
chunks, and a chunk of which anything is missing is computed whole. So the last bit of a feature is the
same after an interrupt as without one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from lora_eval.encoders.protocol import Encoder
from lora_eval.host.protocol import Job
from lora_eval.scorecard.draw.store import RunFolder
from lora_eval.scorecard.features import pixels

CHUNK = 64
SAVE_EVERY = 16


@dataclass(frozen=True)
class Source:
    """A picture to be measured: ``key`` is its content hash (with the size where it is resized first)."""

    key: str
    open: Callable[[], Image.Image]


@dataclass
class Measured:
    """Row by row: features (n, D), styles (n, 12), distortions (n, 6), thumbs (n, 32, 32); all float32."""

    features: np.ndarray
    styles: np.ndarray
    distortions: np.ndarray
    thumbs: np.ndarray


@dataclass
class FeatureCache:
    """``features.npz``. Tables are ``<kind>|<space>|<column>`` with one row per key.

    ``encoder_id`` names the space; ``encoder`` is called when something is missing, so that a report
    made again needs no weights in memory.
    """

    folder: RunFolder
    encoder_id: str
    encoder: Callable[[], Encoder]
    _tables: dict[str, dict[str, dict[str, np.ndarray]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        arrays = self.folder.read_features()
        for name, values in arrays.items():
            table, _, column = name.rpartition("|")
            keys = arrays.get(f"{table}|key")
            if column != "key" and keys is not None and len(keys) == len(values):
                rows = dict(zip(map(str, keys), values, strict=True))
                self._tables.setdefault(table, {})[column] = rows

    def save(self) -> None:
        """Write the file. Raises RunError."""
        arrays: dict[str, np.ndarray] = {}
        for table, columns in self._tables.items():
            keys = sorted(set.intersection(*(set(values) for values in columns.values())))
            if not keys:
                continue
            arrays[f"{table}|key"] = np.array(keys)
            for column, values in columns.items():
                arrays[f"{table}|{column}"] = np.stack([values[key] for key in keys])
        self.folder.write_features(arrays)

    def table(self, kind: str, space: str, *columns: str) -> tuple[dict[str, np.ndarray], ...]:
        """The columns of a table, key -> row; made where missing."""
        found = self._tables.setdefault(f"{kind}|{space}", {})
        return tuple(found.setdefault(column, {}) for column in columns)

    def pictures(self, sources: Sequence[Source], job: Job | None = None, what: str = "pictures") -> Measured:
        """Measure every source, row by row. Raises whatever ``open`` raises, and Interrupted."""
        space = self.encoder_id.replace("|", "_")
        (features,) = self.table("image", space, "feature")
        stats = self.table("pixels", f"v{pixels.VERSION}", "style", "distortion", "thumb")
        unique = list({source.key: source for source in sources}.values())
        chunks = [unique[at : at + CHUNK] for at in range(0, len(unique), CHUNK)]
        todo = [chunk for chunk in chunks if any(s.key not in features or s.key not in stats[0] for s in chunk)]
        if todo:
            try:
                self._compute(todo, features, stats, job, what)
            finally:
                self.save()
        keys = [source.key for source in sources]
        return Measured(_rows(features, keys), *(_rows(column, keys) for column in stats))

    def _compute(
        self,
        chunks: list[list[Source]],
        features: dict[str, np.ndarray],
        stats: tuple[dict[str, np.ndarray], ...],
        job: Job | None,
        what: str,
    ) -> None:
        encoder = self.encoder()

        def prepare(source: Source) -> tuple[np.ndarray, pixels.PixelStats]:
            image = source.open()
            return encoder.prepare(image), pixels.describe(image)

        done, total = 0, sum(map(len, chunks))
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(prepare, source) for source in chunks[0]]
            for number, chunk in enumerate(chunks):
                if job is not None:
                    job.check()
                    job.say(f"measuring {what}: {done}/{total}")
                ready = [future.result() for future in waiting]
                # the next chunk is decoded and prepared while the encoder works on this one
                following = chunks[number + 1] if number + 1 < len(chunks) else []
                waiting = [pool.submit(prepare, source) for source in following]
                encoded = encoder.encode(np.stack([prepared for prepared, _ in ready]))
                for source, feature, (_, stat) in zip(chunk, encoded, ready, strict=True):
                    features[source.key] = feature
                    values = (stat.style, stat.distortion, stat.thumb)
                    for column, value in zip(stats, values, strict=True):
                        column[source.key] = value
                done += len(chunk)
                if number % SAVE_EVERY == SAVE_EVERY - 1:
                    self.save()
        if job is not None:
            job.say(f"measured {total} {what}")

    def texts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Text -> (D,) unit feature. All are embedded together when any is missing. Raises NoTexts."""
        (table,) = self.table("text", self.encoder_id.replace("|", "_"), "feature")
        unique = sorted(set(texts))
        keys = [hashlib.sha256(text.encode("utf-8")).hexdigest() for text in unique]
        if any(key not in table for key in keys):
            for key, feature in zip(keys, self.encoder().embed_texts(unique), strict=True):
                table[key] = feature
            self.save()
        return {text: table[key] for text, key in zip(unique, keys, strict=True)}


def _rows(table: dict[str, np.ndarray], keys: list[str]) -> np.ndarray:
    return np.stack([table[key] for key in keys]).astype(np.float32)
