"""LoRA files on the disk: whole, exact, and every way in which they can be broken."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lora_eval.errors import LoraFileError, RunError
from lora_eval.lora.files import (
    LoraFile,
    check_fits,
    context_width,
    detect_family,
    inspect_lora,
    load_lora,
    save_lora,
)
from lora_eval.lora.layers import LoraNetwork, LoraOptions
from lora_eval.lora.metadata import TrainingFacts, build_metadata
from lora_eval.lora.targets import find_targets

NAME = "lora_unet_mid_block_attentions_0_proj_in"


def pair(name: str = NAME, inside: int = 8, outside: int = 8, rank: int = 2) -> dict[str, torch.Tensor]:
    return {
        f"{name}.lora_down.weight": torch.randn(rank, inside),
        f"{name}.lora_up.weight": torch.randn(outside, rank),
        f"{name}.alpha": torch.tensor(float(rank)),
    }


# -- exactness --------------------------------------------------------------------------------------


def test_a_network_comes_back_bit_by_bit(tmp_path: Path, unet: nn.Module, randomise: Callable[[Any], Any]) -> None:
    network = randomise(
        LoraNetwork(unet, find_targets(unet, "full"), rank=3, alpha=2.0, options=LoraOptions(conv_rank=2))
    )
    path = tmp_path / "zorp.safetensors"
    save_lora(path, network.state_dict(), build_metadata(TrainingFacts("zorp", "sd1", rank=3, alpha=2.0)))
    lora = load_lora(path)
    assert lora.tensors.keys() == network.state_dict().keys()
    assert all(torch.equal(lora.tensors[key], value) for key, value in network.state_dict().items())
    assert (lora.family, lora.rank, lora.alpha) == ("sd1", 3, 2.0)
    assert lora.metadata["ss_output_name"] == "zorp"
    assert len(check_fits(lora, find_targets(unet, "full"), "diffusers", "sd1")) == len(network.layers)


dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32])


@given(
    layers=st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.booleans(), dtypes),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 999),
)
def test_a_kohya_file_round_trips_byte_by_byte(
    tmp_path_factory: pytest.TempPathFactory, layers: list[Any], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for number, (inside, outside, rank, conv, dtype) in enumerate(layers):
        extra = (1, 1) if conv else ()
        name = f"lora_unet_mid_block_attentions_{number}_proj_in"
        tensors[f"{name}.lora_up.weight"] = torch.randn(outside, rank, *extra, generator=generator).to(dtype)
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, inside, *extra, generator=generator).to(dtype)
        tensors[f"{name}.alpha"] = torch.tensor(rank / 2).to(dtype)
    folder = tmp_path_factory.mktemp("lora")
    safetensors.torch.save_file(tensors, str(folder / "a.safetensors"), metadata={"ss_x": "1"})
    lora = load_lora(folder / "a.safetensors")
    save_lora(folder / "b.safetensors", lora.tensors, lora.metadata)
    with open(folder / "a.safetensors", "rb") as a, open(folder / "b.safetensors", "rb") as b:
        bodies = []
        for file in (a, b):
            header = file.read(int.from_bytes(file.read(8), "little"))
            entries = {k: v for k, v in json.loads(header).items() if k != "__metadata__"}
            bodies.append((entries, file.read()))
    assert bodies[0] == bodies[1]
    assert load_lora(folder / "b.safetensors").metadata["ss_x"] == "1"


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_dtype_is_of_the_matrices_and_alpha_stays_exact(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    tensors = pair() | {f"{NAME}.alpha": torch.tensor(8 * 3**0.5)}
    save_lora(tmp_path / "a.safetensors", tensors, {}, dtype=name)
    stored = load_lora(tmp_path / "a.safetensors").tensors
    assert stored[f"{NAME}.lora_up.weight"].dtype == dtype
    assert torch.equal(stored[f"{NAME}.lora_up.weight"], tensors[f"{NAME}.lora_up.weight"].to(dtype))
    assert torch.equal(stored[f"{NAME}.alpha"], tensors[f"{NAME}.alpha"])


def test_views_and_shared_memory_are_stored_as_their_own(tmp_path: Path) -> None:
    block = torch.randn(8, 8)
    tensors = {f"{NAME}.lora_down.weight": block[:2], f"{NAME}.lora_up.weight": block[:2].T}
    save_lora(tmp_path / "a.safetensors", tensors, {})
    stored = load_lora(tmp_path / "a.safetensors").tensors
    assert all(torch.equal(stored[key], value) for key, value in tensors.items())


def test_a_file_without_alpha_has_scale_one(tmp_path: Path) -> None:
    tensors = pair(rank=2)
    del tensors[f"{NAME}.alpha"]
    save_lora(tmp_path / "a.safetensors", tensors, {})
    lora = load_lora(tmp_path / "a.safetensors")
    assert (lora.ranks, lora.alphas) == ({NAME: 2}, {NAME: 2.0})


def test_unet_and_text_parts(tmp_path: Path) -> None:
    text = pair("lora_te_text_model_encoder_layers_0_mlp_fc1")
    save_lora(tmp_path / "a.safetensors", pair() | text, {})
    lora = load_lora(tmp_path / "a.safetensors")
    assert lora.text_tensors.keys() == text.keys() and lora.unet_tensors.keys() == pair().keys()


# -- family -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.lora_A.weight",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.lora.down.weight",
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight",
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight",
    ],
)
@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2"), (2048, "sdxl")])
def test_the_context_width_tells_the_family_whatever_the_metadata_claims(key: str, width: int, family: str) -> None:
    shapes = {key.replace("attn2", "attn1"): (4, 320), key: (4, width)}
    assert context_width(shapes) == width
    assert detect_family(shapes, {"ss_base_model_version": "sdxl_base_v1-0"}) == family


def test_the_output_projection_is_not_the_context() -> None:
    assert (
        context_width(
            {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_down.weight": (4, 768)}
        )
        is None
    )
    assert (
        context_width({"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": (768, 4)})
        is None
    )


def test_other_widths_go_by_metadata_then_by_naming() -> None:
    tiny = {"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (4, 64)}
    assert detect_family(tiny, {}) == "unknown"
    assert detect_family(tiny, {"ss_v2": "True"}) == "sd2"
    assert detect_family({"lora_unet_input_blocks_4_1_proj_in.alpha": ()}, {}) == "sdxl"
    assert detect_family({"lora_te2_text_model_x.alpha": ()}, {}) == "sdxl"


# -- fit --------------------------------------------------------------------------------------------


def as_file(tensors: dict[str, torch.Tensor], family: str = "unknown") -> LoraFile:
    return LoraFile(Path("my.safetensors"), tensors, {}, family)


def test_another_family_is_said_first(unet: nn.Module) -> None:
    key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    with pytest.raises(
        LoraFileError, match=r"my\.safetensors: a LoRA for sdxl \(its context width is 2048\), the model is sd1"
    ):
        check_fits(as_file(pair(key, 2048), "sdxl"), find_targets(unet, "all"), "diffusers", "sd1")


def test_unmatched_layers_are_named_and_counted(unet: nn.Module) -> None:
    strange = {k: v for n in range(5) for k, v in pair(f"lora_unet_down_blocks_9_attentions_{n}_proj_in").items()}
    with pytest.raises(LoraFileError, match=r"5 of 6 layers match none .*down_blocks_9_attentions_0_proj_in, .*\.\.\."):
        check_fits(as_file(pair() | strange), find_targets(unet, "all"), "diffusers", "sd1")


def test_a_wrong_shape_says_what_was_expected(unet: nn.Module) -> None:
    with pytest.raises(LoraFileError, match=rf"{NAME}\.lora_down\.weight has shape \(2, 5\), expected \(2, 8, 1, 1\)"):
        check_fits(as_file(pair(inside=5)), find_targets(unet, "all"), "diffusers", "sd1")
    with pytest.raises(LoraFileError, match=r"lora_up\.weight has shape \(7, 2\)"):
        check_fits(as_file(pair(outside=7)), find_targets(unet, "all"), "diffusers", "sd1")


def test_both_spellings_of_one_layer_in_one_file(unet: nn.Module) -> None:
    both = pair() | pair("lora_unet_middle_block_1_proj_in")
    with pytest.raises(LoraFileError, match="both name layer"):
        check_fits(as_file(both), find_targets(unet, "all"), "diffusers", "sd1")


# -- broken files -----------------------------------------------------------------------------------


def saved(path: Path, tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    safetensors.torch.save_file(pair() if tensors is None else tensors, str(path))
    return path.read_bytes()


def with_header(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


BROKEN: list[tuple[str, bytes | Callable[[bytes], bytes], str]] = [
    ("empty", b"", "empty (0 bytes)"),
    ("seven bytes", b"\x01\0\0\0\0\0\0", "truncated"),
    ("cut header", lambda data: data[:40], "truncated"),
    ("cut data", lambda data: data[:-1], "truncated or damaged"),
    ("data too long", lambda data: data + b"\0", "damaged"),
    ("huge header", struct.pack("<Q", 1 << 62) + b"{}", "truncated or not safetensors"),
    ("zip pickle", b"PK\x03\x04" + bytes(100), "pickle"),
    ("old pickle", b"\x80\x02}q\x00." + bytes(100), "pickle"),
    ("text", b"this is not a model at all, it is a letter", "not safetensors"),
    ("html", b"<!DOCTYPE html><html>not found</html>", "not safetensors"),
    ("header no json", with_header(b"{nonsense"), "header is not"),
    ("header a list", with_header([1, 2]), "header is not"),
    ("header binary", with_header(b"\xff\xfe\xff\xfe"), "header is not"),
    ("entry no offsets", with_header({"a": {"dtype": "F32", "shape": [1]}}), "header is not"),
    ("metadata a list", with_header({"__metadata__": [1]}), "__metadata__"),
    ("no tensors", with_header({}), "no tensors"),
    (
        "wrong length",
        with_header({f"{NAME}.alpha": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}, bytes(4)),
        "cannot be read",
    ),
]


@pytest.mark.parametrize(("content", "words"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken_files_are_named_with_what_is_wrong(
    tmp_path: Path, content: bytes | Callable[[bytes], bytes], words: str
) -> None:
    path = tmp_path / "my lora.safetensors"
    path.write_bytes(content if isinstance(content, bytes) else content(saved(path)))
    with pytest.raises(LoraFileError) as caught:
        load_lora(path)
    message = str(caught.value)
    assert words in message and str(path) in message and "\n" not in message


@given(data=st.binary(max_size=200))
def test_no_rubbish_raises_anything_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("rubbish") / "x.safetensors"
    for content in (data, with_header(data), with_header(b'{"a":' + data + b"}")):
        path.write_bytes(content)
        with pytest.raises(LoraFileError):
            load_lora(path)


@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_flipped_byte_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("flip") / "x.safetensors"
    data = bytearray(saved(path))
    length = int.from_bytes(data[:8], "little")
    data[place % (8 + length)] = value
    path.write_bytes(bytes(data))
    try:
        lora = load_lora(path)
    except LoraFileError:
        return
    assert set(lora.ranks.values()) == {2}


@pytest.mark.parametrize("name", ["missing.safetensors", "folder.safetensors"])
def test_missing_files_and_folders(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(LoraFileError, match="missing" if "missing" in name else "is a folder"):
        load_lora(tmp_path / name)


PLANTED: list[tuple[str, Callable[[dict[str, torch.Tensor]], None], list[str]]] = [
    (
        "nan",
        lambda t: t[f"{NAME}.lora_up.weight"][0].fill_(float("nan")),
        [f"{NAME}.lora_up.weight has 2 NaN", "of 16"],
    ),
    ("inf", lambda t: t[f"{NAME}.lora_down.weight"][0, 0].fill_(float("-inf")), [f"{NAME}.lora_down.weight has 1 NaN"]),
    ("nan alpha", lambda t: t[f"{NAME}.alpha"].fill_(float("nan")), [f"{NAME}.alpha has 1 NaN"]),
    ("no up", lambda t: t.__delitem__(f"{NAME}.lora_up.weight"), [f"{NAME}.lora_up.weight is missing"]),
    ("no down", lambda t: t.__delitem__(f"{NAME}.lora_down.weight"), [f"{NAME}.lora_down.weight is missing"]),
    (
        "ranks differ",
        lambda t: t.update({f"{NAME}.lora_up.weight": torch.ones(8, 3)}),
        [f"{NAME} has rank 2 in lora_down and 3 in lora_up"],
    ),
    ("rank 0", lambda t: t.update(pair(rank=0)), ["rank 0"]),
    ("a vector", lambda t: t.update({f"{NAME}.lora_up.weight": torch.ones(8)}), ["shape (8,)", "2 or 4 dimensions"]),
    ("two alphas", lambda t: t.update({f"{NAME}.alpha": torch.ones(2)}), [f"{NAME}.alpha has shape (2,)"]),
    ("whole numbers", lambda t: t.update({f"{NAME}.lora_up.weight": torch.ones(8, 2, dtype=torch.int8)}), ["int8"]),
    ("LoHa", lambda t: t.update({f"{NAME}.hada_w1_a": torch.ones(2, 2)}), ["LoHa is not supported"]),
    (
        "odd key",
        lambda t: t.update({"lora_unet_x.lora_left.weight": torch.ones(2, 2)}),
        ["lora_unet_x.lora_left.weight"],
    ),
]


@pytest.mark.parametrize(("plant", "words"), [row[1:] for row in PLANTED], ids=[row[0] for row in PLANTED])
def test_planted_faults_name_the_file_and_the_key(
    tmp_path: Path, plant: Callable[[dict[str, torch.Tensor]], None], words: list[str]
) -> None:
    tensors = pair()
    plant(tensors)
    path = tmp_path / "my.safetensors"
    saved(path, tensors)
    with pytest.raises(LoraFileError) as caught:
        load_lora(path)
    message = str(caught.value)
    assert all(word in message for word in [*words, str(path)]) and "\n" not in message


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "full checkpoint"),
        ("down_blocks.0.resnets.0.conv1.weight", "full checkpoint"),
        ("emb_params", "not a LoRA"),
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "made for Flux"),
    ],
)
def test_other_models_are_told_from_loras(tmp_path: Path, key: str, words: str) -> None:
    saved(tmp_path / "x.safetensors", {key: torch.ones(2, 2)})
    with pytest.raises(LoraFileError, match=words):
        load_lora(tmp_path / "x.safetensors")


def test_a_header_tells_what_only_a_host_can_apply(tmp_path: Path) -> None:
    tensors = {f"{NAME}.hada_w1_a": torch.ones(2, 2), f"{NAME}.alpha": torch.tensor(1.0)}
    safetensors.torch.save_file(tensors, str(tmp_path / "x.safetensors"), metadata={"ss_v2": "True"})
    header = inspect_lora(tmp_path / "x.safetensors")
    assert (header.kind, header.family, header.shapes[f"{NAME}.hada_w1_a"]) == ("LoHa", "sd2", (2, 2))


# -- writing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype", "words"),
    [
        (float("nan"), None, "NaN or infinite"),
        (float("inf"), "fp32", "NaN or infinite"),
        (1e6, "fp16", "too large for fp16"),
    ],
)
def test_numbers_that_are_none_are_never_written(tmp_path: Path, value: float, dtype: str | None, words: str) -> None:
    path = tmp_path / "x.safetensors"
    save_lora(path, pair(), {})
    before = path.read_bytes()
    tensors = pair()
    tensors[f"{NAME}.lora_up.weight"][0, 0] = value
    with pytest.raises(LoraFileError, match=words):
        save_lora(path, tensors, {}, dtype=dtype)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_half_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(LoraFileError, match="missing"):
        save_lora(tmp_path / "x.safetensors", {f"{NAME}.lora_up.weight": torch.ones(2, 2)}, {})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    save_lora(path, pair(), {})
    before = path.read_bytes()

    def full_disk(*args: Any, **kwargs: Any) -> None:
        raise safetensors.SafetensorError("Error while serializing: IoError(No space left on device (os error 28))")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(RunError, match=r"x\.safetensors.*disk is full"):
        save_lora(path, pair(), {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_values_become_text(tmp_path: Path) -> None:
    save_lora(tmp_path / "x.safetensors", pair(), {"ss_seed": 42, "ss_v2": False})  # type: ignore[dict-item]
    metadata = load_lora(tmp_path / "x.safetensors").metadata
    assert (metadata["ss_seed"], metadata["ss_v2"]) == ("42", "False")


@pytest.mark.parametrize(("name", "dtype"), [("x.ckpt", None), ("x.safetensors", "fp8")])
def test_callers_mistakes(tmp_path: Path, name: str, dtype: str | None) -> None:
    with pytest.raises(ValueError, match=r"\.safetensors|fp8"):
        save_lora(tmp_path / name, pair(), {}, dtype=dtype)


@pytest.mark.parametrize("length", [0x480, 0x4B50])
def test_a_header_whose_length_starts_like_a_pickle_is_no_pickle(tmp_path: Path, length: int) -> None:
    """A safetensors file begins with the length of its header: 0x80 (a pickle) in one of 32, seldom "PK" (a zip)."""
    tensors = {"lora_unet_a.lora_down.weight": torch.randn(2, 4), "lora_unet_a.lora_up.weight": torch.randn(3, 2)}
    plain = int.from_bytes(safetensors.torch.save(tensors, {"note": ""})[:8], "little")
    note = "x" * (length - plain)
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.torch.save(tensors, {"note": note}))
    assert path.read_bytes()[:2] in (b"\x80\x04", b"PK")
    assert inspect_lora(path).metadata["note"] == note
    assert load_lora(path).rank == 2
