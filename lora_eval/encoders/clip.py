"""CLIP and its kin by open_clip: the encoder of pictures and texts that a scorecard uses where none is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lora_eval.encoders.protocol import Encoder, preprocess
from lora_eval.errors import ConfigError, HostError
from lora_eval.files import ASSETS, file_sha256

if TYPE_CHECKING:
    import torch

TINY = "tiny-clip"
TINY_ENCODER = ASSETS / TINY
DEFAULT = "ViT-B-32/laion2b_s34b_b79k"
WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"


@cache
def hub_names() -> frozenset[str]:
    """open_clip's own names of models with weights, as ``model/weights``; none where it is not installed."""
    try:
        from open_clip import list_pretrained
    except ImportError:
        return frozenset()
    return frozenset(f"{model}/{weights}" for model, weights in list_pretrained())


def clip_id(name: str) -> str:
    """Name under which features are stored: it changes when the weights do, and needs no weights loaded.

    Raises:
        ConfigError: a local folder or file that is named is not there.
    """
    source = _local(name)
    if source is None:
        return name
    architecture, weights = source
    return f"{architecture or weights.parent.name}@{file_sha256(weights)[:12]}"


def load_clip(
    name: str, device: str = "cpu", say: Callable[[str], None] | None = None, batch_size: int = 64
) -> OpenClipEncoder:
    """Load an encoder by open_clip.

    Args:
        name: open_clip's ``model/pretrained``; a folder with ``open_clip_config.json`` and
            ``open_clip_model.safetensors``; or ``model=/path/to/weights.safetensors``.
        device: torch device.
        say: called once, with one line, before a download.

    Raises:
        ConfigError: no such model, folder or file, or weights that do not fit.
        HostError: the weights are not on this machine and cannot be downloaded; says which file goes where.
    """
    import open_clip

    source = _local(name)
    if source is None:
        model, tokenizer = _from_hub(open_clip, name, say)
    else:
        model, tokenizer = _from_file(open_clip, *source)
    return OpenClipEncoder(model, tokenizer, clip_id(name), device, batch_size)


class OpenClipEncoder(Encoder):
    """Pictures and texts to unit features of one space.

    Attributes:
        id: see :func:`encoder_id`.
        dim: length of a feature.
        size: side in pixels that pictures are brought to.
        batch_size: pictures in one pass.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[..., Any],
        identity: str,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        visual = model.visual
        self.id = identity
        self.batch_size = batch_size
        size = visual.image_size
        self.size = int(size[0] if isinstance(size, (tuple, list)) else size)
        self.context_length = int(getattr(model, "context_length", 77))
        self._model = model.to(device).eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._device = device
        # OpenAI's statistics are open_clip's own default where a model names none
        self._mean = np.asarray(getattr(visual, "image_mean", None) or _OPENAI_MEAN, np.float32)
        self._std = np.asarray(getattr(visual, "image_std", None) or _OPENAI_STD, np.float32)
        self.dim = int(self.embed_texts(["a"]).shape[1])

    def to(self, device: str) -> OpenClipEncoder:
        """Move to another torch device; the same encoder."""
        self._model.to(device)
        self._device = device
        return self

    def prepare(self, image: Image.Image) -> np.ndarray:
        """(3, size, size) float32; thread-safe, so that pictures are prepared while others are encoded."""
        return preprocess(image, self.size, self._mean, self._std)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """(n, 3, size, size) prepared pictures -> (n, dim) float32 of unit length."""
        import torch

        with torch.inference_mode():
            features = self._model.encode_image(torch.from_numpy(batch).to(self._device)).float()
            return np.asarray(_unit(features).cpu().numpy())

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dim) float32 of unit length; text beyond the context length is cut."""
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), 256):
                tokens = self._tokenizer(list(texts[start : start + 256]), context_length=self.context_length)
                found.append(_unit(self._model.encode_text(tokens.to(self._device)).float()).cpu().numpy())
        return np.concatenate(found) if found else np.zeros((0, self.dim), np.float32)


_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def _local(name: str) -> tuple[str, Path] | None:
    """(architecture or "", weights) of a local source; None for a name of open_clip's."""
    if name == TINY:
        name = str(TINY_ENCODER)
    architecture, separator, file = name.partition("=")
    if separator:
        path = Path(file).expanduser()
        if not path.is_file():
            raise ConfigError(f"encoder weights {path} are missing; give model=/path/to/{WEIGHTS}")
        return architecture, path
    path = Path(name).expanduser()
    if path.is_file():
        return "", path
    if path.is_dir():
        weights = path / WEIGHTS
        if not weights.is_file() or not (path / CONFIG).is_file():
            raise ConfigError(f"encoder folder {path} lacks {CONFIG} or {WEIGHTS}; put both there")
        return "", weights
    if path.is_absolute() or name.startswith((".", "~")) or name.endswith(".safetensors"):
        raise ConfigError(f"encoder {name} is missing; give a folder with {CONFIG} and {WEIGHTS}, or {DEFAULT}")
    return None


