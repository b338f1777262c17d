"""lllyasviel's stable-diffusion-webui-forge (f2).

What the code leans on, by file of the host:

- ``modules/sd_models.py``: the model object is replaced on reload, so nothing of it is kept between jobs;
  ``forge_model_reload`` loads what ``forge_loading_parameters`` names.
- ``backend/patcher``: a LoRA is merged while its patcher is the loaded one and taken out (from a backup) when
  ``load_models_gpu`` loads the original patcher.
- ``backend/loader.py``: every parameter is made in inference mode, which autograd cannot save.
- ``backend/nn/unet.py``: blocks add in place; the host's own gradient checkpointing raises.
- ``extensions-builtin/sd_forge_lora/networks.py``: caches by file name and strength; a LoRA of which more than
  twelve keys match nothing is left out without an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lora_eval.errors import HostError, LoraFileError
from lora_eval.host.borrow import WebuiLoan, half_precision
from lora_eval.host.protocol import Conditioning, ModelInfo
from lora_eval.host.restore import clone_before_norms, freeze, kept_modules, kept_random, make_ordinary
from lora_eval.host.webui.host import WebuiHost, networks
from lora_eval.host.webui.lora_fit import unet_fit, why_not
from lora_eval.lora.adapter_file import load_adapter
from lora_eval.lora.adapter_match import LoraFit
from lora_eval.lora.match import first

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v_prediction"}
_PLAIN = (torch.float32, torch.float16, torch.bfloat16)
_TRAINING_MEMORY = {"sd1": 2 << 30, "sd2": 2 << 30, "sdxl": 4 << 30}
"""Bytes asked of the host's memory manager for activations, so that it leaves them free on the GPU."""

# extensions-builtin/sd_forge_lora/networks.py: above this many keys without a place it leaves the whole file out
_FORGIVEN = 12


