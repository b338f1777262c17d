"""The page's script and style lie where a WebUI loads them; a wheel carries them inside the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PAGE = ("style.css", "javascript/lora_eval.js")


class BuildWithPage(build_py):
    """Copies the page's files into ``lora_eval/assets/page``."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / "lora_eval" / "assets" / "page"
        folder.mkdir(parents=True, exist_ok=True)
        for name in PAGE:
            shutil.copyfile(ROOT / name, folder / Path(name).name)


setup(cmdclass={"build_py": BuildWithPage})
