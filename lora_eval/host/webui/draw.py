"""One batch of pictures through the WebUI's own ``process_images``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from lora_eval.errors import HostError, Interrupted
from lora_eval.host.protocol import Drawn, ImageRequest, LoraUse, Sampling
from lora_eval.host.webui.queue import reload_watch
from lora_eval.log import logger

# What users may have set that would change or stop a sweep. Live previews of two kinds fetch a decoder from the
# network at the first use and fail the whole generation without one.
_NEUTRAL = {"token_merging_ratio": 0.0, "sd_lora": "None"}
_FETCHING_PREVIEWS = ("Approx NN", "TAESD")


def _is_error(comments: str, misfits: int) -> bool:
    """Whether the host complained of more than layers that are known not to fit."""
    passed = re.search(r"Networks with errors: [^\n]*?\((\d+)\)\s*$", comments.strip(), re.IGNORECASE)
    if passed is not None and int(passed[1]) <= misfits:
        comments = comments[: passed.start()]
    return "error" in comments.lower()


def txt2img(
    requests: Sequence[ImageRequest],
    sampling: Sampling,
    use: LoraUse | None,
    after: Callable[[], None],
    misfits: int = 0,
) -> list[Drawn]:
    """One batch through ``process_images``, the queue being ours.

    Args:
        use: a LoRA under a name that the host knows.
        after: called when the host has drawn; it counts pictures in its progress bar by itself.
        misfits: layers of the LoRA that are known not to fit, which the host may report and pass over.

    Raises:
        Interrupted: the host's Interrupt was pressed; the unfinished pictures are thrown away.
        HostError: the host failed, complained about a LoRA, or lost pictures.
    """
    from modules import processing, shared

    tag = "" if use is None else " " + use.tag
    while True:
        shared.state.skipped = False
        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=shared.sd_model,
            prompt=[request.prompt + tag for request in requests],
            negative_prompt=[request.negative_prompt for request in requests],
            seed=[request.seed for request in requests],
            subseed=[0] * len(requests),
            batch_size=len(requests),
            n_iter=1,
            steps=sampling.steps,
            cfg_scale=sampling.cfg_scale,
            width=sampling.width,
            height=sampling.height,
            sampler_name=sampling.sampler,
            scheduler=sampling.scheduler,
            restore_faces=False,
            tiling=False,
            do_not_save_samples=True,
            do_not_save_grid=True,
            do_not_reload_embeddings=True,
            override_settings=_overrides(sampling),
        )
        with closing(p):
            try:
                with no_prompt_history(shared.cmd_opts):
                    result = processing.process_images(p)
            except Exception as error:
                raise _drawing_error(error, len(requests)) from error
            after()
            incomplete = shared.state.interrupted or shared.state.skipped
            if reload_watch.stopped(shared.state):
                raise Interrupted("drawing")
            if incomplete:
                logger.info("Skip or Reload UI was pressed: the batch is incomplete and drawn again")
                continue
            if _is_error(str(result.comments or ""), misfits):
                raise HostError(f"the WebUI reported: {' '.join(str(result.comments).split())}")
            pictures = result.images[result.index_of_first_image :]
            if len(pictures) != len(requests):
                raise HostError(f"the WebUI returned {len(pictures)} of {len(requests)} pictures; look at its console")
            texts = result.infotexts[result.index_of_first_image :]
        return [
            Drawn(picture.convert("RGB"), _whole_infotext(text, request, tag))
            for picture, text, request in zip(pictures, texts, requests, strict=True)
        ]


def _whole_infotext(text: str, request: ImageRequest, tag: str) -> str:
    """The host's infotext with the LoRA's tag in it: it leaves tags out when no scripts of extensions run."""
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    return request.prompt + tag + negative + text[max(text.rfind("\nSteps: "), 0) :]


def _overrides(sampling: Sampling) -> dict[str, Any]:
    from modules import shared

    wanted: dict[str, Any] = {"CLIP_stop_at_last_layers": sampling.clip_skip, **_NEUTRAL}
    if shared.opts.show_progress_type in _FETCHING_PREVIEWS:
        wanted["show_progress_type"] = "Approx cheap"
    # the host puts back only what it finds among its values
    return {key: value for key, value in wanted.items() if shared.opts.data.get(key, value) != value}


def _drawing_error(error: Exception, count: int) -> Exception:
    if isinstance(error, HostError):
        return error
    line = " ".join(str(error).split()) or "no message"
    if "out of memory" in line.lower():
        mend = "lower the batch size" if count > 1 else "draw smaller pictures"
        return HostError(f"out of memory drawing {count} pictures at once; {mend}")
    return HostError(f"the WebUI could not draw: {type(error).__name__}: {line}")


@contextmanager
def no_prompt_history(flags: Any) -> Iterator[None]:
    """The prompt that the user drew last stays the one that the WebUI's arrow button brings back."""
    before = getattr(flags, "no_prompt_history", False)
    flags.no_prompt_history = True
    try:
        yield
    finally:
        flags.no_prompt_history = before
