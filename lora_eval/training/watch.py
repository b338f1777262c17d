"""Test pictures measured while training goes on, so that overfitting is seen in pictures and not guessed from the loss.

Three numbers a step, each against the model before training, in ``samples.csv``:

* fidelity: 0 = as before training, 1 = as alike as the references are among themselves;
* diversity: mean distance between pictures of one prompt, over that of step 0; a fall is collapse;
* alignment: similarity to the prompt's text, over that of step 0; a fall is deafness. Empty where the encoder knows no
  texts.

Diversity and alignment fall while a concept is learnt, too. What speaks of overfitting is a fall that buys nothing:
an earlier step was as faithful and better in one of the three (:func:`decline`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lora_eval.encoders.protocol import Encoder
from lora_eval.errors import NoTexts
from lora_eval.files import write_text
from lora_eval.training.curve import Samples
from lora_eval.training.history import read_rows

if TYPE_CHECKING:
    from lora_eval.host.protocol import Host
    from lora_eval.training.config import TrainConfig

SAMPLES_FILE = "samples.csv"
COLUMNS = ("step", "fidelity", "diversity", "alignment", "clip_i", "distance", "clip_t")


class SampleWatch:
    """Measures the test pictures of each step. ``missing`` says what cannot be measured and why, "" for nothing.

    Args:
        path: ``samples.csv``.
        encoder: image and text encoder.
        references: pictures of the concept, held-out ones where there are any; at least one.
        texts: what each prompt asks for, class word in place of the trigger.
        resume_at: keep rows up to this step; None starts anew.
    """

    def __init__(
        self,
        path: Path,
        encoder: Encoder,
        references: Sequence[Image.Image],
        texts: Sequence[str],
        resume_at: int | None = None,
    ) -> None:
        self.path = path
        self._encoder = encoder
        self._references = encoder.embed_images(references)
        self._texts: np.ndarray | None = None
        self.missing = ""
        try:
            self._texts = encoder.embed_texts(list(texts))
        except NoTexts as why:
            self.missing = f"alignment of test pictures is not measured: {why}"
        self._ceiling = _mean_pairwise(self._references)
        self.rows: list[dict[str, float | None]] = []
        if resume_at is not None and path.is_file():
            self.rows = [row for row in read_rows(path) if row["step"] is not None and row["step"] <= resume_at]

    def measure(self, step: int, pictures: Sequence[Sequence[Image.Image]]) -> dict[str, float | None]:
        """Measure one step's pictures, a list for each prompt, and write the table. Raises RunError."""
        features = [self._encoder.embed_images(images) for images in pictures]
        row: dict[str, float | None] = {
            "step": step,
            "clip_i": float((np.concatenate(features) @ self._references.T).mean()),
            "clip_t": None,
        }
        if self._texts is not None:
            row["clip_t"] = float(np.mean([(f @ text).mean() for f, text in zip(features, self._texts, strict=True)]))
        spreads = [1 - spread for f in features if (spread := _mean_pairwise(f)) is not None]
        row["distance"] = float(np.mean(spreads)) if spreads else None
        self.rows = [old for old in self.rows if old["step"] != step]
        first = self.rows[0] if self.rows else row
        row["fidelity"] = _between(row["clip_i"], first["clip_i"], self._ceiling)
        row["diversity"] = _over(row["distance"], first["distance"])
        row["alignment"] = _over(row["clip_t"], first["clip_t"])
        self.rows.append(row)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([["" if (v := one.get(name)) is None else repr(v) for name in COLUMNS] for one in self.rows])
        write_text(self.path, text.getvalue())
        return row

    def decline(self) -> Decline | None:
        """:func:`decline` of what has been measured so far."""
        return decline(_samples(self.rows))


