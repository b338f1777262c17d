"""The ``[general]`` and ``[[datasets]]`` tables of kohya's dataset configs as settings of one folder.

A run trains on one folder here. A config with one subset of pictures becomes that folder; several become the folder
above them where each is called ``<repeats>_<name>``, which is how sd-scripts reads the same folder; anything else is an
error, because it cannot be trained as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from lora_eval.dataset.folder import split_repeats
from lora_eval.errors import ConfigError

_RENAMED = {"batch_size": "train_batch_size"}


def split_datasets(found: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A TOML as (its settings, sections laid flat; one flat mapping for each subset of its datasets).

    A subset has what its dataset and ``[general]`` say, the inner one first, as sd-scripts' BlueprintGenerator.
    """
    flat: dict[str, Any] = {}
    subsets: list[dict[str, Any]] = []
    general = found.get("general") if isinstance(found.get("general"), Mapping) else {}
    datasets = found.get("datasets")
    for key, value in found.items():
        if key == "datasets" or (key == "general" and datasets is not None):
            continue
        flat.update(_flat({key: value}))
    for dataset in datasets if isinstance(datasets, list) else []:
        outer = {**(general or {}), **{key: value for key, value in dataset.items() if key != "subsets"}}
        subsets += [{**outer, **subset} for subset in dataset.get("subsets", [])]
    if datasets is not None and not subsets:
        raise ConfigError("its [[datasets]] have no [[datasets.subsets]]; write one with image_dir")
    return flat, [{_RENAMED.get(key, key): value for key, value in one.items()} for one in subsets]


def _flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """sd-scripts ignores the names of sections."""
    flat: dict[str, Any] = {}
    for key, value in found.items():
        flat.update(_flat(value) if isinstance(value, Mapping) else {key: value})
    return flat


def one_folder(subsets: list[dict[str, Any]]) -> dict[str, Any]:
    """The subsets as settings of one folder, ``num_repeats`` among them. Raises ConfigError where they are several."""
    regular = [one for one in subsets if one.get("is_reg")]
    own = [one for one in subsets if not one.get("is_reg")]
    if not own or len(regular) > 1:
        raise ConfigError(
            f"it has {len(own)} folders of pictures and {len(regular)} of regularisation; write one of pictures and "
            "at most one of regularisation"
        )
    settings = {key: value for key, value in own[0].items() if key not in ("image_dir", "is_reg")}
    folders = [str(one.get("image_dir", "")) for one in own]
    if len(own) == 1:
        settings["train_data_dir"] = folders[0]
    else:
        paths = [PurePosixPath(folder.replace("\\", "/")) for folder in folders]
        rest = [{k: v for k, v in one.items() if k not in ("image_dir", "num_repeats", "is_reg")} for one in own]
        fits = [(split_repeats(path.name) or (0, ""))[0] == one.get("num_repeats", 1)
                for path, one in zip(paths, own, strict=True)]  # fmt: skip
        if len({path.parent for path in paths}) > 1 or not all(fits) or any(one != rest[0] for one in rest):
            raise ConfigError(
                f"it has {len(own)} folders of pictures ({', '.join(folders)}), one is trained on here; put them as "
                "<repeats>_<name> into one folder and name that as train_data_dir"
            )
        settings["train_data_dir"] = str(paths[0].parent)
        settings.pop("num_repeats", None)
    if regular:
        settings["reg_data_dir"] = str(regular[0].get("image_dir", ""))
    return settings
