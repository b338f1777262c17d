"""Bodies of the REST routes: what a caller may send, checked alike by pydantic 1.10 (A1111) and 2 (Forge)."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, ClassVar

import pydantic
from pydantic import StrictBool, StrictFloat, StrictInt

from lora_eval.api import paths
from lora_eval.options.option import inner_type
from lora_eval.scorecard.plan.request import SCORE_FIELDS, ScoreRequest
from lora_eval.training.config import PATHS as CONFIG_PATHS
from lora_eval.training.config import TrainConfig

_VERSION_1 = pydantic.VERSION.startswith("1.")

# far above what anybody writes, far below what ties up a server
MOST_LETTERS, MOST_ITEMS = 10_000, 1_000
Text: Any = pydantic.constr(strict=True, max_length=MOST_LETTERS)


def _items(kind: Any) -> Any:
    """A list of bounded length."""
    bound: Any = {"max_items" if _VERSION_1 else "max_length": MOST_ITEMS}
    return pydantic.conlist(kind, **bound)


# pydantic's strict types: version 1 would turn 2.5 into 2 for an int without a word
_STRICT: dict[Any, Any] = {int: StrictInt, float: StrictInt | StrictFloat, str: Text, bool: StrictBool}


class Body(pydantic.BaseModel):
    """A request's body; unknown names are an error. ``PATHS``: see :mod:`lora_eval.api.paths`."""

    PATHS: ClassVar[Mapping[str, str]] = {}

    if _VERSION_1:

        class Config:
            extra = "forbid"

    else:
        model_config = {"extra": "forbid"}

    def given(self) -> dict[str, Any]:
        """The values that the caller sent."""
        return dict(self.dict(exclude_unset=True) if _VERSION_1 else self.model_dump(exclude_unset=True))


def _strict(hint: Any) -> Any:
    """A setting's type as strict pydantic has it, None allowed."""
    if typing.get_origin(hint) is list:
        return _items(_STRICT[typing.get_args(hint)[0]]) | None
    kind = inner_type(hint)
    return _STRICT[kind] | None if kind in _STRICT else Any


_SETTINGS: dict[str, Any] = {name: (_strict(hint), None) for name, hint in typing.get_type_hints(TrainConfig).items()}

TrainBody: Any = pydantic.create_model(  # type: ignore[call-overload]
    "TrainBody", __base__=Body, template=(Text | None, None), resume=(StrictBool, False), **_SETTINGS
)
TrainBody.PATHS = dict.fromkeys(CONFIG_PATHS, paths.PATH)
TrainBody.__doc__ = "The keys of a training config; ``template`` names a shipped one to start from."


def body_key(name: str) -> str:
    """Key of a request's field in the body."""
    return str(SCORE_FIELDS[name].metadata.get("body", name))


def _score_type(name: str, hint: Any) -> Any:
    """A field's type in the body: paths, axes and ranges are texts; a LoRA may be one or several."""
    if name == "loras":
        return Text | _items(Text)
    if name in ("seeds", "prompts"):
        return StrictInt | Text | None
    return _STRICT.get(inner_type(hint), Text) | None


_FIELDS: dict[str, Any] = {
    body_key(name): (
        _score_type(name, hint),
        ... if name == "loras" else SCORE_FIELDS[name].default if name == "preset" else None,
    )
    for name, hint in typing.get_type_hints(ScoreRequest).items()
}

ScoreBody: Any = pydantic.create_model("ScoreBody", __base__=Body, **_FIELDS)  # type: ignore[call-overload]
_KINDS = {True: paths.PATH, "suite": paths.SUITE, "encoder": paths.ENCODER}
ScoreBody.PATHS = {
    **{body_key(name): _KINDS[kind] for name, one in SCORE_FIELDS.items() if (kind := one.metadata.get("path"))},
    body_key("loras"): paths.LIST,
    body_key("out"): paths.NAME,
}
ScoreBody.__doc__ = "What the ``score`` command takes. ``run`` is the run's name: the same name again continues it."


class CheckBody(Body):
    """What the ``check`` command takes."""

    PATHS: ClassVar[Mapping[str, str]] = {"data": paths.PATH, "metadata": paths.PATH}
    data: Text
    metadata: Text | None = None
    trigger: Text | None = None
    class_word: Text | None = None
    resolution: pydantic.conint(strict=True, ge=32, le=4096) | None = None  # type: ignore[valid-type]


class CaptionBody(Body):
    """Captions for a folder. ``by``: one of ``GET /captioners``; ``overwrite``: also where there are some."""

    PATHS: ClassVar[Mapping[str, str]] = {"data": paths.PATH, "metadata": paths.PATH}
    data: Text
    by: Text
    metadata: Text | None = None
    trigger: Text = ""
    class_word: Text = ""
    overwrite: StrictBool = False


class CompareBody(Body):
    """What the ``compare`` command takes; ``runs`` are names of finished scorecard runs."""

    # names of runs, each looked up as one plain part of a path where the runs are
    runs: _items(Text)  # type: ignore[valid-type]
    at: _items(Text) = []  # type: ignore[valid-type]
