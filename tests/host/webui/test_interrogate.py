"""The WebUI's interrogators. The stand-ins have the signatures of both hosts' ``interrogate`` and ``deepbooru``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from lora_eval.errors import HostError
from tests.host.fake_webui import FakeHost, FakeWebui


class InterrogateModels:
    """``modules.interrogate.InterrogateModels``."""

    def __init__(self, queue: Any) -> None:
        self.queue, self.error, self.said = queue, None, "a fox in the snow"
        self.calls: list[str] = []

    def _call(self, name: str) -> None:
        self.calls.append(name if self.queue.locked() else f"{name} without the queue")

    def load(self) -> None:
        self._call("load")
        if self.error is not None:
            raise self.error

    def generate_caption(self, pil_image: Image.Image) -> str:
        self._call(f"look at {pil_image.mode}")
        return self.said

    def interrogate(self, pil_image: Image.Image) -> str:
        return self.said + ", trending on artstation"

    def unload(self) -> None:
        self._call("unload")


class DeepDanbooru:
    """``modules.deepbooru.DeepDanbooru``."""

    def __init__(self, queue: Any) -> None:
        self.queue, self.error = queue, None
        self.model: Any = None
        self.calls: list[str] = []

    def start(self) -> None:
        if self.model is None:
            # the network is there before its file is looked for
            self.model = SimpleNamespace(tags=[])
            if self.error is not None:
                raise self.error
            self.model.tags = ["fox", "snow"]
        self.calls.append("start" if self.queue.locked() else "start without the queue")

    def stop(self) -> None:
        if self.model is None:
            raise AttributeError("'NoneType' object has no attribute 'to'")
        self.calls.append("stop")

    def tag(self, pil_image: Image.Image) -> str:
        return self.tag_multi(pil_image)

    def tag_multi(self, pil_image: Image.Image, force_disable_ranks: bool = False) -> str:
        if not self.model.tags:
            return ""
        if pil_image.size == (1, 1):
            raise RuntimeError("too small\nby far")
        return "fox, snow" if force_disable_ranks else "(fox:0.998), (snow:0.731)"


@pytest.fixture
def webui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = FakeWebui(tmp_path)
    fake.install(monkeypatch)
    parts = SimpleNamespace(
        blip=InterrogateModels(fake.lock), booru=DeepDanbooru(fake.lock), models=tmp_path / "models", freed=[]
    )
    shared = sys.modules["modules.shared"]
    monkeypatch.setattr(shared, "interrogator", parts.blip, raising=False)
    for name, values in {
        "paths": {"models_path": str(parts.models)},
        "lowvram": {"send_everything_to_cpu": lambda: parts.freed.append(True)},
        "deepbooru": {"model": parts.booru},
    }.items():
        module = ModuleType(f"modules.{name}")
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, f"modules.{name}", module)
        monkeypatch.setattr(sys.modules["modules"], name, module, raising=False)
    parts.host, parts.lock = FakeHost(fake), fake.lock
    return parts


def picture(mode: str = "RGBA", side: int = 8) -> Image.Image:
    return Image.new(mode, (side, side))


def test_both_are_offered_and_nothing_is_loaded_before_one_is_asked(webui: Any) -> None:
    assert list(webui.host.interrogators()) == ["BLIP", "DeepBooru"]
    assert webui.blip.calls == webui.booru.calls == []


def test_blip_says_its_sentence_alone_within_the_queue(webui: Any) -> None:
    said = webui.host.interrogators()["BLIP"](picture())
    assert said == "a fox in the snow", "without the artists and fashions that CLIP adds"
    assert webui.blip.calls == ["load", "look at RGB", "unload"] and webui.freed
    assert not webui.lock.locked()


def test_deepbooru_says_its_tags_without_scores_within_the_queue(webui: Any) -> None:
    assert webui.host.interrogators()["DeepBooru"](picture()) == "fox, snow"
    assert webui.booru.calls == ["start", "stop"] and not webui.lock.locked()


# modelloader.load_models keeps quiet about a failed download and gives no file: files[0]
NO_FILE = IndexError("list index out of range")


@pytest.mark.parametrize(
    ("name", "part", "line"),
    [
        ("BLIP", "blip", r"BLIP's model is not on this machine and could not be downloaded; "
         r"put model_base_caption_capfilt_large\.pth into .*BLIP$"),
        ("DeepBooru", "booru", r"DeepBooru's model is not on this machine and could not be downloaded; "
         r"put model-resnet_custom_v3\.pt into .*torch_deepdanbooru$"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_downloaded_says_which_file_goes_where(
    webui: Any, name: str, part: str, line: str
) -> None:
    getattr(webui, part).error = NO_FILE
    with pytest.raises(HostError, match=line):
        webui.host.interrogators()[name](picture())
    assert not webui.lock.locked()


def test_a_failed_download_is_tried_again_and_never_taken_for_a_model(webui: Any) -> None:
    webui.booru.error = NO_FILE
    ask = webui.host.interrogators()["DeepBooru"]
    for _ in range(2):
        with pytest.raises(HostError, match="could not be downloaded"):
            ask(picture())
    webui.booru.error = None
    assert ask(picture()) == "fox, snow"
    # the host's own button failed before
    webui.booru.model = SimpleNamespace(tags=[])
    assert ask(picture()) == "fox, snow"


def test_a_model_that_is_there_and_does_not_load_says_why(webui: Any) -> None:
    folder = webui.models / "BLIP"
    folder.mkdir(parents=True)
    (folder / "own.pth").write_bytes(b"")
    webui.blip.error = ModuleNotFoundError("No module named 'models.blip'")
    with pytest.raises(HostError, match=r"BLIP cannot be loaded: ModuleNotFoundError: No module named 'models.blip'"):
        webui.host.interrogators()["BLIP"](picture())
    assert webui.blip.calls[-1] == "unload" and not webui.lock.locked()


def test_a_picture_that_fails_is_one_line_and_the_model_is_put_away(webui: Any) -> None:
    with pytest.raises(HostError, match=r"DeepBooru could not look at a picture: RuntimeError: too small by far$"):
        webui.host.interrogators()["DeepBooru"](picture(side=1))
    assert webui.booru.calls == ["start", "stop"] and not webui.lock.locked()
