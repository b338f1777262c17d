"""Where the WebUI calls us: settings, tabs, routes.

The WebUI executes ``scripts/lora_eval.py`` at start and again on Reload UI; this package stays loaded, so jobs go on.
Heavy modules are imported when first used, to keep the WebUI's start quick.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_eval.encoders.choices import CHOICES
from lora_eval.errors import HostError, LoraEvalError
from lora_eval.extension.xyz_axes import Axes, find_grid, link_into, ordered_names, provide_all
from lora_eval.host.current import Settings, current_host, install
from lora_eval.host.protocol import Host
from lora_eval.host.webui.queue import reload_watch
from lora_eval.host.webui.staging import Staging
from lora_eval.i18n.language import ENGLISH, names
from lora_eval.log import logger
from lora_eval.service import library
from lora_eval.service.jobs import queue
from lora_eval.service.served_files import add_routes

if TYPE_CHECKING:
    from fastapi import FastAPI

    from lora_eval.api.guard import Doors

SECTION = ("lora_eval", "LoRA Eval")
TABS = "lora_eval.ui.tabs"
extension_folder: Path | None = None
_folders: tuple[list[Path], Path | None] | None = None


def register(folder: str) -> None:
    """Hook into the WebUI. ``folder`` is the extension's own."""
    global extension_folder
    from modules import script_callbacks, shared

    extension_folder = Path(folder)
    reload_watch.hook(shared.state)
    install(make_host, read_settings)
    forget_pages()
    # The others follow from there. ``on_before_ui`` would do the same, but looks through every module that is loaded
    # to learn who calls: a tenth of a second at each start
    script_callbacks.add_callback(
        script_callbacks.callback_map["callbacks_before_ui"],
        before_ui,
        category="before_ui",
        filename=str(extension_folder / "scripts" / "lora_eval.py"),
    )


def before_ui() -> None:
    """Before the page is built: tabs, routes, settings and the plot's axes."""
    from modules import script_callbacks

    script_callbacks.on_ui_tabs(make_tabs)
    script_callbacks.on_app_started(start)
    add_settings()
    add_axes()


def make_host() -> Host:
    """The adapter for the WebUI around us. Raises HostError naming what is supported."""
    forge = importlib.util.find_spec("modules_forge") is not None
    if forge and importlib.util.find_spec("backend") is not None:
        from lora_eval.host.webui.forge import ForgeHost

        return ForgeHost()
    if forge:
        raise HostError("reForge is not supported; LoRA Eval runs in AUTOMATIC1111 1.10 and in Forge")
    if importlib.util.find_spec("modules.call_queue") is None:
        raise HostError("this WebUI is not supported; LoRA Eval runs in AUTOMATIC1111 1.10 and in Forge")
    from lora_eval.host.webui.a1111 import A1111Host

    return A1111Host()


def add_settings() -> None:
    """The section under Settings."""
    import gradio as gr
    from modules import shared

    # paths cannot be set by REST: a caller could otherwise widen what it may read
    options = {
        "lora_eval_output_dir": shared.OptionInfo("", "Folder for runs", gr.Textbox, section=SECTION, restrict_api=True)
        .info("empty: lora-eval in the WebUI's outputs")
        .needs_reload_ui(),
        "lora_eval_allowed_dirs": shared.OptionInfo(
            "", "Further folders that REST calls may name", gr.Textbox, {"lines": 3}, section=SECTION, restrict_api=True
        )
        .info("one a line; the WebUI's own folders and the LoRA folder are always allowed")
        .needs_reload_ui(),
        "lora_eval_batch_size": shared.OptionInfo(
            4, "Pictures drawn at once in a sweep", gr.Slider, {"minimum": 1, "maximum": 32, "step": 1}, section=SECTION
        ).info("fewer need less memory"),
        "lora_eval_size": shared.OptionInfo(
            0, "Picture size where none is set", gr.Slider, {"minimum": 0, "maximum": 2048, "step": 64}, section=SECTION
        ).info("of training, its test pictures and scorecards; 0: the size that the model was made for"),
        "lora_eval_encoder": shared.OptionInfo(
            "auto", "Image and text encoder of the scorecard", gr.Textbox, section=SECTION
        ).info(CHOICES),
    }
    for key, info in options.items():
        shared.opts.add_option(key, info)


def read_settings() -> Settings:
    """The section's values: folders as they were when the page was built, the rest as they are now."""
    from modules import shared

    batch_size = int(getattr(shared.opts, "lora_eval_batch_size", 4))
    encoder = str(getattr(shared.opts, "lora_eval_encoder", "auto")).strip() or "auto"
    allowed, output = _folders if _folders is not None else _read_folders()
    # the WebUI's own localisation: what is set there is spoken here
    language = str(getattr(shared.opts, "localization", "") or "")
    size = int(getattr(shared.opts, "lora_eval_size", 0))
    return Settings(batch_size, encoder, list(allowed), output, language if language in names() else ENGLISH, size)


def _read_folders() -> tuple[list[Path], Path | None]:
    from modules import shared

    def path(text: str) -> Path:
        return Path(text.strip()).expanduser().absolute()

    lines = str(getattr(shared.opts, "lora_eval_allowed_dirs", "") or "").splitlines()
    flags = list(getattr(shared.cmd_opts, "lora_eval_allow_dir", None) or [])
    output = getattr(shared.opts, "lora_eval_output_dir", "") or getattr(shared.cmd_opts, "lora_eval_output_dir", None)
    return [path(text) for text in [*lines, *flags] if text.strip()], path(output) if output else None


