"""One training job on a borrowed model: setting up, and the loop."""

from __future__ import annotations

import math
import time

import torch

from lora_eval.dataset.images import open_picture
from lora_eval.encoders.protocol import Encoder
from lora_eval.errors import Interrupted, RunError
from lora_eval.host.protocol import BorrowedModel, Host, Job, ModelInfo
from lora_eval.lora.layers import LoraNetwork
from lora_eval.training.config import TrainConfig, save_config
from lora_eval.training.history import History
from lora_eval.training.keeping import Keeper
from lora_eval.training.negatives import negative_prompts
from lora_eval.training.optim import Averaged, Ema, make_optimizer
from lora_eval.training.order import Order
from lora_eval.training.prepare import Material, make_network, prepare
from lora_eval.training.randomness import undisturbed
from lora_eval.training.records import RunFacts
from lora_eval.training.result import TrainResult
from lora_eval.training.resume import Progress, State, check_same, load_state, restore
from lora_eval.training.run import RunPaths, check_space, write_references
from lora_eval.training.samples import class_prompts, draw_samples
from lora_eval.training.step import Optimisation, Stepper, StepResult, TrainingData, make_scaler, precision
from lora_eval.training.stopping import Diverged, Early, Stopping
from lora_eval.training.tensorboard import EventLog
from lora_eval.training.validation import FixedLoss, FixedResult, TimestepReference, evaluating
from lora_eval.training.watch import SampleWatch

VALIDATIONS = 20
VALIDATION_SHARE = 0.2


