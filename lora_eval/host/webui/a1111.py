"""AUTOMATIC1111 stable-diffusion-webui 1.10.

What the code leans on, by file of the host:

- ``extensions-builtin/Lora/networks.py``: a LoRA stays merged into the weights after a picture and is taken out
  lazily in the next forward; ``network_apply_weights`` does it at once and bit by bit (from a backup). Layers
  compare (name, multipliers) only, so changed content under one name is not noticed.
- ``modules/processing.py``: ``process_images`` loads the checkpoint that is chosen in the options if it is not
  the one in memory; interrupted pictures come back unfinished.
- ``modules/lowvram.py``: ``--medvram`` moves whole models by a hook on ``sd_model.model``, which ``apply_model``
  calls; ``--lowvram`` moves each block, so that a backward pass finds weights on another device.
- ``modules/sd_hijack_unet.py``: casts the arguments of ``apply_model`` to the UNet's dtype.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lora_eval.errors import HostError, LoraFileError
from lora_eval.host.borrow import WebuiLoan
from lora_eval.host.protocol import Conditioning, ModelInfo
from lora_eval.host.restore import freeze, kept_modules, kept_random
from lora_eval.host.webui.host import WebuiHost, networks
from lora_eval.host.webui.lora_fit import unet_fit, why_not
from lora_eval.lora.adapter_file import AdapterFile, load_adapter
from lora_eval.lora.adapter_match import LoraFit
from lora_eval.lora.match import first

_OTHER_FAMILIES = {"is_sd3": "Stable Diffusion 3", "is_ssd": "SSD-1B"}


class A1111Host(WebuiHost):
    """See :class:`~lora_eval.host.webui.host.WebuiHost`."""

    name = "a1111"

    def _loaded(self) -> Any | None:
        from modules import sd_models

        model = sd_models.model_data.sd_model
        if model is None or not hasattr(model, "sd_checkpoint_info"):
            return None
        return model if model.sd_checkpoint_info.filename == sd_models.select_checkpoint().filename else None

    def _load(self) -> Any:
        from modules import devices, lowvram, sd_models, shared

        model = shared.sd_model
        if model is None:
            raise HostError("no checkpoint is loaded; choose one at the top of the WebUI and look at its console")
        sd_models.reload_model_weights()
        model = shared.sd_model
        if not lowvram.is_enabled(model) and next(model.model.parameters()).device.type != devices.device.type:
            # someone pressed Unload; drawing would fail as well until it is back
            sd_models.send_model_to_device(model)
        return model

    def _describe(self, model: Any) -> ModelInfo:
        info = model.sd_checkpoint_info
        for flag, family in _OTHER_FAMILIES.items():
            if getattr(model, flag, False):
                raise HostError(f"{info.name} is {family}; choose an SD1, SD2 or SDXL checkpoint")
        channels = model.model.diffusion_model.in_channels
        if channels != 4:
            kind = "inpainting, depth or edit model"
            raise HostError(f"{info.name} takes {channels} latent channels ({kind}); choose an ordinary checkpoint")
        family = "sdxl" if model.is_sdxl else "sd2" if model.is_sd2 else "sd1"
        v = getattr(model, "parameterization", "eps") == "v"
        return ModelInfo(
            info.name_for_extra, info.sha256 or "", family, "v_prediction" if v else "epsilon", Path(info.filename)
        )

    def _identity(self) -> tuple[str, ...]:
        from modules import sd_models, shared

        return (sd_models.select_checkpoint().filename, str(shared.opts.sd_vae))

    def _chunks(self, text: str) -> int:
        from modules import sd_hijack

        chunks, _ = sd_hijack.model_hijack.clip.process_texts([text])
        return len(chunks[0])

    # -- LoRA -------------------------------------------------------------------------------------

    def _fit(self, path: Path) -> LoraFit:
        model = self._current()
        family = self._describe(model).family
        file = load_adapter(path)
        fit = unet_fit(file, model.model.diffusion_model, family)
        notes = fit.notes
        taken, layers = _host_layers(file)
        text = [name for name in file.text_layers if name not in taken]
        if not layers:
            raise LoraFileError(f"{path}: AUTOMATIC1111 applies none of its keys ({why_not(file)})")
        if text:
            notes += (f"{len(text)} text encoder layers are not the model's and draw nothing: {first(text)}",)
        return LoraFit(layers, notes, fit.misfits)

    def _forget_loras(self) -> None:
        from modules.processing import StableDiffusionProcessing

        unmerge(self._current())
        networks().networks_in_memory.clear()
        # encodings of prompts with a LoRA's text encoder part are kept by the tag alone
        StableDiffusionProcessing.cached_c = [None, None]
        StableDiffusionProcessing.cached_uc = [None, None]

    def _check_applied(self, path: Path, name: str, weight: float, layers: int) -> None:
        module = networks()
        net = next((net for net in module.loaded_networks if net.name == name), None)
        if net is None:
            raise HostError(f"LoRA {name} was not loaded by the WebUI; its console says why")
        if Path(net.network_on_disk.filename).resolve() != path.resolve():
            raise HostError(f"the WebUI loaded {net.network_on_disk.filename} for <lora:{name}>, expected {path}")
        if abs(net.unet_multiplier - weight) > 1e-6:
            raise HostError(f"LoRA {name} was drawn at weight {net.unet_multiplier:g}, expected {weight:g}")
        if len(net.modules) != layers:
            raise HostError(
                f"the WebUI matched {len(net.modules)} of {layers} layers of {path}; is it for this model family?"
            )

    # -- drawing and training ---------------------------------------------------------------------

    @contextmanager
    def _pinned(self) -> Iterator[None]:
        from modules import sd_models, shared

        loaded = sd_models.model_data.sd_model.sd_checkpoint_info
        wanted = shared.opts.data.get("sd_model_checkpoint")
        if sd_models.select_checkpoint().filename == loaded.filename:
            yield
            return
        # the user chose another checkpoint; its loading waits for the queue, but process_images would do it now
        shared.opts.data["sd_model_checkpoint"] = loaded.title
        try:
            yield
        finally:
            if shared.opts.data.get("sd_model_checkpoint") == loaded.title:
                shared.opts.data["sd_model_checkpoint"] = wanted

    def _refuse(self, model: Any) -> None:
        from modules import devices, sd_unet, shared

        if getattr(model, "lowvram", False) and shared.cmd_opts.lowvram:
            raise HostError("training cannot work under --lowvram; start the WebUI with --medvram or without either")
        if getattr(devices, "fp8", False):
            raise HostError("training cannot work on FP8 weights; set Settings > Optimizations > FP8 weight to Disable")
        if getattr(sd_unet, "current_unet", None) is not None:
            raise HostError("a compiled UNet (TensorRT) is on; set Settings > Stable Diffusion > SD Unet to None")

    @contextmanager
    def _lend(self, model: Any, info: ModelInfo) -> Iterator[WebuiLoan]:
        from modules import devices, sd_models

        with _unmerged(model), kept_random(), kept_modules([model]), torch.inference_mode(False):
            sd_models.apply_token_merging(model, 0)
            _hypertile_off(model)
            sd_models.apply_alpha_schedule_override(model)
            freeze(model)
            model.eval()
            unet, device = model.model.diffusion_model, torch.device(devices.device)
            yield A1111Model(self.preview, model, info, unet, model.alphas_cumprod, device, _compute_dtype())


class A1111Model(WebuiLoan):
    """See :class:`~lora_eval.host.protocol.BorrowedModel`; made by :meth:`A1111Host.borrow_model`."""

    def encode_text(self, prompts: Sequence[str], width: int, height: int) -> Conditioning:
        from modules import devices, prompt_parser

        texts = prompt_parser.SdConditioning(list(prompts), width=width, height=height)
        with torch.no_grad(), devices.autocast():
            encoded = self._staged().get_learned_conditioning(texts)
        if isinstance(encoded, dict):
            return Conditioning(encoded["crossattn"].detach().float(), encoded["vector"].detach().float())
        return Conditioning(encoded.detach().float())

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        from modules import devices

        model = self._staged()
        dtype = next(model.first_stage_model.parameters()).dtype
        latents = []
        with torch.no_grad(), _posterior_mean(), devices.autocast():
            for one in pixels:
                scaled = one[None].to(self.device, dtype) * 2 - 1
                latents.append(model.get_first_stage_encoding(model.encode_first_stage(scaled)).float())
        result = torch.cat(latents)
        if not torch.isfinite(result).all():
            raise HostError("the VAE gives NaN in half precision; start the WebUI with --no-half-vae")
        return result

    def denoise(self, noisy: torch.Tensor, timesteps: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        from modules import devices

        asked: dict[str, Any] = {"c_crossattn": [cond.context]}
        if cond.vector is not None:
            asked = {"crossattn": cond.context, "vector": cond.vector}
        upcast = devices.unet_needs_upcast
        with devices.without_autocast() if upcast else devices.autocast():
            return self._staged().apply_model(noisy, timesteps, asked).float()

    def _back_on_device(self) -> None:
        """The host's own hooks move the UNet back when ``apply_model`` is called (``--medvram``)."""


