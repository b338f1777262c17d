"""Every encoder, and which one is meant by a name. A new one is a file and its line in :data:`SPECS`.

One preprocessing serves everything that is compared (generated pictures, references, training pictures): a mismatch in
resizing alone moves feature distances more than most LoRAs do (Parmar et al., "On Aliased Resizing and Surprising
Subtleties in GAN Evaluation", CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Callable

from lora_eval.encoders import dinov2, insight_face
from lora_eval.encoders.clip import DEFAULT, TINY, clip_id, hub_names, load_clip
from lora_eval.encoders.protocol import Encoder, EncoderSpec, MissingEncoder
from lora_eval.errors import ConfigError
from lora_eval.host.protocol import ModelInfo
from lora_eval.host.shipped import is_shipped_model

SPECS: tuple[EncoderSpec, ...] = (dinov2.SPEC, insight_face.SPEC)
TINY_SIDE = 128
NAMED = {spec.name: spec for spec in SPECS if spec.name}


def second_opinions(kind: str) -> list[EncoderSpec]:
    """The encoders that also judge concepts of this kind, where package and weights are on the machine."""
    return [spec for spec in SPECS if spec.second and kind in spec.kinds]


def resolve_encoder(name: str, model: ModelInfo | None = None, width: int = 512) -> str:
    """What ``auto`` means: the shipped tiny CLIP for the shipped tiny model's pictures, else the default.

    Args:
        model: the model that drew; None where that is unknown.
        width: width of the pictures in pixels.
    """
    if name not in ("", "auto"):
        return name
    return TINY if model is not None and is_shipped_model(model) and width <= TINY_SIDE else DEFAULT


def is_name(name: str) -> bool:
    """Whether this is the name of an encoder and no path: ``auto``, one of :data:`NAMED`, or one of open_clip's own."""
    return name in ("auto", TINY) or name in NAMED or name in hub_names()


def encoder_id(name: str) -> str:
    """Name under which features are stored: it changes when the weights do, and needs no weights loaded.

    Raises:
        ConfigError: a local folder or file that is named is not there.
    """
    return NAMED[name].id if name in NAMED else clip_id(name)


def load_encoder(
    name: str = "auto", device: str = "cpu", say: Callable[[str], None] | None = None, batch_size: int = 64
) -> Encoder:
    """Load an encoder.

    Args:
        name: ``auto``, a name of :data:`NAMED`, or what :func:`lora_eval.encoders.clip.load_clip` takes.
        device: torch device.
        say: called once, with one line, before a download.

    Raises:
        ConfigError: no such model, folder or file, weights that do not fit, or a package that is not there.
        HostError: the weights are not on this machine and cannot be downloaded; says which file goes where.
    """
    name = resolve_encoder(name)
    if name not in NAMED:
        return load_clip(name, device, say, batch_size)
    try:
        return NAMED[name].load(device, batch_size)
    except MissingEncoder as why:
        raise ConfigError(str(why)) from None
