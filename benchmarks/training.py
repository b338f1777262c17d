"""Is our training slower than peft with diffusers? Step time and peak memory of both, side by side in one run.

    python -m benchmarks training [--rounds 30] [--batch 8] [--memory 3]

The same tiny UNet, 128 attention layers, rank 8, AdamW, batch, gradient clipping and min-SNR; latents and text are
encoded before. Steps of the two alternate in one process; a ratio is of neighbouring steps, in time of the processor,
which other work on the machine hardly touches, and of the clock. Ours is the whole step of the product, with history
and job; peft's is the loop of diffusers' example. Peak memory: processes of their own, in turn (Linux alone), the
whole of the process and what the steps add to what is held before the first one; and, exact and the same on any
device, the tensors that a step keeps for its backward pass.
"""

from __future__ import annotations

import argparse
import gc
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from benchmarks._planted import write_dataset
from lora_eval.host.protocol import Job
from lora_eval.host.standalone import StandaloneHost
from lora_eval.lora.targets import find_targets
from lora_eval.training.config import TrainConfig, make_config
from lora_eval.training.loop import train
from tools.tiny_world.drawings import dataset

RANK, RATE, GAMMA = 8, 2e-3, 5.0
WARM = 2
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]

Step = Callable[[], None]


def settings(folder: Path, steps: int, batch: int) -> TrainConfig:
    """Ours, without what peft's loop has not: validation in the middle and checkpoints."""
    return make_config(
        {
            "train_data_dir": str(folder / "data"),
            "output_dir": str(folder / "train"),
            "name": "speed",
            "trigger": "mave",
            "lora_rank": RANK,
            "batch_size": batch,
            "max_steps": steps,
            "epochs": steps,
            "learning_rate": RATE,
            "min_snr_gamma": GAMMA,
            "validation_fraction": 0.0,
            "validation_steps": steps + 1,
            "save_steps": 0,
            "resolution": 64,
            "publish": False,
        }
    )


class Peft:
    """The usual loop: ``unet.add_adapter`` and diffusers' scheduler, on the shipped model and pictures."""

    def __init__(self, folder: Path, batch: int) -> None:
        from diffusers import DDPMScheduler
        from diffusers.training_utils import compute_snr
        from peft import LoraConfig

        self._snr = compute_snr
        self.batch = batch
        host = StandaloneHost(output_folder=folder / "peft")
        with host.borrow_model() as borrowed:
            drawings = dataset("mave", 30, 0)
            from lora_eval.dataset.encode import encode
            from lora_eval.dataset.folder import scan

            encoded = encode(scan(folder / "data").items, borrowed, (64, 64))
            self.latents = torch.cat([picture.variants for picture in encoded.pictures])
            self.texts = torch.cat([borrowed.encode_text([text], 64, 64).context for _, text in drawings])
        model = host._load()
        self.scheduler = DDPMScheduler.from_config(model.schedule)
        self.unet = model.unet.requires_grad_(False)
        self.unet.add_adapter(
            LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=list(TARGETS))
        )
        self.unet.train()
        self.parameters = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE, weight_decay=0.01)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        """One update as diffusers' ``train_text_to_image_lora.py`` makes it."""
        rows = torch.randperm(len(self.latents), generator=self.generator)[: self.batch]
        latents = self.latents[rows]
        noise = torch.randn(latents.shape, generator=self.generator)
        timesteps = torch.randint(0, 1000, (self.batch,), generator=self.generator)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        predicted = self.unet(noisy, timesteps, self.texts[rows], return_dict=False)[0]
        snr = self._snr(self.scheduler, timesteps)
        weights = snr.clamp(max=GAMMA) / snr
        loss = torch.nn.functional.mse_loss(predicted.float(), noise, reduction="none")
        loss = (loss.mean(dim=(1, 2, 3)) * weights).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()


class Rounds(Job):
    """Our training, halted after each of its steps to let the other make one.

    Attributes:
        ours, others: (seconds of the processor, seconds of the clock) of each step.
    """

    def __init__(self, rounds: int, other: Step) -> None:
        super().__init__("speed", WARM + rounds)
        self._other = other
        self.ours: list[tuple[float, float]] = []
        self.others: list[tuple[float, float]] = []
        self._began = now()

    def advance(self, amount: int = 1, text: str | None = None) -> None:
        """Called at the end of each of our steps."""
        super().advance(amount, text)
        ours = since(self._began)
        began = now()
        self._other()
        others = since(began)
        # the last step of ours is followed by validation and files
        if WARM < self.done < self.total:
            self.ours.append(ours)
            self.others.append(others)
        self._began = now()


def now() -> tuple[float, float]:
    """(processor, clock) in seconds."""
    return time.process_time(), time.perf_counter()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """(processor, clock) seconds since then."""
    processor, clock = now()
    return processor - began[0], clock - began[1]


def resident(name: str = "VmRSS") -> float:
    """Memory of this process in MB now (VmRSS) or at its peak (VmHWM). Raises OSError where there is no /proc."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError(f"no {name} in /proc/self/status")
    return int(found[1]) / 1024


def forget_peak() -> float:
    """Let the peak begin anew, here; returns the memory in MB now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return resident()


