"""What a wheel carries: the page's script and style, which a WebUI takes from the extension's folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("setuptools")
ROOT = Path(__file__).resolve().parents[1]


def test_an_installed_package_serves_the_same_page(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    build = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path), "build_py"]
    subprocess.run([*build, "--build-lib", str(tmp_path / "lib")], cwd=ROOT, check=True, capture_output=True)
    assert not (tmp_path / "lib" / "style.css").exists()
    parts = "_asset('javascript', 'lora_eval.js') + _asset('', 'style.css')"
    show = f"from lora_eval.ui.standalone import _asset; print({parts})"
    run = subprocess.run(
        [sys.executable, "-c", show],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "lib"), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
    )
    assert run.returncode == 0, run.stderr
    wanted = [(ROOT / name).read_text(encoding="utf-8") for name in ("javascript/lora_eval.js", "style.css")]
    assert run.stdout.strip() == "".join(wanted).strip()