def _from_file(open_clip: Any, architecture: str, weights: Path, quick_gelu: bool = False) -> tuple[Any, Any]:
    """Model and tokenizer from safetensors on disk; ``quick_gelu``: with OpenAI's own activation."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config: dict[str, Any] = {}
    if not architecture:
        try:
            config = json.loads((weights.parent / CONFIG).read_text(encoding="utf-8"))
            model = _build(open_clip, dict(config["model_cfg"]))
        except FileNotFoundError:
            raise ConfigError(
                f"{weights.parent} lacks {CONFIG}; add it or write the encoder as ViT-B-32={weights}"
            ) from None
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{weights.parent / CONFIG} cannot be used ({error!r}); restore it") from None
        text = config["model_cfg"].get("text_cfg", {})
        tokenizer = open_clip.tokenizer.tokenize
        if hf_name := text.get("hf_tokenizer_name"):
            tokenizer = open_clip.tokenizer.HFTokenizer(hf_name)
    else:
        if architecture not in open_clip.list_models():
            raise ConfigError(f"open_clip {_version()} has no model {architecture}; {_near(open_clip, architecture)}")
        model = open_clip.create_model(architecture, pretrained=None, force_quick_gelu=quick_gelu)
        tokenizer = open_clip.get_tokenizer(architecture)
    try:
        state = load_file(str(weights))
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{weights} is not a safetensors file ({error}); only safetensors is loaded") from None
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = value.float()
            if not torch.isfinite(value).all():
                raise ConfigError(f"{weights} has values that are not finite in {key}; download it again")
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        line = str(error).replace("\n", " ")[:200]
        raise ConfigError(f"{weights} does not fit {architecture or 'its ' + CONFIG} ({line})") from None
    # the causal mask is a buffer that some releases store and others build
    wrong = [key for key in (*missing, *unexpected) if not key.endswith(("attn_mask", "position_ids"))]
    if wrong:
        raise ConfigError(
            f"{weights} does not fit {architecture or 'its ' + CONFIG}: {wrong[0]} (and {len(wrong) - 1} more)"
        )
    preprocessing = config.get("preprocess_cfg", {})
    if preprocessing.get("mean"):
        model.visual.image_mean = tuple(preprocessing["mean"])
        model.visual.image_std = tuple(preprocessing["std"])
    return model, tokenizer


def _build(open_clip: Any, cfg: dict[str, Any]) -> Any:
    custom = cfg.pop("custom_text", False) or "hf_model_name" in cfg.get("text_cfg", {})
    if "multimodal_cfg" in cfg:
        raise ConfigError("CoCa models cannot serve as encoder; use a CLIP model")
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**cfg)


def _from_hub(open_clip: Any, name: str, say: Callable[[str], None] | None) -> tuple[Any, Any]:
    """Model and tokenizer by open_clip's own names, downloaded once into its cache."""
    architecture, _, tag = name.rpartition("/")
    if (architecture, tag) not in set(open_clip.list_pretrained()):
        raise ConfigError(f"open_clip {_version()} has no {name}; {_near(open_clip, architecture)}")
    if say is not None:
        say(f"loading {name} (downloaded once where it is not on this machine)")
    cfg = _hub_entry(architecture, tag)
    try:
        weights = _safetensors(cfg)
        if weights is None:
            raise ConfigError(
                f"{name} is published as a pickle alone, which can run code and is never loaded; choose {DEFAULT}, or "
                f"convert it elsewhere and give {architecture}=/path/to/{WEIGHTS}"
            )
        model, tokenizer = _from_file(open_clip, architecture, weights, bool(cfg.get("quick_gelu")))
        if cfg.get("mean"):
            model.visual.image_mean, model.visual.image_std = cfg["mean"], cfg["std"]
        return model, tokenizer
    except ConfigError:
        raise
    except Exception as error:
        # huggingface_hub, urllib and requests each raise their own kinds when there is no network
        reason = (str(error).strip().split("\n")[0] or type(error).__name__)[:160]
        hub = str(cfg.get("hf_hub") or "").strip("/")
        address = f"https://huggingface.co/{hub}" if hub else str(cfg.get("url") or "open_clip's model list")
        raise HostError(
            f"{name} is not on this machine and could not be downloaded ({reason}); fetch {WEIGHTS} from {address} "
            f"on another machine and give it as encoder {architecture}=/path/to/{WEIGHTS}"
        ) from error


def _hub_entry(architecture: str, tag: str) -> dict[str, Any]:
    from open_clip.pretrained import get_pretrained_cfg

    return dict(get_pretrained_cfg(architecture, tag) or {})


def _safetensors(cfg: dict[str, Any]) -> Path | None:
    """The weights as safetensors from the hub's cache or the hub; None where it has only a pickle."""
    hub = str(cfg.get("hf_hub") or "").strip("/")
    if hub.count("/") != 1:
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(hub, WEIGHTS))
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        return None


def _version() -> str:
    from importlib.metadata import version

    return version("open_clip_torch")


def _near(open_clip: Any, architecture: str) -> str:
    import difflib

    names = difflib.get_close_matches(architecture, open_clip.list_models(), 1, 0.4) or ["ViT-B-32"]
    tags = [tag for model, tag in open_clip.list_pretrained() if model == names[0]]
    return f"nearest is {names[0]}/{tags[0]}" if tags else f"use {DEFAULT}"


def _unit(features: torch.Tensor) -> torch.Tensor:
    return features / features.norm(dim=-1, keepdim=True).clamp_min(1e-12)
