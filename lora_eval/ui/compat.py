"""Where gradio 3.41 (AUTOMATIC1111), 4.40 (Forge) and 5 or later (standalone) differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import gradio as gr

from lora_eval.host.current import current_settings
from lora_eval.i18n.language import speak

MAJOR = int(re.match(r"\d+", gr.__version__)[0])  # type: ignore[index]

Update = dict[str, Any]


def listen(
    event: Any,
    function: Callable[..., Any] | None,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    js: str | None = None,
    quiet: bool = False,
) -> None:
    """Connect an event. It bypasses gradio's queue: every handler is short, and a closed page must stop nothing.

    Args:
        event: such as ``button.click``.
        js: function run in the page before, whose array becomes the inputs.
        quiet: no spinner over the outputs, for what happens by itself.
    """
    if function is not None:
        function = _spoken(function)
    options: dict[str, Any] = {"queue": False, "show_progress": "hidden" if quiet else "minimal"}
    if js is not None:
        options["_js" if MAJOR < 4 else "js"] = js
    event(fn=function, inputs=list(inputs), outputs=list(outputs), **options)


def _spoken(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same in the language that is set; gradio counts the arguments, so it must look the same."""

    @wraps(function)
    def run(*values: Any) -> Any:
        with speak(current_settings().language):
            return function(*values)

    return run


def keep() -> Update:
    """An output that stays as it is."""
    return gr.update()  # type: ignore[no-any-return]


def open_choice(choices: Sequence[str], words: tuple[str, str], elem_id: str, value: str = "", **layout: Any) -> Any:
    """A list to choose from that also takes what is typed. ``words``: label and explanation."""
    label, info = words
    return gr.Dropdown(
        list(choices), value=value, allow_custom_value=True, label=label, info=info, elem_id=elem_id, **layout
    )


def html(value: str = "", **about: Any) -> Any:
    """An HTML component without the inner margin that newer versions give it."""
    return gr.HTML(value, **about, **({"padding": False} if MAJOR >= 5 else {}))


def section(markup: str) -> Update:
    """Markup for an HTML component that takes no room while there is none."""
    return gr.update(value=markup, visible=bool(markup))  # type: ignore[no-any-return]


def transient(component: Any) -> Any:
    """A component whose value the WebUI must not keep in ``ui-config.json``."""
    component.do_not_save_to_config = True
    return component


def page_options(head: str, css: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arguments of Blocks, arguments of launch) that put our style and script on a page of our own."""
    if MAJOR < 4:
        return {"css": css}, {}
    if MAJOR < 6:
        return {"css": css, "head": head}, {}
    return {}, {"css": css, "head": head}
