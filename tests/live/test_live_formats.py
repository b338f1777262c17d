"""LoRA files of every format and with odd keys: what the WebUI draws is scored, what it draws nothing of is refused.

One table for each WebUI (printed with ``-s``): the file, whether its picture differs from weight 0, how the scorecard
ended, what it says of keys that are not applied.
"""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from tests.live.client import HttpError  # noqa: E402

Tensors = dict[str, Any]


def _down(tensors: Tensors) -> list[str]:
    return [key.removesuffix(".lora_down.weight") for key in tensors if key.endswith(".lora_down.weight")]


def _loha(whole: Tensors) -> Tensors:
    found: Tensors = {}
    for name in _down(whole):
        up, down = whole[f"{name}.lora_up.weight"], whole[f"{name}.lora_down.weight"]
        found |= {f"{name}.hada_w1_a": up, f"{name}.hada_w1_b": down, f"{name}.hada_w2_a": up * 3}
        found |= {f"{name}.hada_w2_b": down * 3, f"{name}.alpha": torch.tensor(float(down.shape[0]))}
    return found


def _lokr(whole: Tensors) -> Tensors:
    found: Tensors = {}
    for name in _down(whole):
        out, inside = whole[f"{name}.lora_up.weight"].shape[0], whole[f"{name}.lora_down.weight"].shape[1]
        found |= {
            f"{name}.lokr_w1": torch.randn(4, 4) * 0.2,
            f"{name}.lokr_w2": torch.randn(out // 4, inside // 4) * 0.2,
        }
    return found


def _full(whole: Tensors) -> Tensors:
    return {
        f"{name}.diff": whole[f"{name}.lora_up.weight"] @ whole[f"{name}.lora_down.weight"] for name in _down(whole)
    }


def _ia3(whole: Tensors) -> Tensors:
    found: Tensors = {}
    for name in _down(whole):
        found |= {f"{name}.weight": torch.randn(whole[f"{name}.lora_up.weight"].shape[0]) * 0.5}
        found |= {f"{name}.on_input": torch.tensor(False)}
    return found


def _glora(whole: Tensors) -> Tensors:
    found: Tensors = {}
    for name in _down(whole):
        up, down = whole[f"{name}.lora_up.weight"], whole[f"{name}.lora_down.weight"]
        inside = down.shape[1]
        found |= {f"{name}.a1.weight": torch.randn(4, inside) * 0.1, f"{name}.a2.weight": torch.randn(inside, 4) * 0.1}
        found |= {f"{name}.b1.weight": down, f"{name}.b2.weight": up, f"{name}.alpha": torch.tensor(4.0)}
    return found


def _dora(whole: Tensors) -> Tensors:
    # (1, in), the kind that AUTOMATIC1111 reads as its maker meant it
    first = _down(whole)[0]
    return {**whole, f"{first}.dora_scale": torch.full((1, whole[f"{first}.lora_down.weight"].shape[1]), 2.0)}


def _peft(whole: Tensors) -> Tensors:
    found: Tensors = {}
    for name in _down(whole):
        path = re.sub(r"(?<=\d)_|_(?=\d)", ".", name.removeprefix("lora_unet_"))
        found[f"unet.{path}.lora_A.weight"] = whole[f"{name}.lora_down.weight"]
        found[f"unet.{path}.lora_B.weight"] = whole[f"{name}.lora_up.weight"]
    return found


def _more(**odd: Any) -> Any:
    return lambda whole: {**whole, **{key.replace("__", "."): value for key, value in odd.items()}}


def _layer(name: str) -> Any:
    return lambda whole: {
        **whole, f"{name}.lora_down.weight": torch.ones(4, 8), f"{name}.lora_up.weight": torch.ones(8, 4),
    }  # fmt: skip


def _many(count: int) -> Any:
    def make(whole: Tensors) -> Tensors:
        found = dict(whole)
        for at in range(count):
            found[f"lora_unet_strange_{at}.lora_down.weight"] = torch.ones(4, 8)
            found[f"lora_unet_strange_{at}.lora_up.weight"] = torch.ones(8, 4)
        return found

    return make


def _misshaped(whole: Tensors) -> Tensors:
    name = next(name for name in _down(whole) if "attn1" in name)
    return {**whole, f"{name}.lora_down.weight": torch.ones(4, whole[f"{name}.lora_down.weight"].shape[1] + 1)}


FILES: dict[str, Any] = {
    "plain": lambda whole: whole,
    "name with spaces": lambda whole: whole,
    "狐狸 (红)": lambda whole: whole,
    "a,b [c] 1.0": lambda whole: whole,
    "loha": _loha, "lokr": _lokr, "full": _full, "ia3": _ia3, "glora": _glora, "dora": _dora, "peft": _peft,
    "bundle_emb": _more(bundle_emb__fox__string_to_param__x=torch.ones(2, 64)),
    "v_pred": _more(v_pred=torch.zeros(1)),
    "training_step": _more(training_step=torch.zeros(1)),
    "one odd layer": _layer("lora_unet_foo_bar"),
    "text layer too many": _layer("lora_te_text_model_encoder_layers_40_mlp_fc1"),
    "five odd layers": _many(5),
    "twenty odd layers": _many(20),
    "one misshaped": _misshaped,
    "half precision": lambda whole: {key: value.half() for key, value in whole.items()},
    "scale": lambda whole: {**whole, f"{_down(whole)[0]}.scale": torch.tensor(0.5)},
}  # fmt: skip


# a name that no tag can hold is staged under another while it is drawn
NAMES = ("name with spaces", "狐狸 (红)", "a,b [c] 1.0")
TABLE: list[tuple[str, bool, str, str]] = []


@pytest.mark.parametrize("kind", FILES)
def test_what_the_webui_draws_is_scored_and_the_rest_is_refused_by_its_reason(
    webui: Any, other_lora: str, kind: str
) -> None:
    place = webui.data / "models" / "Lora"
    # hosts cache by name: never the same name for another content
    stem = f"{kind} {time.time_ns()}"
    path = place / f"{stem}.safetensors"
    torch.manual_seed(0)
    tensors = FILES[kind](load_file(place / f"{other_lora}.safetensors"))
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path)
    run = f"live-format-{time.time_ns()}"
    try:
        webui.call("/sdapi/v1/refresh-loras", {})
        base = webui.txt2img("a zorp")
        try:
            drawn = bool(np.any(webui.txt2img(f"a zorp <lora:{stem}:0.7>") != base))
        except HttpError:
            # Forge fails on a layer of another shape
            drawn = False
        state = webui.over(webui.score(f"models/Lora/{path.name}", run=run, seeds=1, batch_size=1))
        report = "" if state["status"] != "finished" else webui.call(f"/lora-eval/v1/runs/{run}/report.html")
        note = "draw nothing" in report or "are not read" in report
        TABLE.append((kind, drawn, state["status"], state["error"] or ("with a note" if note else "")))
        print(f"\n| {' | '.join(map(str, TABLE[-1]))} |")
        if drawn or kind in NAMES:
            assert state["status"] == "finished", state["error"]
        else:
            assert state["status"] == "failed" and path.name in state["error"]
    finally:
        path.unlink(missing_ok=True)