class Session:
    """One training job on a borrowed model."""

    def __init__(
        self,
        host: Host,
        config: TrainConfig,
        paths: RunPaths,
        info: ModelInfo,
        borrowed: BorrowedModel,
        job: Job,
        encoder: Encoder | None = None,
    ) -> None:
        self.encoder = encoder
        self.watch: SampleWatch | None = None
        self.host, self.config, self.paths, self.info = host, config, paths, info
        self.borrowed, self.job = borrowed, job
        self.started = time.time()
        self.network: LoraNetwork | None = None
        self.history: History | None = None
        self.events: EventLog | None = None
        self.notes: list[str] = []

    def close(self) -> None:
        """Take the hooks off and close files, however the job ended."""
        if self.network is not None:
            self.network.detach()
        for writer in (self.history, self.events):
            if writer is not None:
                writer.close()

    # -- setting up --------------------------------------------------------------------------------

    def go(self, resume: bool) -> TrainResult:
        config, paths = self.config, self.paths
        state = load_state(paths.state) if resume else None
        if config.gradient_checkpointing:
            self.borrowed.gradient_checkpointing(True)
        self.network, notes = make_network(config, self.borrowed)
        material = prepare(config, self.host, self.borrowed, self.info, self.job)
        self.material = material
        # before the first step, not when they begin: a mistake must not cost the run
        self.negatives = negative_prompts(config, [picture.item.caption for picture in material.concept])
        self.notes += notes + material.notes
        model = self.info.sha256 or self.info.name
        if state is not None:
            check_same(state, config, material.fingerprint, model)
        pictures = material.training
        order = Order([p.bucket for p in pictures], [p.item.repeats for p in pictures], config.batch_size, config.seed)
        self.order = order
        self.total = order.total_steps(config.epochs, config.gradient_accumulation, config.max_steps)
        self.job.total = self.total
        numbers = sum(parameter.numel() for parameter in self.network.parameters())
        epochs = self.total * config.gradient_accumulation / order.batches_per_epoch
        check_space(paths, config, numbers, self.total, epochs=epochs)
        self._to_device(material)
        self.optimizer = make_optimizer(config, self.network.parameters())
        self.ema = Ema(self.network.parameters(), config.ema) if config.ema else None
        self.scaler = make_scaler(config, self.borrowed)
        self.network.attach()
        self._fixed_losses()
        if state is None:
            self.progress = Progress(0, material.fingerprint, model)
            self._first_files()
            self.history = History(paths.history)
        else:
            restore(state, self.network, self.optimizer, self.ema)
            if state.scaler:
                self.scaler.load_state_dict(state.scaler)
            self.progress = state.progress
            self.history = History(paths.history, resume_at=state.progress.step)
            self.job.resume_from(min(state.progress.step, self.total))
            save_config(config, paths.config)
        run = RunFacts(
            config,
            paths,
            self.host,
            self.info,
            self.borrowed,
            material,
            self.total,
            order.batches_per_epoch,
            self.started,
        )
        self.keeper = Keeper(run, self.network, self.optimizer, self.ema, self.scaler, order, self.progress, self.notes)
        self.stopping = Stopping(config, self.progress)
        self.events = EventLog(paths.logs, None if state is None else state.progress.step)
        if self.events.note:
            self.notes.append(self.events.note)
        if config.optimizer == "prodigy" and config.learning_rate < 0.1:
            self.notes.append(
                f"prodigy finds the learning rate itself and takes learning_rate {config.learning_rate:g} as a factor; "
                "1 is usual"
            )
        if config.early_stop and self.validation is None:
            self.notes.append("early_stop needs held-out pictures (validation_fraction); the run goes to its end")
        self._start_watch(None if state is None else state.progress.step)
        self._baseline(state)
        return self._loop()

    def _start_watch(self, resume_at: int | None) -> None:
        if not self.config.sample_prompts:
            return
        if self.encoder is None:
            if self.config.measure_samples:
                self.notes.append("test pictures are not measured: the caller gave no encoder")
            return
        shown = self.material.held_out or self.material.concept
        references = [open_picture(picture.item.path) for picture in shown[:64]]
        texts = class_prompts(self.config)
        with undisturbed(), torch.no_grad():
            self.watch = SampleWatch(self.paths.measured, self.encoder, references, texts, resume_at)
        if self.watch.missing:
            self.notes.append(self.watch.missing)

    def _to_device(self, material: Material) -> None:
        """Latents live on the device when they are small: no transfer in each step."""
        size = sum(p.variants.numel() * 4 for p in material.encoded.pictures)
        if self.borrowed.device.type != "cpu" and size < 256 << 20:
            for picture in material.encoded.pictures:
                picture.variants = picture.variants.to(self.borrowed.device)

    def _first_files(self) -> None:
        save_config(self.config, self.paths.config)
        training, held_out = (
            [{"path": str(p.item.path.resolve()), "caption": p.item.caption, "sha256": p.sha256} for p in pictures]
            for pictures in (self.material.concept, self.material.held_out)
        )
        write_references(self.paths, training, held_out)

    def _fixed_losses(self) -> None:
        config, material = self.config, self.material
        autocast = precision(config, self.borrowed)

        def denoise(*args: object) -> torch.Tensor:
            with autocast():
                return self.borrowed.denoise(*args)  # type: ignore[arg-type]

        texts, batch = material.encoded.texts, config.batch_size
        self.validation = None
        if material.held_out:
            self.validation = FixedLoss(self.borrowed, material.held_out, texts, config.seed, batch, denoise)
        # as many training pictures as held-out ones, found by their hash: the gap between the two is like for like
        some = FixedLoss(self.borrowed, material.concept, texts, config.seed, batch, denoise).pictures
        some = some[: len(material.held_out) or 8]
        self.training_loss = FixedLoss(self.borrowed, some, texts, config.seed, batch, denoise, probes=16)

    def _baseline(self, state: State | None) -> None:
        """Row 0: the model as training finds it. A resumed run takes it from its state."""
        if state is None:
            self.job.say("loss before training")
            fixed = self.training_loss.measure(self.network)
            held = self.validation.measure(self.network) if self.validation else None
            timesteps, losses = fixed.timesteps, fixed.losses
            if held is not None:
                timesteps = torch.cat([torch.from_numpy(timesteps), torch.from_numpy(held.timesteps)]).numpy()
                losses = torch.cat([torch.from_numpy(losses), torch.from_numpy(held.losses)]).numpy()
            try:
                table = TimestepReference.measure(timesteps, losses).table.tolist()
            except ValueError:
                raise RunError(
                    "the loss is NaN before the first step: the model or its VAE overflows in half precision; "
                    "start the host with --no-half or --no-half-vae"
                ) from None
            self.progress.start = {"reference": table, "held": held.losses.tolist() if held else None}
            self._row(0, None, held, fixed)
            self._samples(0)
        start = self.progress.start
        self.reference = TimestepReference(torch.tensor(start["reference"], dtype=torch.float64).numpy())

    # -- the loop ----------------------------------------------------------------------------------

    def _loop(self) -> TrainResult:
        assert self.network is not None
        stepper = Stepper(
            self.borrowed,
            self.network,
            self.config,
            TrainingData(self.material.training, self.material.encoded.texts, self.order),
            Optimisation(self.optimizer, self.scaler, self.ema),
            self.total,
            self.reference,
            self.negatives,
        )
        try:
            while self.progress.step < self.total:
                self.job.check()
                self._one(stepper)
        except Interrupted:
            return self.keeper.interrupted()
        except Diverged as reason:
            return self.keeper.diverged(str(reason))
        except Early as reason:
            self._picture_advice()
            return self.keeper.finished("early", str(reason))
        self._picture_advice()
        return self.keeper.finished("finished", f"{self.total} steps")

    def _one(self, stepper: Stepper) -> None:
        config, step = self.config, self.progress.step + 1
        result = stepper.update(step)
        try:
            self.stopping.update(step, result)
        except Diverged:
            self._row(step, result, None, None)
            raise
        self.progress.step = step
        held = fixed = None
        if step % self._validation_steps() == 0 or step == self.total:
            with Averaged(self.ema):
                fixed = self.training_loss.measure(self.network)
                held = self.validation.measure(self.network) if self.validation else None
        row = self._row(step, result, held, fixed)
        due = bool(config.save_steps) and step % config.save_steps == 0
        if config.save_epochs:
            due = due or self.order.ends_epoch(step, config.gradient_accumulation, config.save_epochs)
        if due and step < self.total:
            self.keeper.checkpoint(step)
        smooth = row["loss_smooth"]
        text = f"step {step}/{self.total}, loss {result.loss:.4f}"
        self.job.advance(1, text if smooth is None else f"{text}, {smooth:.3f} of the start")
        if step % config.sample_steps == 0 or step == self.total:
            self._samples(step)
            if self.watch is not None and step < self.total:
                self.stopping.pictures(step, self.watch.decline())
        if held is not None:
            self.stopping.validation(step, held.mean)

    def _validation_steps(self) -> int:
        """The config's, else about twenty times a run, but at most a fifth of the training's own work."""
        if self.config.validation_steps:
            return self.config.validation_steps
        probes = len(self.training_loss) + (len(self.validation) if self.validation else 0)
        # a probe is one forward pass, a trained picture about three
        work = 3 * self.config.batch_size * self.config.gradient_accumulation
        affordable = math.ceil(probes / (work * VALIDATION_SHARE))
        return max(1, min(max(round(self.total / VALIDATIONS), affordable), self.total // 5))

    def _picture_advice(self) -> None:
        found = self.watch.decline() if self.watch is not None else None
        if found is None:
            return
        kept = [step for step, _ in self.paths.checkpoints()]
        near = min(kept, key=lambda step: (abs(step - found.best), step)) if kept else None
        mend = "save checkpoints (save_steps) to go back to" if near is None else f"try the checkpoint of step {near}"
        self.notes.append(f"{found.line()}; {mend}")

    # -- writing -----------------------------------------------------------------------------------

    def _row(
        self, step: int, result: StepResult | None, held: FixedResult | None, fixed: FixedResult | None
    ) -> dict[str, float | int | None]:
        assert self.history is not None and self.events is not None
        values: dict[str, float | int | None] = {"step": step, "epoch": 0}
        if result is not None:
            norm = result.grad_norm if math.isfinite(result.grad_norm) else None
            values |= {"epoch": result.epoch, "lr": result.lr, "loss": result.loss, "grad_norm": norm}
            values["loss_debiased"] = result.loss_debiased
            values["negative_loss"] = result.negative_loss
        if fixed is not None:
            values["train_loss_fixed"] = fixed.mean
        if held is not None:
            first = torch.tensor(self.progress.start["held"], dtype=torch.float64).numpy()
            start = FixedResult(first, held.timesteps, held.pictures)
            values |= {"val_loss": held.mean, "val_ratio": held.mean / start.mean, "val_se": held.standard_error(start)}
        row = self.history.append(**values)
        self.events.write(row)
        return row

    def _samples(self, step: int) -> None:
        if self.config.sample_prompts:
            self.job.say(f"test pictures at step {step}")
            with Averaged(self.ema), evaluating(self.network):
                drawn = draw_samples(
                    self.borrowed, self.config, self.material.resolution, self.paths.samples, self.paths.name, step
                )
            if self.watch is not None and drawn:
                with undisturbed(), torch.no_grad():
                    self.watch.measure(step, drawn)