def _host_layers(file: AdapterFile) -> tuple[set[str], int]:
    """Names of the file's layers that the host matches, and how many layers of the model they change."""
    import network

    path = file.path
    try:
        net = networks().load_network(path.stem, network.NetworkOnDisk(path.stem, str(path)))
    except AssertionError as error:
        reason = " ".join(str(error).split())[:200]
        raise LoraFileError(f"{path}: AUTOMATIC1111 does not load it ({reason})") from None
    return {module.network_key.partition(".")[0] for module in net.modules.values()}, len(net.modules)


def unmerge(model: Any) -> list[Any]:
    """Take every LoRA out of the weights now; exact, the host copies its backup back. Returns the layers changed."""
    module = networks()
    layers = [
        layer
        for layer in getattr(model, "network_layer_mapping", {}).values()
        if getattr(layer, "network_current_names", None)
    ]
    with torch.no_grad():
        module.load_networks([])
        for layer in layers:
            module.network_apply_weights(layer)
    return layers


@contextmanager
def _unmerged(model: Any) -> Iterator[None]:
    """No LoRA in the weights inside; on leaving, those that the user's last picture had are in again."""
    module = networks()
    before = [(net, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in module.loaded_networks]
    layers = unmerge(model)
    try:
        yield
    finally:
        unmerge(model)
        for net, te, unet, dyn in before:
            net.te_multiplier, net.unet_multiplier, net.dyn_dim = te, unet, dyn
            module.loaded_networks.append(net)
        with torch.no_grad():
            for layer in layers:
                module.network_apply_weights(layer)


@contextmanager
def _posterior_mean() -> Iterator[None]:
    """Both code bases' VAE posteriors give their mean where they would sample (the queue is ours, nobody draws)."""
    names = ("ldm.modules.distributions.distributions", "sgm.modules.distributions.distributions")
    kinds = [sys.modules[name].DiagonalGaussianDistribution for name in names if name in sys.modules]
    samplers = [(kind, kind.sample) for kind in kinds]
    try:
        for kind in kinds:
            kind.sample = lambda posterior: posterior.mode()
        yield
    finally:
        for kind, sample in samplers:
            kind.sample = sample


def _hypertile_off(model: Any) -> None:
    """The Hypertile extension leaves its tiling on after a picture; its next picture sets it again."""
    hypertile = sys.modules.get("hypertile")
    if hypertile is not None:
        hypertile.hypertile_hook_model(model.model, 512, 512, enable=False)


def _compute_dtype() -> torch.dtype:
    from modules import devices

    full = devices.dtype == torch.float32 or getattr(devices, "dtype_inference", None) == torch.float32
    if full and not devices.unet_needs_upcast:
        return torch.float32
    return devices.dtype_unet
