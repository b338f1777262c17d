"""The WebUI's own interrogators, for captions: BLIP and DeepBooru.

Both hosts hold them in the same places with the same signatures: ``shared.interrogator`` (``modules/interrogate.py``:
``load()``, ``generate_caption(pil_image)``, ``unload()``) and ``modules.deepbooru.model`` (``start()``,
``tag_multi(pil_image, force_disable_ranks)``, ``stop()``). ``InterrogateModels.interrogate`` is not asked: it adds
artists and fashions that CLIP sees ("trending on artstation"), which are no part of a caption, and it turns every
failure into the text ``<error>``. Both download their models at first use, and ``modelloader.load_models`` keeps quiet
about a download that failed, so a model that is not there is looked for by its file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from lora_eval.errors import HostError

Ask = Callable[[Image.Image], str]


def blip(picture: Image.Image) -> str:
    """One sentence about a picture. Called with the queue held. Raises HostError."""
    from modules import lowvram, shared

    interrogator = shared.interrogator
    # as the host's own button does; under Forge, which manages memory itself, it does nothing
    lowvram.send_everything_to_cpu()
    try:
        # it loads CLIP (ViT-L-14.pt) beside it
        _loaded("BLIP", interrogator.load, "BLIP", ".pth", "model_base_caption_capfilt_large.pth")
        return str(_asked("BLIP", lambda: interrogator.generate_caption(picture.convert("RGB"))))
    finally:
        interrogator.unload()


def deepbooru(picture: Image.Image) -> str:
    """Tags of a picture, joined by commas as the WebUI's settings say, without their scores. Raises HostError."""
    from modules.deepbooru import model

    if not _has_weights(model):
        model.model = None
    try:
        _loaded("DeepBooru", model.start, "torch_deepdanbooru", ".pt", "model-resnet_custom_v3.pt")
        return str(_asked("DeepBooru", lambda: model.tag_multi(picture.convert("RGB"), force_disable_ranks=True)))
    finally:
        if _has_weights(model):
            model.stop()
        else:
            model.model = None


def _has_weights(model: Any) -> bool:
    """``DeepDanbooru.load`` makes the network before it looks for its file; where there is none, a network of random
    weights and without tags stays, is taken for loaded at the next call, and finds nothing in any picture."""
    return bool(getattr(model.model, "tags", None))


INTERROGATORS: dict[str, Ask] = {"BLIP": blip, "DeepBooru": deepbooru}


def _loaded(name: str, load: Callable[[], Any], folder: str, ending: str, file: str) -> None:
    from modules import paths

    place = Path(paths.models_path) / folder
    try:
        load()
    except Exception as error:
        if not any(place.glob(f"*{ending}")):
            raise HostError(
                f"{name}'s model is not on this machine and could not be downloaded; put {file} into {place}"
            ) from error
        raise HostError(f"{name} cannot be loaded: {_line(error)}; see the WebUI's console") from error


def _asked(name: str, ask: Callable[[], str]) -> str:
    try:
        return ask()
    except Exception as error:
        raise HostError(f"{name} could not look at a picture: {_line(error)}") from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
