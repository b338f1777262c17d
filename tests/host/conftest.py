"""Tiny random checkpoints for the standalone host's own tests, one a family and session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_models import write_tiny_model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family -> folder in diffusers layout."""
    pytest.importorskip("diffusers")
    root = tmp_path_factory.mktemp("tiny")

    def get(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else write_tiny_model(folder, family)

    return get