def add_axes() -> None:
    """The axes "LoRA checkpoint" and "LoRA weight" of the WebUI's X/Y/Z plot, before its page is built."""
    from modules import scripts

    grid = find_grid(scripts.scripts_data)
    if grid is None:
        logger.warning("the script X/Y/Z plot was not found; it gets no LoRA axes")
        return
    Axes(_axis_names, _provide_loras, _planned_axes).add_to(grid)


def _run_checkpoints() -> list[list[Path]]:
    """Checkpoints of each training run by step, the latest run first."""
    return [library.checkpoints(run) for run in library.training_runs(current_host().output_folder)]


def _axis_names() -> list[str]:
    from lora_eval.host.webui.host import networks

    try:
        return ordered_names(_run_checkpoints(), networks().available_networks)
    except LoraEvalError as error:
        logger.warning("no LoRAs to choose from on the X/Y/Z plot: %s", error)
        return []


def _provide_loras(names: Sequence[str]) -> None:
    from lora_eval.host.webui.host import networks

    host = current_host()
    files = [path for run in _run_checkpoints() for path in run]

    def known() -> list[str]:
        # the WebUI lists a LoRA whose file was deleted until its next refresh, and draws without it
        return [name for name, found in networks().available_networks.items() if Path(found.filename).is_file()]

    provide_all(names, known, files, lambda path: link_into(host.lora_folder, path), host.refresh_loras)


def _planned_axes() -> list[str]:
    """Labels of the axes of the plot that is being drawn (the script leaves them in the WebUI's state)."""
    from modules import shared

    infos = (getattr(shared.state, f"xyz_plot_{axis}", None) for axis in "xyz")
    return [info.axis.label for info in infos if info is not None]


def make_tabs() -> list[tuple[Any, str, str]]:
    """Both tabs as (blocks, title, element id)."""
    if importlib.util.find_spec(TABS) is None:
        return []
    tabs = importlib.import_module(TABS).tabs
    with only_parts():
        return list(tabs())


@contextmanager
def only_parts() -> Iterator[None]:
    """Inside, gradio's Blocks get no web app of their own: they become parts of the WebUI's page.

    gradio makes an app for each Blocks when it is opened and again when it is closed; for both tabs that costs a
    tenth of a second at each start, and nobody uses them.
    """
    from gradio import routes

    whole = routes.App.__dict__["create_app"]
    routes.App.create_app = staticmethod(lambda *_, **__: None)
    try:
        yield
    finally:
        routes.App.create_app = whole


def start(demo: Any, app: FastAPI) -> None:
    """Routes, if the WebUI has its API on, and away with what a killed run left in the LoRA folder."""
    global _folders
    from modules import shared

    # Forge lets REST callers set every option: what they set must not widen what they may read
    _folders = _read_folders()
    Staging(Path(shared.cmd_opts.lora_dir)).clear_leftovers()
    add_routes(app)
    if shared.cmd_opts.api or shared.cmd_opts.nowebui:
        from lora_eval.api.routes import create_routes

        users = dict(_users())
        create_routes(app, current_host, queue, users, allowed_folders, model_folders, lambda: doors(bool(users)))


def allowed_folders() -> list[Path]:
    """Where REST calls may read and write; relative paths start at the first."""
    from modules import paths_internal, shared

    own = [Path(paths_internal.data_path), Path(shared.cmd_opts.lora_dir)]
    return [*own, *read_settings().allowed]


def model_folders() -> list[Path]:
    """The WebUI's model folders, whose own links the owner chose."""
    from modules import paths_internal, shared

    return [Path(shared.cmd_opts.lora_dir), Path(paths_internal.models_path)]


def doors(with_password: bool) -> Doors:
    """From which pages and under which names the WebUI itself takes requests."""
    from modules import shared

    from lora_eval.api.guard import Doors, hosts_of

    options = shared.cmd_opts
    origins = str(getattr(options, "cors_allow_origins", None) or "").split(",")
    hosts = hosts_of(
        (getattr(options, "server_name", None), *(("*.gradio.live",) if getattr(options, "share", False) else ()))
    )
    return Doors(
        tuple(one.strip() for one in origins if one.strip()),
        str(getattr(options, "cors_allow_origins_regex", None) or ""),
        hosts,
        with_password,
    )


def _users() -> Iterator[tuple[str, str]]:
    """Users of ``--api-auth`` and ``--gradio-auth``; none: the WebUI lets everyone in, and so do we."""
    from modules import initialize_util, shared

    for pair in (shared.cmd_opts.api_auth or "").split(","):
        user, sign, password = pair.partition(":")
        if sign:
            yield user, password
    for pair in initialize_util.get_gradio_auth_creds():
        if len(pair) == 2:
            yield pair[0], pair[1]


def forget_pages() -> None:
    """After Reload UI: the tabs' modules hold components of the page that went away. Jobs stay."""
    for name in [name for name in sys.modules if name == "lora_eval.ui" or name.startswith("lora_eval.ui.")]:
        del sys.modules[name]
