"""Which pictures a step sees: epochs of batches, one bucket a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lora_eval.training.randomness import python_random


@dataclass(frozen=True)
class Batch:
    """Indices of pictures of one bucket. ``epoch`` and ``number`` are 0-based, ``number`` counts all batches."""

    epoch: int
    number: int
    indices: tuple[int, ...]


class Order:
    """The data order of a whole run, found from the seed alone at any place.

    Each epoch shows every picture ``repeats`` times, shuffled inside its bucket, cut into batches, the batches
    shuffled. The last batch of a bucket may be smaller. With one bucket an epoch has ceil(sum of repeats / batch)
    batches.
    """

    def __init__(self, buckets: Sequence[tuple[int, int]], repeats: Sequence[int], batch_size: int, seed: int) -> None:
        self._seed, self._batch_size = seed, batch_size
        self._by_bucket: dict[tuple[int, int], list[int]] = {}
        for index, (bucket, times) in enumerate(zip(buckets, repeats, strict=True)):
            self._by_bucket.setdefault(bucket, []).extend([index] * times)
        self.shown_per_epoch = sum(repeats)
        self.batches_per_epoch = sum(-(-len(shown) // batch_size) for shown in self._by_bucket.values())
        self._epoch: tuple[int, list[tuple[int, ...]]] | None = None

    def _batches(self, epoch: int) -> list[tuple[int, ...]]:
        if self._epoch is None or self._epoch[0] != epoch:
            rng = python_random(self._seed, "order", epoch)
            batches = []
            for bucket in sorted(self._by_bucket):
                shown = list(self._by_bucket[bucket])
                rng.shuffle(shown)
                batches += [tuple(shown[i : i + self._batch_size]) for i in range(0, len(shown), self._batch_size)]
            rng.shuffle(batches)
            self._epoch = (epoch, batches)
        return self._epoch[1]

    def batch(self, number: int) -> Batch:
        """Batch ``number`` (0-based) of the endless run."""
        epoch, place = divmod(number, self.batches_per_epoch)
        return Batch(epoch, number, self._batches(epoch)[place])

    def total_steps(self, epochs: int, accumulation: int, max_steps: int | None = None) -> int:
        """Updates in ``epochs`` passes, ``accumulation`` batches each, at most ``max_steps``."""
        steps = -(-epochs * self.batches_per_epoch // accumulation)
        return steps if max_steps is None else min(steps, max_steps)

    def ends_epoch(self, step: int, accumulation: int, every: int) -> bool:
        """Whether update ``step`` (1-based) is the first one at whose end ``every`` more epochs are over."""
        batches = every * self.batches_per_epoch
        return step * accumulation // batches > (step - 1) * accumulation // batches
