"""Talks to a running WebUI over REST."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image, ImageDraw

V1 = "/lora-eval/v1"
PATIENCE = 900.0
ENDED = ("finished", "failed", "interrupted", "paused")
SIDE = 64
SETTINGS = {
    "steps": 3,
    "width": SIDE,
    "height": SIDE,
    "cfg_scale": 5,
    "sampler_name": "Euler",
    "scheduler": "Automatic",
}


class HttpError(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body[:300]}")
        self.status, self.body = status, body


@dataclass
class Webui:
    """The WebUI at ``url``. ``data`` is its data folder."""

    url: str
    auth: str | None = None
    data: Path = field(default_factory=Path)

    def call(self, path: str, body: Any = None, method: str | None = None, auth: str | None = "") -> Any:
        """JSON in, JSON (or text) out. ``auth`` "" uses the given credentials, None sends none."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        credentials = self.auth if auth == "" else auth
        if credentials:
            request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                raw, kind = answer.read(), answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            raise HttpError(error.code, error.read().decode(errors="replace")) from None
        return json.loads(raw) if kind == "application/json" else raw if kind.startswith("image/") else raw.decode()

    def status(self, path: str, body: Any = None, auth: str | None = "") -> int:
        """The status code alone."""
        try:
            self.call(path, body, auth=auth)
        except HttpError as error:
            return error.status
        return 200

    def txt2img(self, prompt: str, seed: int = 7, negative: str = "", **more: Any) -> np.ndarray:
        """Pixels of the host's own txt2img, (H, W, 3) uint8."""
        body = {"prompt": prompt, "negative_prompt": negative, "seed": seed, **SETTINGS, **more}
        answer = self.call("/sdapi/v1/txt2img", body)
        with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))) as image:
            return np.asarray(image.convert("RGB"))

    def checkpoint(self) -> str:
        """The checkpoint that is chosen."""
        return str(self.call("/sdapi/v1/options")["sd_model_checkpoint"])

    def choose(self, checkpoint: str) -> None:
        """Choose a checkpoint; comes back when the WebUI has taken it, which may wait for a running job."""
        self.call("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint})

    def job(self, id: str) -> dict[str, Any]:
        return dict(self.call(f"{V1}/jobs/{id}"))

    def until(self, id: str, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Poll a job until ``reached`` or it is over."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            state = self.job(id)
            if reached(state) or state["status"] in ENDED:
                return state
            time.sleep(0.05)
        raise AssertionError(f"job {id} is still {state['status']} after {PATIENCE:.0f} s: {state}")

    def over(self, id: str) -> dict[str, Any]:
        """The job's last state."""
        return self.until(id, lambda state: False)

    def train(self, **settings: Any) -> str:
        """Start a training of a few steps; returns the job's id."""
        body = {
            "train_data_dir": "lora-eval-live", "resolution": SIDE, "max_steps": 6, "batch_size": 2, "save_steps": 3,
            "lora_rank": 4, "learning_rate": 1e-3, "publish": False, "name": "live",
            "validation_fraction": 0, "validation_steps": 1000,
        }  # fmt: skip
        return str(self.call(f"{V1}/train", {**body, **settings})["id"])

    def score(self, lora: str, **settings: Any) -> str:
        """Start a scorecard of a few cells; returns the job's id."""
        body = {
            "lora": lora, "weights": "0, 0.7", "seeds": 2, "prompts": 2, "suite": "tiny", "kind": "object",
            "trigger": "zorp", "class_word": "bird", "steps": SETTINGS["steps"], "cfg_scale": SETTINGS["cfg_scale"],
            "width": SIDE, "height": SIDE, "encoder": "models/lora-eval-live-clip",
        }  # fmt: skip
        return str(self.call(f"{V1}/score", {**body, **settings})["id"])

    def picture(self, run: str, cell: str) -> np.ndarray:
        """Pixels of a cell of a run."""
        raw = self.call(f"{V1}/runs/{quote(run)}/images/{quote(Path(cell).name)}")
        with Image.open(io.BytesIO(raw)) as image:
            return np.asarray(image.convert("RGB"))

    def inside(self) -> dict[str, Any]:
        """What the probe sees in the process."""
        try:
            return dict(self.call("/lora-eval-probe/state"))
        except HttpError:
            pytest.skip("tests/live/probe is not among the WebUI's extensions")


def make_pictures(folder: Path) -> None:
    """Twenty drawings with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    for number in range(20):
        image = Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in generator.integers(0, 120, 3)))
        x, y = (int(v) for v in generator.integers(4, 24, 2))
        ImageDraw.Draw(image).ellipse([x, y, x + 34, y + 34], fill=(230, int(generator.integers(60, 140)), 40))
        image.save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"zorp on plain ground {number}")