class ForgeHost(WebuiHost):
    """See :class:`~lora_eval.host.webui.host.WebuiHost`."""

    name = "forge"

    def _loaded(self) -> Any | None:
        from modules.sd_models import model_data

        model = model_data.sd_model
        if getattr(model, "forge_objects_original", None) is None:
            return None
        return model if model_data.forge_hash == str(model_data.forge_loading_parameters) else None

    def _load(self) -> Any:
        from modules import sd_models

        try:
            model, _ = sd_models.forge_model_reload()
        except ValueError as error:
            raise HostError(f"{' '.join(str(error).split())} (the WebUI has no checkpoint to load)") from None
        return model

    def _describe(self, model: Any) -> ModelInfo:
        info = model.sd_checkpoint_info
        family = next((name for name in ("sdxl", "sd2", "sd1") if getattr(model, f"is_{name}", False)), None)
        if family is None:
            raise HostError(f"{info.name} is a {type(model).__name__} model; choose an SD1, SD2 or SDXL checkpoint")
        predictor = model.forge_objects_original.unet.model.predictor
        prediction = _PREDICTIONS.get(getattr(predictor, "prediction_type", "epsilon"))
        if prediction is None:
            raise HostError(
                f"{info.name} predicts {predictor.prediction_type}; choose an epsilon or v-prediction checkpoint"
            )
        if getattr(model, "is_inpaint", False):
            raise HostError(f"{info.name} is an inpainting model; choose an ordinary checkpoint")
        return ModelInfo(info.name_for_extra, info.sha256 or "", family, prediction, Path(info.filename))

    def _identity(self) -> tuple[str, ...]:
        from modules.sd_models import model_data

        chosen = model_data.forge_loading_parameters
        return (chosen["checkpoint_info"].filename, *(f"{k}={v}" for k, v in chosen.items() if k != "checkpoint_info"))

    def _chunks(self, text: str) -> int:
        model = self._current()
        engine = getattr(model, "text_processing_engine", None) or model.text_processing_engine_l
        with torch.inference_mode():
            chunks, _ = engine.process_texts([text])
        return len(chunks[0])

    # -- LoRA -------------------------------------------------------------------------------------

    def _fit(self, path: Path) -> LoraFit:
        model = self._current()
        family = self._describe(model).family
        file = load_adapter(path)
        notes = unet_fit(file, model.forge_objects_original.unet.model.diffusion_model, family, "Forge").notes
        layers, rest, skipped = _host_layers(model, path)
        for lost, what in ((rest, "match no layer of the model"), (skipped, "are of tensors that the model lacks")):
            if len(lost) > _FORGIVEN:
                raise LoraFileError(
                    f"{path}: {len(lost)} of its keys {what} ({first(lost)}), and Forge leaves a file with more than "
                    f"{_FORGIVEN} such keys out; is it made for another model family than {family}?"
                )
            if lost:
                notes += (f"{len(lost)} keys {what} and draw nothing: {first(lost)}",)
        if not layers:
            raise LoraFileError(f"{path}: Forge applies none of its keys ({why_not(file)})")
        return LoraFit(layers, notes)

    def _forget_loras(self) -> None:
        from modules.processing import StableDiffusionProcessing

        model = self._current()
        networks().load_lora_state_dict.cache_clear()
        model.current_lora_hash = "forgotten by LoRA Eval"
        original = model.forge_objects_original
        model.forge_objects = original.shallow_copy()
        model.forge_objects_after_applying_lora = original.shallow_copy()
        _load_patchers([original.unet, original.clip.patcher])
        empty = [None] * len(StableDiffusionProcessing.cached_c)
        StableDiffusionProcessing.cached_c, StableDiffusionProcessing.cached_uc = list(empty), list(empty)

    def _check_applied(self, path: Path, name: str, weight: float, layers: int) -> None:
        model = self._current()
        net = next((net for net in networks().loaded_networks if net.name == name), None)
        if net is None:
            raise HostError(f"LoRA {name} was not loaded by the WebUI; its console says why")
        applied = model.forge_objects_after_applying_lora
        patched = 0
        for patcher in (applied.unet, applied.clip.patcher):
            for (filename, strength, _, _), patches in patcher.lora_patches.items():
                if Path(filename).resolve() == path.resolve() and abs(strength - weight) <= 1e-6:
                    patched += len(patches)
        if patched == 0:
            raise HostError(f"LoRA {name} is not on the model at weight {weight:g}; the WebUI's console says why")
        if patched < layers:
            raise HostError(f"the WebUI matched {patched} of {layers} layers of {path}; is it for this model family?")

    # -- drawing and training ---------------------------------------------------------------------

    @contextmanager
    def _pinned(self) -> Iterator[None]:
        from modules.sd_models import model_data

        # another checkpoint chosen meanwhile is written here at once and would be loaded by process_images
        wanted = model_data.forge_loading_parameters
        if str(wanted) == model_data.forge_hash or self._kept_parameters is None:
            yield
            return
        model_data.forge_loading_parameters = self._kept_parameters
        try:
            yield
        finally:
            if model_data.forge_loading_parameters is self._kept_parameters:
                model_data.forge_loading_parameters = wanted

    _kept_parameters: dict[str, Any] | None = None

    def _refuse(self, model: Any) -> None:
        km = model.forge_objects_original.unet.model
        if km.storage_dtype not in _PLAIN:
            raise HostError(
                f"training cannot work on {km.storage_dtype} weights; set Diffusion in Low Bits to Automatic (fp16) "
                "and use a checkpoint that is not quantised"
            )

    @contextmanager
    def _lend(self, model: Any, info: ModelInfo) -> Iterator[WebuiLoan]:
        from modules.sd_models import model_data

        self._kept_parameters = model_data.forge_loading_parameters
        patcher = model.forge_objects_original.unet
        km = patcher.model
        try:
            with kept_random(), _unmerged(model, info.family), kept_modules([km]), torch.inference_mode(False):
                # loading to the device is done; whatever it made in inference mode is ordinary from here on
                make_ordinary(km)
                freeze(km)
                unet, device = km.diffusion_model, torch.device(patcher.load_device)
                clone_before_norms(unet)
                alphas, dtype = km.predictor.alphas_cumprod, km.computation_dtype
                yield ForgeModel(self.preview, model, info, unet, alphas, device, dtype, adds_in_place=True)
        finally:
            self._kept_parameters = None


