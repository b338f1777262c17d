"""Both tabs on a page of our own, for ``python -m lora_eval ui``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from lora_eval.errors import HostError
from lora_eval.files import ASSETS
from lora_eval.host.current import current_settings
from lora_eval.i18n.language import ENGLISH
from lora_eval.service.served_files import add_routes
from lora_eval.ui import compat
from lora_eval.ui.controller import Controller
from lora_eval.ui.tabs import tabs

ROOT = Path(__file__).resolve().parent.parent.parent
DEFAULT_PORT = 7862


def build(controller: Controller | None = None) -> tuple[gr.Blocks, dict[str, Any]]:
    """The page and the arguments its ``launch`` needs beside address and port."""
    script, style = _asset("javascript", "lora_eval.js") + _localisation(), _asset("", "style.css")
    made = tabs(controller)
    about, launching = compat.page_options(f"<script>{script}</script>", style)
    with gr.Blocks(title="LoRA Eval", analytics_enabled=False, **about) as page:
        with gr.Tabs(elem_id="tabs"):
            for blocks, title, element in made:
                with gr.Tab(title, elem_id=f"tab_{element}"):
                    blocks.render()
        if compat.MAJOR < 4:
            # this version has no place for a script in the page's head
            page.load(None, None, None, _js=f"() => {{ {script} }}")
    return page, launching


def _localisation() -> str:
    """The script that says the tabs' texts in the language that is set; "" for English."""
    language = current_settings().language
    if language == ENGLISH:
        return ""
    words = json.dumps(json.loads(_asset("localizations", f"{language}.json")), ensure_ascii=False)
    localize = (ASSETS / "ui" / "localize.js").read_text(encoding="utf-8")
    return localize.replace("LORA_EVAL_WORDS", words.replace("<", "\\u003c"))


def launch(
    host: str = "127.0.0.1",
    port: int | None = None,
    controller: Controller | None = None,
    block: bool = True,
    auth: tuple[str, str] | None = None,
) -> gr.Blocks:
    """Serve the page. ``block``: until the process is ended. ``auth``: user and password that the page asks for."""
    page, options = build(controller)
    if compat.MAJOR < 6:
        options["show_api"] = False
    else:
        options["footer_links"] = []
    app, _, _ = page.launch(
        auth=auth,
        server_name=host,
        server_port=port or DEFAULT_PORT,
        prevent_thread_lock=True,
        quiet=not block,
        **options,
    )
    add_routes(app)
    if block:
        page.block_thread()
    return page


def _asset(folder: str, name: str) -> str:
    """A file that the WebUI loads by itself from the extension's folder; a wheel has it among the package's assets.

    Raises HostError when it is in neither place.
    """
    places = (ROOT / folder / name, ROOT / "lora_eval" / "assets" / "page" / name)
    for path in places:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise HostError(f"{places[0]} is missing; install the package again")
