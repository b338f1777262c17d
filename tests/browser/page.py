"""Serves both tabs with a host and jobs that need no model: ``python tests/browser/page.py PORT FOLDER``.

It imports no torch, so it runs wherever gradio does, and answers as the real controller does.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from PIL import Image, ImageDraw

from lora_eval.dataset.folder import read_sidecar
from lora_eval.errors import LoraEvalError
from lora_eval.host.protocol import Host, HostInfo, Job, ModelInfo
from lora_eval.scorecard.plan.request import ScoreRequest
from lora_eval.service.jobs import Handle, JobQueue
from lora_eval.service.training_pictures import Checked, CheckedPicture
from lora_eval.training.config import make_config, save_config
from lora_eval.ui.controller import Controller


class PaperHost(Host):
    """Folders and a sampler list; it cannot draw."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def info(self) -> HostInfo:
        return HostInfo("standalone", "test", "cpu")

    def model(self) -> ModelInfo:
        return ModelInfo("paper", "", "sd1", "epsilon")

    @property
    def lora_folder(self) -> Path:
        return self.root / "loras"

    @property
    def output_folder(self) -> Path:
        return self.root / "lora-eval"

    def samplers(self) -> list[str]:
        return ["Euler", "DPM++ 2M"]

    def refresh_loras(self) -> None:
        (self.root / "refreshed").write_text("yes")

    def _no(self, *_: Any, **__: Any) -> Any:
        raise LoraEvalError("this host cannot draw")

    generate = check_lora = job = borrow_model = _no  # type: ignore[assignment]


def picture(path: Path, colour: tuple[int, int, int], words: str, side: int = 256) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (side, side), colour)
    ImageDraw.Draw(image).ellipse((side // 4, side // 4, side * 3 // 4, side * 3 // 4), fill=(250, 240, 200))
    ImageDraw.Draw(image).text((8, 8), words, fill=(255, 255, 255))
    image.save(path)


class PaperDesk(Controller):
    """The real controller with jobs that write what the real ones write, in seconds."""

    pace = float(os.environ.get("LORA_EVAL_TEST_PACE", "0.1"))

    def train(self, values: Mapping[str, Any], resume: bool = False) -> str:
        config = make_config(values)
        config.require()
        folder = self.host().output_folder / config.run_name()

        def run(handle: Handle) -> dict[str, Any]:
            total = config.max_steps or 40
            job = handle.follow(Job("training", total))
            folder.mkdir(parents=True, exist_ok=True)
            save_config(config, folder / "config.yaml")
            log = folder / "history.csv"
            log.write_text("step,epoch,lr,loss,val_loss\n0,0,,,0.21\n")
            for step in range(1, total + 1):
                job.check()
                time.sleep(self.pace)
                loss = 0.12 + 0.09 * math.exp(-step / 12) + 0.01 * math.sin(step * 2.7)
                if config.name == "broken" and step == 4:
                    raise LoraEvalError("p00.png cannot be read; replace it")
                value = f"{0.13 + 0.08 * math.exp(-step / 15):.5f}" if step % 5 == 0 else ""
                with open(log, "a") as file:
                    file.write(f"{step},1,0.0001,{loss:.5f},{value}\n")
                if step % 10 == 0:
                    for number in range(2):
                        name = f"{config.run_name()}-{step:06d}-{number:02d}.png"
                        picture(folder / "samples" / name, (step * 5 % 255, 90, 140 - number * 50), f"step {step}")
                    (folder / f"{config.run_name()}-{step:06d}.safetensors").write_bytes(b"x" * 64)
                job.advance(1, f"step {step}/{total}, loss {loss:.4f}")
            return {"folder": str(folder), "lora": str(folder / f"{config.run_name()}.safetensors")}

        id = self.queue.submit("train", config.run_name(), run)
        self._configs[id] = config
        return id

    def check(
        self, folder: str, metadata: str | None, trigger: str, resolution: Any, class_word: str | None = None
    ) -> Checked:
        root = Path(folder)
        if not root.is_dir():
            raise LoraEvalError(f"{folder} does not exist; give the folder with the training pictures")
        pictures = [
            CheckedPicture(path.name, path, read_sidecar(path) or f"{path.stem}, a <b>garden</b>")
            for path in sorted(root.glob("*.png"))
        ]
        names = ("severity", "code", "picture", "message", "mend")
        rows = [
            ("error", "blank", pictures[0].name, "one flat colour", "remove it"),
            ("warning", "few pictures", "", "only 12 picture(s)", "50 to 200 are advised"),
        ]
        findings = [dict(zip(names, row, strict=True)) for row in rows]
        return Checked(pictures, findings)

    def score(self, order: ScoreRequest) -> str:
        self.estimate(order)
        folder = self.host().output_folder / f"{order.loras[0].stem}-scorecard"

        def run(handle: Handle) -> dict[str, Any]:
            handle.result = {"folder": str(folder), "run": folder.name}
            job = handle.follow(Job("scorecard", 24))
            folder.mkdir(parents=True, exist_ok=True)
            plan = {"loras": [{"name": p.stem, "path": str(p)} for p in order.loras], "trigger": "sks", "sampling": {}}
            (folder / "plan.json").write_text(json.dumps(plan))
            for number in range(24):
                job.check()
                time.sleep(self.pace)
                picture(folder / "images" / f"cell_{number:02d}.png", (40, number * 10, 120), f"cell {number}")
                job.advance(1, f"cell {number}")
            names = ("consistency", "fidelity", "generalisation", "curve", "strength", "alignment")
            dimensions = {
                name: {
                    "score": None if name == "curve" else 0.4 + 0.08 * at,
                    "ci_low": 0.3 + 0.08 * at,
                    "ci_high": 0.5 + 0.08 * at,
                    "n": 24,
                    "verdict": "not measured" if name == "curve" else "good",
                    "reason": "compared with <weight 0>",
                    "evidence": {},
                }
                for at, name in enumerate(names)
            }
            best = {"checkpoint": order.loras[-1].stem, "weight": 0.7}
            card = {"verdict": f"Use {best['checkpoint']} at 0.7.", "recommended": best, "dimensions": dimensions}
            for name, words in (("cells.csv", "run,lora\n1,flower\n"), ("summary.csv", "checkpoint\nflower\n")):
                (folder / name).write_text(words)
            (folder / "report.html").write_text("<!doctype html><h1>Report</h1>")
            (folder / "scorecard.json").write_text(json.dumps(card))
            return handle.result

        return self.queue.submit("score", folder.name, run)


def main(port: int, root: Path) -> None:
    """Serve until killed."""
    from lora_eval.ui.standalone import launch

    host = PaperHost(root)
    host.lora_folder.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        picture(root / "pictures" / f"p{number:02d}.png", (number * 20, 120, 200 - number * 10), f"picture {number}")
    queue = JobQueue()
    launch(port=port, controller=PaperDesk(lambda: host, queue))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