class ForgeModel(WebuiLoan):
    """See :class:`~lora_eval.host.protocol.BorrowedModel`; made by :meth:`ForgeHost.borrow_model`."""

    def encode_text(self, prompts: Sequence[str], width: int, height: int) -> Conditioning:
        from modules import prompt_parser, shared

        model = self._staged()
        model.forge_objects = model.forge_objects_original.shallow_copy()
        model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
        encoded = model.get_learned_conditioning(
            prompt_parser.SdConditioning(list(prompts), width=width, height=height)
        )
        self._back_on_device()
        if isinstance(encoded, dict):
            return Conditioning(_ordinary(encoded["crossattn"]), _ordinary(encoded["vector"]))
        return Conditioning(_ordinary(encoded))

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        model = self._staged()
        model.forge_objects = model.forge_objects_original.shallow_copy()
        options = model.forge_objects.vae.patcher.model_options
        before = options.get("model_vae_regulation")
        options["model_vae_regulation"] = lambda posterior: posterior.mode()
        try:
            latents = model.get_first_stage_encoding(model.encode_first_stage(pixels.to(self.device).float() * 2 - 1))
        finally:
            if before is None:
                del options["model_vae_regulation"]
            else:
                options["model_vae_regulation"] = before
        self._back_on_device()
        result = _ordinary(latents).to(self.device)
        if not torch.isfinite(result).all():
            raise HostError("the VAE gives NaN in half precision; start the WebUI with --vae-in-fp32")
        return result

    def denoise(self, noisy: torch.Tensor, timesteps: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        self._staged()
        dtype = self.compute_dtype
        vector = None if cond.vector is None else cond.vector.to(dtype)
        extra = {} if vector is None else {"y": vector}
        with half_precision(self.device, dtype):
            # a dictionary of its own: the default one of the host's signature is shared and written to
            predicted = self.unet(
                noisy.to(dtype), timesteps.float(), context=cond.context.to(dtype), transformer_options={}, **extra
            )
        return predicted.float()

    def _back_on_device(self) -> None:
        """The host may have moved the UNet out to make room, and moves in inference mode."""
        patcher = self._staged().forge_objects_original.unet
        _load_patchers([patcher], _TRAINING_MEMORY[self.family])
        make_ordinary(patcher.model)
        freeze(patcher.model)


def _ordinary(tensor: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(False):
        return tensor.clone().detach().float()


def _load_patchers(patchers: Sequence[Any], preserve: int = 0) -> None:
    from backend import memory_management

    memory_management.load_models_gpu(list(patchers), hard_memory_preservation=preserve)


@contextmanager
def _unmerged(model: Any, family: str) -> Iterator[None]:
    """No LoRA in the weights inside; on leaving, those of the user's last picture are merged again."""
    original, before = model.forge_objects_original, model.forge_objects
    applied, applied_hash, names = (
        model.forge_objects_after_applying_lora,
        model.current_lora_hash,
        list(networks().loaded_networks),
    )
    model.forge_objects = original.shallow_copy()
    text = before.clip.patcher
    _load_patchers([original.clip.patcher])
    _load_patchers([original.unet], _TRAINING_MEMORY[family])
    if original.unet.model.lora_loader.backup:
        raise HostError(
            "the WebUI did not take the LoRA of the last picture out of the model; draw one without and retry"
        )
    try:
        yield
    finally:
        # what the host believes to be on must be what is merged, or it would leave the next picture's LoRA out
        model.forge_objects, model.forge_objects_after_applying_lora = before, applied
        model.current_lora_hash, networks().loaded_networks[:] = applied_hash, names
        for patcher in (text, before.unet):
            if patcher.lora_patches:
                _load_patchers([patcher])


def _host_layers(model: Any, path: Path) -> tuple[int, list[str], list[str]]:
    """What the host makes of a file: (tensors of the model that it changes, keys without a layer, keys passed over)."""
    from backend.patcher import lora
    from backend.utils import load_torch_file

    original = model.forge_objects_original
    rest = load_torch_file(str(path), safe_load=True)
    layers, skipped = 0, []
    for holder, names in (
        (original.unet.model, lora.model_lora_keys_unet(original.unet.model, {})),
        (original.clip.cond_stage_model, lora.model_lora_keys_clip(original.clip.cond_stage_model, {})),
    ):
        patches, rest = lora.load_lora(rest, names)
        there = set(holder.state_dict().keys())
        lost = [key for key in patches if (key if isinstance(key, str) else key[0]) not in there]
        skipped += [str(key) for key in lost]
        layers += len(patches) - len(lost)
    return layers, list(rest), skipped
