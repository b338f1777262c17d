"""The command line: exit codes, one-line errors that name the thing and the mend, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from lora_eval.cli.exits import BAD, FAILED, GOOD
from tests.command_line import one_line, run


def drawing(seed: int, size: int = 96) -> Image.Image:
    """A picture with structure, unlike the others."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.NEAREST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight captioned pictures."""
    data = tmp_path / "data"
    data.mkdir()
    for i in range(8):
        drawing(i).save(data / f"{i}.png")
        (data / f"{i}.txt").write_text(f"zorp, picture of kind {i}, place {i * 7}")
    return data


@pytest.fixture
def config(tmp_path: Path, folder: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(f"train_data_dir: {folder}\noutput_dir: {tmp_path / 'out'}\nmax_steps: 2\n")
    return path


class TestUsage:
    def test_every_command_of_the_design_is_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, out, _ = run(capsys, "--help")
        assert code == GOOD
        for command in ["demo", "train", "check", "caption", "score", "report", "measure", "curve", "compare", "ui"]:
            assert command in out

    def test_a_typing_error_is_one_line_and_exit_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = run(capsys, "scores")
        assert code == FAILED
        assert "scores" in one_line(err)

    def test_needed_options_are_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        code, _, err = run(capsys, "score", "--out", "x")
        assert code == FAILED
        assert "--lora" in one_line(err)


class TestCheck:
    def test_clean_folder_is_good_and_says_what_it_found(
        self, capsys: pytest.CaptureFixture[str], folder: Path
    ) -> None:
        code, out, _ = run(capsys, "check", folder, "--trigger", "zorp")
        assert code == GOOD
        assert "8 picture(s): 0 error(s)" in out

    def test_broken_picture_is_named_and_exit_1(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        (folder / "3.png").write_bytes(b"")
        code, out, _ = run(capsys, "check", folder)
        assert code == BAD
        assert any(line.startswith("error: 3.png") for line in out.splitlines())

    @pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
    def test_missing_empty_or_no_folder(self, capsys, tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
        path = tmp_path / "nothing"
        make(path)
        code, _, err = run(capsys, "check", path)
        assert code == FAILED
        assert str(path) in one_line(err)


class TestTrainRefuses:
    """Before the model is loaded or anything is written."""

    @pytest.mark.parametrize(
        ("override", "names"),
        [
            ("lora_rnk=4", "lora_rank"),
            ("lora_rank=0", "lora_rank"),
            ("lora_rank=many", "lora_rank"),
            ("resolution=1", "resolution"),
            ("epochs=-1", "epochs"),
            ("optimizer=sgdx", "optimizer"),
            ("oops", "oops"),
        ],
    )
    def test_settings(
        self, capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, override: str, names: str
    ) -> None:
        code, _, err = run(capsys, "train", config, override)
        assert code == FAILED
        assert names in one_line(err)
        assert not (tmp_path / "out").exists()

    def test_missing_config(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        code, _, err = run(capsys, "train", tmp_path / "no.yaml")
        assert code == FAILED
        assert "no.yaml" in one_line(err)

    def test_broken_yaml(self, capsys: pytest.CaptureFixture[str], config: Path) -> None:
        config.write_text("train_data_dir: [")
        code, _, err = run(capsys, "train", config)
        assert code == FAILED
        assert config.name in one_line(err)

    def test_no_captions(self, capsys: pytest.CaptureFixture[str], config: Path, folder: Path, tmp_path: Path) -> None:
        pytest.importorskip("diffusers")
        for text in folder.glob("*.txt"):
            text.unlink()
        code, _, err = run(capsys, "train", config)
        assert code == FAILED
        assert "caption" in one_line(err)
        assert not (tmp_path / "out").exists()

    def test_unwritable_output(self, capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path) -> None:
        pytest.importorskip("diffusers")
        (tmp_path / "file").write_text("in the way")
        code, _, err = run(capsys, "train", config, f"output_dir={tmp_path / 'file' / 'out'}")
        assert code == FAILED
        assert str(tmp_path / "file") in one_line(err)

    def test_missing_model(self, capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path) -> None:
        pytest.importorskip("diffusers")
        code, _, err = run(capsys, "train", config, "--model", tmp_path / "no.safetensors")
        assert code == FAILED
        assert "no.safetensors" in one_line(err)


class TestScoreRefuses:
    @pytest.fixture(autouse=True)
    def _needs_diffusers(self) -> None:
        pytest.importorskip("diffusers")

    def refuse(self, capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: object) -> str:
        code, _, err = run(capsys, "score", *arguments, "--quiet", "--out", tmp_path / "run")
        assert code == FAILED
        assert not list(tmp_path.rglob("run/images/*"))
        return one_line(err)

    def test_missing_lora(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert "no.safetensors" in self.refuse(capsys, tmp_path, "--lora", tmp_path / "no.safetensors")

    def test_pickle_under_the_name_of_safetensors(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = tmp_path / "sly.safetensors"
        path.write_bytes(b"PK\x03\x04" + bytes(200))
        assert "sly.safetensors" in self.refuse(capsys, tmp_path, "--lora", path)

    def test_truncated(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = tmp_path / "cut.safetensors"
        save_file({"lora_unet_x.lora_down.weight": np.ones((4, 8), np.float32)}, path)
        path.write_bytes(path.read_bytes()[:-20])
        assert "cut.safetensors" in self.refuse(capsys, tmp_path, "--lora", path)

    def test_another_family(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = tmp_path / "xl.safetensors"
        key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
        tensors = {
            f"{key}.lora_down.weight": np.ones((4, 2048), np.float32),
            f"{key}.lora_up.weight": np.ones((640, 4), np.float32),
            f"{key}.alpha": np.array(4.0, np.float32),
        }
        save_file(tensors, path, {"ss_base_model_version": "sdxl_base_v1-0"})
        assert "xl.safetensors" in self.refuse(capsys, tmp_path, "--lora", path)

    @pytest.mark.parametrize("weights", ["0-", "a", "0-1 [0]", "1e9"])
    def test_bad_range(self, capsys: pytest.CaptureFixture[str], tmp_path: Path, weights: str) -> None:
        path = tmp_path / "ok.safetensors"
        save_file({"lora_unet_x.lora_down.weight": np.ones((4, 8), np.float32)}, path)
        assert "weight" in self.refuse(capsys, tmp_path, "--lora", path, "--weights", weights)

    @pytest.mark.parametrize("size", ["64", "0x0", "63x64", "axb"])
    def test_bad_size(self, capsys: pytest.CaptureFixture[str], tmp_path: Path, size: str) -> None:
        path = tmp_path / "ok.safetensors"
        save_file({"lora_unet_x.lora_down.weight": np.ones((4, 8), np.float32)}, path)
        assert size in self.refuse(capsys, tmp_path, "--lora", path, "--size", size)


class TestCurve:
    def write(self, path: Path, losses: np.ndarray) -> Path:
        rows = "\n".join(f"{i},{loss:.5f}" for i, loss in enumerate(losses, 1))
        path.write_text(f"step,loss\n{rows}\n")
        return path

    def test_a_settled_curve_is_good(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        step = np.arange(600)
        noise = np.random.default_rng(0).normal(1, 0.02, step.size)
        code, out, _ = run(capsys, "curve", self.write(tmp_path / "h.csv", (0.1 + 0.2 * np.exp(-step / 40)) * noise))
        assert code == GOOD
        assert out.startswith("converged")

    def test_a_diverged_one_is_bad_and_json_parses(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        losses = np.concatenate([np.full(100, 0.1), np.geomspace(0.1, 50, 60)])
        code, out, _ = run(capsys, "curve", self.write(tmp_path / "h.csv", losses), "--json")
        assert code == BAD
        assert json.loads(out)["state"] == "diverged"

    def test_no_history_is_exit_2(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        code, _, err = run(capsys, "curve", tmp_path / "no.csv")
        assert code == FAILED
        assert "no.csv" in one_line(err)


class TestMeasureAndReportRefuse:
    def test_table_without_needed_columns(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        table = tmp_path / "t.csv"
        table.write_text("image,prompt\nx.png,a cat\n")
        code, _, err = run(capsys, "measure", table, "--out", tmp_path / "out")
        assert code == FAILED
        assert "x.png is not there" in one_line(err)

    def test_missing_picture_is_named(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        table = tmp_path / "t.csv"
        table.write_text("image,prompt,seed,weight\nx.png,a cat,1,0\n")
        code, _, err = run(capsys, "measure", table, "--out", tmp_path / "out")
        assert code == FAILED
        assert "x.png" in one_line(err)

    def test_no_run_there(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        code, _, err = run(capsys, "report", tmp_path / "nothing")
        assert code == FAILED
        assert "nothing" in one_line(err)


class TestFullDisk:
    def test_training_says_so_and_keeps_what_was_there(
        self, capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("diffusers")
        earlier = tmp_path / "out" / "kept.txt"
        earlier.parent.mkdir()
        earlier.write_text("earlier result")

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        code, _, err = run(capsys, "train", config, "--quiet")
        assert code == FAILED
        assert "disk is full" in one_line(err)
        assert earlier.read_text() == "earlier result"
        assert not list(tmp_path.rglob("*.safetensors"))
        assert not list(tmp_path.rglob("*.part*"))
