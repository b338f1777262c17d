"""How the WebUI finds us: callbacks, settings, flags, users, the installer, quick start."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lora_eval.errors import HostError
from lora_eval.extension import callbacks

ROOT = Path(__file__).resolve().parents[2]


class OptionInfo:
    """``shared.OptionInfo`` as far as we use it."""

    def __init__(
        self,
        default: Any,
        label: str,
        component: Any,
        args: Any = None,
        section: Any = None,
        restrict_api: bool = False,
    ) -> None:
        self.default, self.section, self.restrict_api = default, section, restrict_api

    def info(self, text: str) -> OptionInfo:
        return self

    def needs_reload_ui(self) -> OptionInfo:
        return self


class Options(SimpleNamespace):
    def add_option(self, key: str, info: OptionInfo) -> None:
        self.added[key] = info


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    registered: dict[str, list[Any]] = {}

    def on(name: str) -> Any:
        return lambda function: registered.setdefault(name, []).append(function)

    def add_callback(callbacks: list[Any], function: Any, *, category: str, filename: str) -> None:
        assert Path(filename) == ROOT / "scripts" / "lora_eval.py", "the WebUI tells extensions apart by it"
        callbacks.append(function)

    flags = SimpleNamespace(
        api=True, nowebui=False, api_auth=None, lora_dir=str(tmp_path / "models" / "Lora"),
        lora_eval_allow_dir=[], lora_eval_output_dir=None,
    )  # fmt: skip
    site = SimpleNamespace(registered=registered, flags=flags, opts=Options(added={}), gradio_users=[], root=tmp_path)
    state = SimpleNamespace(request_restart=lambda: None)
    parts = {
        "script_callbacks": {
            **{f"on_{n}": on(n) for n in ("ui_tabs", "app_started")},
            "callback_map": {"callbacks_before_ui": registered.setdefault("before_ui", [])},
            "add_callback": add_callback,
        },
        "shared": {
            "state": state,
            "opts": site.opts,
            "cmd_opts": flags,
            "OptionInfo": OptionInfo,
        },
        "paths_internal": {"data_path": str(tmp_path), "default_output_dir": str(tmp_path / "outputs")},
        "initialize_util": {"get_gradio_auth_creds": lambda: iter(site.gradio_users)},
        "call_queue": {},
    }
    monkeypatch.setattr(callbacks, "_folders", None)
    package = ModuleType("modules")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "modules", package)
    for name, content in parts.items():
        module = ModuleType(f"modules.{name}")
        module.__spec__ = importlib.util.spec_from_loader(module.__name__, None)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        setattr(package, name, module)
    return site


def test_the_script_is_short_and_registers_everything(webui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = ROOT / "scripts" / "lora_eval.py"
    assert len(script.read_text().splitlines()) <= 15
    scripts = ModuleType("modules.scripts")
    scripts.basedir = lambda: str(ROOT)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modules.scripts", scripts)
    monkeypatch.setattr(sys.modules["modules"], "scripts", scripts, raising=False)
    for _ in range(2):  # Reload UI executes the script again
        exec(compile(script.read_text(), str(script), "exec"), {})
    assert {name: len(found) for name, found in webui.registered.items()} == {"before_ui": 2}
    assert callbacks.extension_folder == ROOT


def test_before_the_page_is_built_tabs_routes_settings_and_axes_follow(
    webui: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("add_settings", "add_axes"):
        monkeypatch.setattr(callbacks, name, lambda name=name: done.append(name))
    callbacks.register(str(ROOT))
    (before_ui,) = webui.registered["before_ui"]
    before_ui()
    assert webui.registered["ui_tabs"] == [callbacks.make_tabs]
    assert webui.registered["app_started"] == [callbacks.start]
    assert done == ["add_settings", "add_axes"]


def test_a_checkpoint_that_was_deleted_from_the_lora_folder_is_linked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, run = tmp_path / "Lora", tmp_path / "outputs" / "lora-eval" / "run"
    for path in (folder, run):
        path.mkdir(parents=True)
    (run / "history.csv").write_text("step\n")
    (run / "run-000001.safetensors").write_bytes(b"lora")
    networks = ModuleType("networks")
    networks.__dict__.update(loaded_networks=[], available_networks={})

    def refresh() -> None:
        found = {path.stem: SimpleNamespace(filename=str(path)) for path in folder.rglob("*.safetensors")}
        networks.__dict__["available_networks"] = found

    host = SimpleNamespace(lora_folder=folder, output_folder=tmp_path / "outputs", refresh_loras=refresh)
    monkeypatch.setitem(sys.modules, "networks", networks)
    monkeypatch.setattr(callbacks, "current_host", lambda: host)
    linked = folder / "lora-eval" / "run-000001.safetensors"
    for _ in range(2):
        callbacks._provide_loras(["run-000001"])
        assert linked.read_bytes() == b"lora"
        # the WebUI goes on listing it
        linked.unlink()
        assert "run-000001" in networks.available_networks


def test_reload_ui_drops_the_modules_of_the_old_page_alone(webui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lora_eval.ui", "lora_eval.ui.old"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    callbacks.register(str(ROOT))
    assert not [name for name in sys.modules if name == "lora_eval.ui" or name.startswith("lora_eval.ui.")]
    assert "lora_eval.service.jobs" in sys.modules


def test_settings_have_a_section_and_paths_are_not_for_rest(webui: Any) -> None:
    pytest.importorskip("gradio")
    callbacks.add_settings()
    added = webui.opts.added
    assert {info.section for info in added.values()} == {("lora_eval", "LoRA Eval")}
    assert added["lora_eval_output_dir"].restrict_api and added["lora_eval_allowed_dirs"].restrict_api


def test_settings_are_read_anew_each_time(webui: Any) -> None:
    def found() -> tuple[int, str, int]:
        settings = callbacks.read_settings()
        return settings.batch_size, settings.encoder, settings.size

    assert found() == (4, "auto", 0)
    webui.opts.lora_eval_batch_size, webui.opts.lora_eval_encoder, webui.opts.lora_eval_size = 8, "  ", 384
    assert found() == (8, "auto", 384)


def test_folders_are_those_of_the_start_until_the_page_is_built_anew(webui: Any, tmp_path: Path) -> None:
    webui.opts.lora_eval_allowed_dirs = f"\n {tmp_path}/a \n\n{tmp_path}/b"
    webui.flags.lora_eval_allow_dir, webui.flags.lora_eval_output_dir = [f"{tmp_path}/c"], f"{tmp_path}/flag"
    callbacks.start(None, FastAPI())
    assert callbacks.read_settings().allowed == [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    assert callbacks.read_settings().output == tmp_path / "flag"
    # Forge's POST /sdapi/v1/options sets any option, whatever restrict_api says
    webui.opts.lora_eval_allowed_dirs, webui.opts.lora_eval_output_dir = "/", "/etc"
    assert Path("/") not in callbacks.allowed_folders()
    assert callbacks.read_settings().output == tmp_path / "flag"
    callbacks.start(None, FastAPI())
    assert callbacks.read_settings().output == Path("/etc")


def test_allowed_folders_are_the_webuis_own_first(webui: Any, tmp_path: Path) -> None:
    webui.flags.lora_eval_allow_dir = ["/pictures"]
    assert callbacks.allowed_folders() == [tmp_path, tmp_path / "models" / "Lora", Path("/pictures")]


def health(app: FastAPI, auth: Any = None) -> int:
    return (
        TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
        .get("/lora-eval/v1/jobs", auth=auth)
        .status_code
    )


@pytest.mark.parametrize(
    ("flags", "gradio", "auth", "status"),
    [
        ({}, [], None, 200),
        ({"api": False}, [], None, 404),
        ({"api": False, "nowebui": True}, [], None, 200),
        ({"api_auth": "ann:x,bob:a:b"}, [], None, 401),
        ({"api_auth": "ann:x,bob:a:b"}, [], ("ann", "x"), 200),
        ({"api_auth": "ann:x,bob:a:b"}, [], ("bob", "a:b"), 200),
        ({}, [("page", "y")], None, 401),
        ({}, [("page", "y")], ("page", "y"), 200),
        ({"api_auth": "ann:x"}, [("page", "y")], ("page", "x"), 401),
    ],
)
def test_routes_follow_the_flags(webui: Any, flags: dict[str, Any], gradio: Any, auth: Any, status: int) -> None:
    vars(webui.flags).update(flags)
    webui.gradio_users = gradio
    app = FastAPI()
    callbacks.start(None, app)
    assert health(app, auth) == status


def test_other_webuis_are_refused_in_one_line(webui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forge = ModuleType("modules_forge")
    forge.__spec__ = importlib.util.spec_from_loader("modules_forge", None)
    monkeypatch.setitem(sys.modules, "modules_forge", forge)
    with pytest.raises(HostError, match="reForge is not supported"):
        callbacks.make_host()


def test_flags_are_added() -> None:
    spec = importlib.util.spec_from_file_location("preload", ROOT / "preload.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parser = argparse.ArgumentParser()
    module.preload(parser)
    found = parser.parse_args(
        ["--lora-eval-output-dir", "x", "--lora-eval-allow-dir", "a", "--lora-eval-allow-dir", "b"]
    )
    assert (found.lora_eval_output_dir, found.lora_eval_allow_dir) == ("x", ["a", "b"])


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


def test_the_installer_says_nothing_where_all_is_there() -> None:
    assert run("import runpy; runpy.run_path('install.py')") == ""


def test_the_installer_names_what_is_missing_and_why_and_installs_nothing() -> None:
    code = (
        "import importlib.util as u, runpy, subprocess\n"
        "whole = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'pandas' else whole(name, *a)\n"
        "subprocess.run = subprocess.Popen = None\n"
        "runpy.run_path('install.py')"
    )
    lines = run(code).splitlines()
    assert len(lines) == 1 and "pandas for the scorecard's tables" in lines[0] and "pip install pandas" in lines[0]


def test_starting_imports_nothing_heavy() -> None:
    heavy = [
        "torch",
        "numpy",
        "pandas",
        "PIL",
        "skimage",
        "open_clip",
        "diffusers",
        "transformers",
        "fastapi",
        "gradio",
        "yaml",
    ]
    code = f"import sys, lora_eval.extension.callbacks; print([name for name in {heavy} if name in sys.modules])"
    assert run(code).strip() == "[]"


def test_tabs_and_routes_load_nothing_that_only_a_job_needs() -> None:
    heavy = ["torch", "pandas", "skimage", "open_clip", "diffusers", "transformers", "lora_eval.dataset.captioning"]
    heavy += [f"lora_eval.scorecard.{name}" for name in ("decide", "measure", "statistics", "run", "embed", "pixels")]
    heavy += [f"lora_eval.training.{name}" for name in ("loop", "session", "curve")]
    code = (
        "import sys, fastapi, lora_eval.ui.controller, lora_eval.service.estimate, lora_eval.api.routes\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_an_adapter_does_not_bring_torch_s_compiler_along() -> None:
    # found out as a WebUI has it: torch itself is there before us
    code = (
        "import sys, torch, safetensors.torch\n"
        "before = set(sys.modules)\n"
        "import lora_eval.host.webui.a1111, lora_eval.host.webui.forge\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in set(sys.modules) - before])"
    )
    assert run(code).strip() == "[]"


def test_the_plot_gets_two_axes_at_each_start(webui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class AxisOption:
        def __init__(self, label: str, *_: Any, **__: Any) -> None:
            self.label = label
            made.append(label)

    for _ in range(2):  # Reload UI executes the plot's script again, too
        grid = ModuleType("xyz_grid.py")
        grid.__dict__.update(AxisOption=AxisOption, axis_options=[], format_value=None, format_value_add_label=None)
        script = type("Script", (), {"__module__": "xyz_grid.py"})
        scripts = ModuleType("modules.scripts")
        scripts.scripts_data = [SimpleNamespace(script_class=script, module=grid)]  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "modules.scripts", scripts)
        monkeypatch.setattr(sys.modules["modules"], "scripts", scripts, raising=False)
        callbacks.add_axes()
        assert [option.label for option in grid.axis_options] == ["LoRA checkpoint", "LoRA weight"]
    assert len(made) == 4
    scripts.scripts_data = []  # type: ignore[attr-defined]
    callbacks.add_axes()


def test_parts_of_the_page_get_no_app_of_their_own_and_gradio_is_as_before() -> None:
    gradio = pytest.importorskip("gradio")
    from gradio import routes

    whole = routes.App.create_app
    with pytest.raises(ZeroDivisionError), callbacks.only_parts():
        with gradio.Blocks() as part:
            box = gradio.Textbox()
            box.change(lambda text: text, [box], [box])
        raise ZeroDivisionError
    assert routes.App.create_app is whole
    with gradio.Blocks() as page, gradio.Tabs(), gradio.TabItem("ours"):
        part.render()
    assert [block for block in page.blocks.values() if isinstance(block, gradio.Textbox)] == [box]