class Kept:
    """Bytes of the tensors kept for the backward pass, each storage once, the frozen model's own weights left out."""

    def __init__(self, frozen: Iterable[torch.nn.Parameter]) -> None:
        self._frozen = {parameter.untyped_storage().data_ptr() for parameter in frozen}
        self._seen: dict[int, int] = {}

    def counting(self) -> AbstractContextManager[None]:
        """Counts what is kept inside."""

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._frozen:
                self._seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)  # type: ignore[return-value]

    def taken(self) -> float:
        """MB since the last call."""
        total = sum(self._seen.values()) / 2**20
        self._seen.clear()
        return total


class _Counted(Job):
    """Our training, with what each of its steps keeps."""

    def __init__(self, steps: int, kept: Kept) -> None:
        super().__init__("kept", steps)
        self._kept = kept
        self.found: list[float] = []

    def advance(self, amount: int = 1, text: str | None = None) -> None:
        super().advance(amount, text)
        self.found.append(self._kept.taken())


def kept_for_backward(other: Peft, host: StandaloneHost, folder: Path, batch: int) -> tuple[float, float]:
    """MB that a step keeps, ours and peft's: the larger of two steps, the first of which has B = 0 here."""
    theirs = Kept(p for p in other.unet.parameters() if not p.requires_grad)
    with theirs.counting():
        others = []
        for _ in range(2):
            other.step()
            others.append(theirs.taken())
    with host.borrow_model() as borrowed:
        mine = Kept(list(borrowed.unet.parameters()))
    job = _Counted(2, mine)
    with mine.counting():
        train(host, settings(folder, 2, batch), job)
    return max(job.found), max(others)


def memory(who: str, steps: int, batch: int, folder: Path) -> None:
    """In a process of its own: print what is held before the first step, and the peak of ``steps`` steps."""
    if who == "peft":
        other = Peft(folder, batch)
        before = forget_peak()
        for _ in range(steps):
            other.step()
    else:
        job = _Watched("memory", steps)
        train(StandaloneHost(output_folder=folder / "ours"), settings(folder, steps, batch), job)
        before = job.before
    print(f"{before:.1f} {resident('VmHWM'):.1f}")


class _Watched(Job):
    before = 0.0

    def say(self, text: str) -> None:
        super().say(text)
        if text == "loss before training":
            self.before = forget_peak()


def main(argv: list[str]) -> int:
    """Print both; 0 when ours is not slower."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks training")
    parser.add_argument("--rounds", type=int, default=30, help="steps of each")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--memory", type=int, default=3, help="processes of each whose memory is read; 0: none")
    parser.add_argument("--only", choices=("ours", "peft"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.only:
        memory(options.only, options.rounds, options.batch, options.folder)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dataset(folder / "data", dataset("mave", 30, 0))
        other = Peft(folder, options.batch)
        host = StandaloneHost(output_folder=folder)
        job = Rounds(options.rounds, other.step)
        with host.borrow_model() as borrowed:
            targets = find_targets(borrowed.unet, "attention")
            numbers = sum(RANK * (t.down_shape(1)[1] + t.up_shape(1)[0]) for t in targets)
        theirs = sum(p.numel() for p in other.parameters)
        if numbers != theirs:
            print(f"not the same network: {numbers} numbers here, {theirs} with peft", file=sys.stderr)
            return 2
        train(host, settings(folder, job.total, options.batch), job)
        print(f"{len(targets)} layers, {numbers} numbers, batch {options.batch}, n = {len(job.ours)} steps of each")
        medians = []
        for place, what in enumerate(("processor", "clock")):
            ours, others = ([step[place] for step in steps] for steps in (job.ours, job.others))
            ratios = [a / b for a, b in zip(ours, others, strict=True)]
            low, ratio, high = statistics.quantiles(ratios, n=4)
            medians.append(ratio)
            print(
                f"step time, {what}, median: ours {_ms(ours)}, peft {_ms(others)}; "
                f"ours / peft {ratio:.2f} (middle half {low:.2f} to {high:.2f})"
            )
        ours_kept, theirs_kept = kept_for_backward(other, host, folder, options.batch)
        print(f"kept for the backward pass: ours {ours_kept:.2f} MB, peft {theirs_kept:.2f} MB")
        if options.memory:
            pairs = [
                (_measured("ours", options, folder), _measured("peft", options, folder)) for _ in range(options.memory)
            ]
            for what, values in (
                ("peak memory", [[after for _, after in pair] for pair in pairs]),
                ("of it the steps", [[after - before for before, after in pair] for pair in pairs]),
            ):
                ours, others = zip(*values, strict=True)
                ratio = statistics.median(a / b for a, b in values)
                print(
                    f"{what}, median: ours {statistics.median(ours):.0f} MB, peft {statistics.median(others):.0f} MB; "
                    f"ours / peft {ratio:.2f} (n = {len(pairs)} processes of each)"
                )
    return 0 if medians[0] <= 1.0 else 1


def _measured(who: str, options: argparse.Namespace, folder: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", "import sys; from benchmarks.training import main; main(sys.argv[1:])"]
    command += ["--only", who, "--rounds", "4", "--batch", str(options.batch), "--folder", str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(out[-2]), float(out[-1])


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f} ms"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
