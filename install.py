"""Run by the WebUI at start. It installs nothing: both WebUIs bring everything that LoRA Eval needs.

Where something is missing after all, it says what and why in one line and leaves the decision to the user, since
another version of a shared package can break the WebUI itself.
"""

import importlib.util
import sys

NEEDED = {
    "torch": ("torch", "training"),
    "safetensors": ("safetensors", "LoRA files"),
    "numpy": ("numpy", "the measures"),
    "PIL": ("pillow", "pictures"),
    "pandas": ("pandas", "the scorecard's tables"),
    "skimage": ("scikit-image", "distortion and copy checks"),
    "open_clip": ("open-clip-torch", "image and text features"),
    "yaml": ("pyyaml", "training configs"),
}


def missing() -> dict[str, str]:
    """Package name -> what it is for, of those that cannot be imported."""
    return {package: why for module, (package, why) in NEEDED.items() if importlib.util.find_spec(module) is None}


if lacking := missing():
    reasons = ", ".join(f"{package} for {why}" for package, why in lacking.items())
    print(f'LoRA Eval needs {reasons}; install with: "{sys.executable}" -m pip install {" ".join(lacking)}')
