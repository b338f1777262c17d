"""Bodies of the REST routes: what a caller may send, checked alike by pydantic 1.10 (A1111) and 2 (Forge)."""

from __future__ import annotations

import typing
from typing import Any

import pydantic
from pydantic import StrictBool, StrictFloat, StrictInt, StrictStr

from lora_eval.options.option import inner_type
from lora_eval.scorecard.plan.request import SCORE_FIELDS, ScoreRequest
from lora_eval.training.config import TrainConfig

_VERSION_1 = pydantic.VERSION.startswith("1.")

# pydantic's strict types: version 1 would turn 2.5 into 2 for an int without a word
_STRICT: dict[Any, Any] = {int: StrictInt, float: StrictInt | StrictFloat, str: StrictStr, bool: StrictBool}


class Body(pydantic.BaseModel):
    """A request's body; unknown names are an error."""

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
        return list[_STRICT[typing.get_args(hint)[0]]] | None  # type: ignore[valid-type, misc]
    kind = inner_type(hint)
    return _STRICT[kind] | None if kind in _STRICT else Any


_SETTINGS: dict[str, Any] = {name: (_strict(hint), None) for name, hint in typing.get_type_hints(TrainConfig).items()}

TrainBody: Any = pydantic.create_model(  # type: ignore[call-overload]
    "TrainBody", __base__=Body, template=(StrictStr | None, None), resume=(StrictBool, False), **_SETTINGS
)
TrainBody.__doc__ = "The keys of a training config; ``template`` names a shipped one to start from."


def body_key(name: str) -> str:
    """Key of a request's field in the body."""
    return str(SCORE_FIELDS[name].metadata.get("body", name))


def _score_type(name: str, hint: Any) -> Any:
    """A field's type in the body: paths, axes and ranges are texts; a LoRA may be one or several."""
    if name == "loras":
        return StrictStr | list[StrictStr]
    if name in ("seeds", "prompts"):
        return StrictInt | StrictStr | None
    return _STRICT.get(inner_type(hint), StrictStr) | None


_FIELDS: dict[str, Any] = {
    body_key(name): (
        _score_type(name, hint),
        ... if name == "loras" else SCORE_FIELDS[name].default if name == "preset" else None,
    )
    for name, hint in typing.get_type_hints(ScoreRequest).items()
}

ScoreBody: Any = pydantic.create_model("ScoreBody", __base__=Body, **_FIELDS)  # type: ignore[call-overload]
ScoreBody.__doc__ = "What the ``score`` command takes. ``run`` is the run's name: the same name again continues it."


class CheckBody(Body):
    """What the ``check`` command takes."""

    data: StrictStr
    metadata: StrictStr | None = None
    trigger: StrictStr | None = None
    class_word: StrictStr | None = None
    resolution: StrictInt | None = None


class CaptionBody(Body):
    """Captions for a folder. ``by``: one of ``GET /captioners``; ``overwrite``: also where there are some."""

    data: StrictStr
    by: StrictStr
    metadata: StrictStr | None = None
    trigger: StrictStr = ""
    class_word: StrictStr = ""
    overwrite: StrictBool = False


class CompareBody(Body):
    """What the ``compare`` command takes; ``runs`` are names of finished scorecard runs."""

    runs: list[StrictStr]
    at: list[StrictStr] = []