def load_watcher(
    host: Host, config: TrainConfig, name: str = "auto", say: Callable[[str], None] | None = None
) -> Encoder | None:
    """The encoder that ``measure_samples`` asks for, on the CPU so that training keeps its memory; None when off.

    Args:
        name: as in :func:`lora_eval.encoders.registry.load_encoder`; ``auto`` goes by the host's model and the size
            of the pictures.
        say: called with one line before a download.

    Raises:
        ConfigError, HostError: the encoder cannot be had; nothing has been trained yet.
    """
    if not config.measure_samples:
        return None
    from lora_eval.encoders.registry import load_encoder, resolve_encoder

    width = (config.resolution or host.native_size())[0]
    return load_encoder(resolve_encoder(name, host.model(), width), say=say)


@dataclass(frozen=True)
class Decline:
    """Test pictures that an earlier step beats.

    Attributes:
        best: the step that beats them: of those that do, the most faithful.
        since: the first of the measured steps that it (or another) has beaten in a row, up to the last one.
        count: how many steps that are.
        lower: what is lower at the last step than at ``best``, as "alignment 0.91 -> 0.70".
    """

    best: int
    since: int
    count: int
    lower: tuple[str, ...]

    def line(self) -> str:
        """For a person."""
        return f"test pictures since step {self.since} are worse than at step {self.best}: {', '.join(self.lower)}"


def decline(samples: Samples) -> Decline | None:
    """Whether the last measured test pictures are beaten by an earlier step; None when not or when it cannot be said.

    A step is beaten when an earlier one was at least as faithful and higher by more than ``samples.tolerance`` in
    fidelity, diversity or alignment: what has been learnt since then has cost something and brought nothing.
    """
    scores = [
        np.array([np.nan if v is None else float(v) for v in values], dtype=float)
        for values in (samples.fidelity, samples.diversity, samples.alignment)
        if values is not None
    ]
    names = [n for n in ("fidelity", "diversity", "alignment") if getattr(samples, n) is not None]
    if samples.fidelity is None:
        return None
    faithful = scores[0]

    def rivals(k: int) -> list[int]:
        return [
            e for e in range(k) if faithful[e] >= faithful[k] and any(s[e] - s[k] > samples.tolerance for s in scores)
        ]

    last = len(samples.step) - 1
    count = 0
    while last - count >= 0 and rivals(last - count):
        count += 1
    if not count:
        return None
    best = max(rivals(last), key=lambda e: (faithful[e], -e))
    lower = tuple(
        f"{name} {score[best]:.2f} -> {score[last]:.2f}"
        for name, score in zip(names, scores, strict=True)
        if score[best] - score[last] > samples.tolerance
    )
    return Decline(int(samples.step[best]), int(samples.step[last - count + 1]), count, lower)


def read_samples(path: Path) -> Samples | None:
    """``samples.csv`` as the diagnosis of the curve takes it; None when there is none. Raises RunError."""
    if not Path(path).is_file():
        return None
    return _samples(read_rows(path))


def samples_beside(path: Path | str) -> Samples | None:
    """The measured test pictures of the run that a history (or run folder) belongs to; None when there are none."""
    path = Path(path)
    return read_samples((path if path.is_dir() else path.parent) / SAMPLES_FILE)


def _samples(rows: Sequence[Mapping[str, float | None]]) -> Samples:
    def column(name: str) -> list[float]:
        return [np.nan if (value := row.get(name)) is None else float(value) for row in rows]

    return Samples(column("step"), column("fidelity"), column("diversity"), column("alignment"))


def _mean_pairwise(features: np.ndarray) -> float | None:
    """Mean cosine of all pairs; None below two."""
    if len(features) < 2:
        return None
    return float(np.mean([features[i] @ features[j] for i, j in combinations(range(len(features)), 2)]))


def _between(value: float | None, start: float | None, ceiling: float | None) -> float | None:
    if value is None or start is None or ceiling is None or ceiling - start < 0.01:
        # the references are no more like each other than like any picture: nothing to measure against
        return None
    return (value - start) / (ceiling - start)


def _over(value: float | None, start: float | None) -> float | None:
    return None if value is None or start is None or start <= 1e-6 else value / start
