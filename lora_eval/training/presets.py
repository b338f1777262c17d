"""Settings that a person keeps under a name: YAML files of the output folder, without what belongs to one dataset."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from lora_eval.errors import ConfigError
from lora_eval.files import make_folder, write_text
from lora_eval.options.option import bad_name
from lora_eval.training.config import TrainConfig, load_config, read_yaml, to_dict, to_yaml

# these say what is trained, not how
OF_A_DATASET = (
    "train_data_dir", "metadata_path", "reg_data_dir", "output_dir", "name", "trigger", "class_word", "init_lora",
)  # fmt: skip


def preset_names(folder: Path) -> list[str]:
    """Names of the presets in a folder, sorted; none when there is no such folder."""
    return sorted((path.stem for path in Path(folder).glob("*.yaml")), key=str.lower)


def save_preset(folder: Path, name: str, config: TrainConfig) -> Path:
    """Keep a config's settings under a name; one of that name is replaced. Raises ConfigError, RunError."""
    name = name.strip()
    if bad := bad_name(name):
        raise ConfigError(f"a preset cannot be called {name!r}: {bad}; use letters, digits, blank, - and _")
    values = {key: value for key, value in to_dict(config).items() if key not in OF_A_DATASET}
    path = make_folder(Path(folder)) / f"{name}.yaml"
    write_text(path, to_yaml(values))
    return path


def load_preset(folder: Path, name: str) -> dict[str, Any]:
    """Every setting of a preset except those of a dataset. Raises ConfigError with the nearest name."""
    names = preset_names(folder)
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else "there are " + (", ".join(names) or "none yet")
        raise ConfigError(f"there is no preset {name!r}; {hint}")
    values = to_dict(load_config(Path(folder) / f"{name}.yaml"))
    return {key: value for key, value in values.items() if key not in OF_A_DATASET}


def read_settings(path: Path | str) -> tuple[dict[str, Any], list[str]]:
    """The settings of a file: our YAML, or the TOML of kohya's scripts.

    Returns:
        The values that the file speaks of (for kohya's also its defaults where ours differ), to be checked by
        ``make_config``, and notes: what could not be taken over.

    Raises:
        ConfigError: one line naming the file and what is wrong with it.
    """
    path = Path(path)
    if path.suffix.lower() == ".toml":
        from lora_eval.training.kohya import import_kohya

        config, notes = import_kohya(path)
        plain = to_dict(TrainConfig())
        return {key: value for key, value in to_dict(config).items() if value != plain[key]}, notes
    return read_yaml(path), []
