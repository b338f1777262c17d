"""REST routes under ``/lora-eval/v1/``, with the verbs of the command line.

They work with pydantic 1.10 (A1111) and 2 (Forge). Every error is ``{"detail": one line}``: 401 without credentials,
403 for paths outside the allowed folders, 404 for unknown jobs and runs, 422 for anything else a caller can mend.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic, HTTPBasicCredentials

import lora_eval
from lora_eval.api import paths
from lora_eval.api.bodies import Body, CaptionBody, CheckBody, CompareBody, ScoreBody, TrainBody, body_key
from lora_eval.api.guard import Doors, guard, read_bounded, short_line
from lora_eval.errors import LoraEvalError, RunError
from lora_eval.files import read_json
from lora_eval.host.current import current_settings
from lora_eval.scorecard.plan.request import SCORE_FIELDS, ScoreRequest, parse_axes, read_count
from lora_eval.service.confinement import Confinement, ForbiddenPath
from lora_eval.service.estimate import estimate, is_tiny, seconds_each
from lora_eval.service.jobs import RUNNING, JobQueue, JobState
from lora_eval.service.library import SCORED, run_roots
from lora_eval.service.submit import (
    COMPARED,
    COMPARISONS,
    HostGetter,
    captioners,
    check_folder,
    compare_runs,
    submit_caption,
    submit_score,
    submit_train,
)
from lora_eval.training.config import make_config
from lora_eval.training.templates import load_template

PREFIX = "/lora-eval/v1"
RUN_FILES = {
    "scorecard.json": "application/json",
    "summary.csv": "text/csv",
    "cells.csv": "text/csv",
    "history.csv": "text/csv",
    "report.html": "text/html",
}
_KINDS = {".html": "text/html", ".csv": "text/csv", ".json": "application/json"}
_MARKS = (*SCORED, "run.json", "scorecard.json")


class OneLineRoute(APIRoute):
    """Errors as ``{"detail": one line}``, without touching the handlers of the host's own routes."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                if request.method == "POST":
                    await read_bounded(request)
                return await handler(request)
            except RequestValidationError as error:
                return _problem(422, _validation_line(error))
            except ForbiddenPath as error:
                return _problem(403, str(error))
            except LoraEvalError as error:
                return _problem(422, " ".join(str(error).split()))
            except HTTPException as error:
                return _problem(error.status_code, str(error.detail), error.headers)

        return handle


def _problem(status: int, line: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": short_line(line)}, status, dict(headers or {}))


def _validation_line(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    more = len(error.errors()) - 1
    return f"{where}: {first['msg']}" + (f" (and {more} more)" if more else "")


def create_routes(
    app: FastAPI,
    host: HostGetter,
    jobs: JobQueue,
    auth: Mapping[str, str] | None = None,
    allowed: Callable[[], Iterable[Path]] | None = None,
    trusted: Callable[[], Iterable[Path]] | None = None,
    doors: Callable[[], Doors] = Doors,
) -> None:
    """Add the routes to ``app``.

    Args:
        host: called when a host is needed, not before.
        auth: user -> password for HTTP Basic; None lets everyone in.
        allowed: folders that requests may name, the host's output folder is always among them.
        trusted: folders whose own links may lead anywhere, see :class:`~lora_eval.service.confinement.Confinement`.
        doors: from which pages and under which names requests are taken.
    """

    def folders() -> list[Path]:
        return [*(allowed() if allowed is not None else []), host().output_folder]

    confined = Confinement(folders, trusted)
    guards = [Depends(guard(doors)), *([Depends(_basic_auth(auth))] if auth else [])]

    def given(body: Body) -> dict[str, Any]:
        """What the caller sent, every path in it confined. Raises ForbiddenPath."""
        return paths.confined(body.given(), body.PATHS, confined, host().output_folder)

    router = APIRouter(prefix=PREFIX, route_class=OneLineRoute, dependencies=guards, tags=["LoRA Eval"])
    _job_routes(router, jobs)
    _run_routes(router, lambda: host().output_folder, confined)

    @router.get("/health")
    def health() -> dict[str, Any]:
        states = jobs.list()
        return {
            "status": "ok",
            "version": lora_eval.__version__,
            "host": asdict(host().info()),
            "running": next((state.id for state in states if state.status == RUNNING), None),
            "queued": sum(state.position > 0 or state.status == "queued" for state in states),
        }

    @router.post("/train", status_code=202)
    def train(body: TrainBody) -> dict[str, Any]:  # type: ignore[valid-type]
        values = given(body)
        template, resume = values.pop("template", None), bool(values.pop("resume", False))
        values |= {name: str(values[name]) for name in body.PATHS if values.get(name)}  # type: ignore[attr-defined]
        config = load_template(template, values) if template else make_config(values)
        return {"id": submit_train(jobs, host, config, resume)}

    @router.post("/score", status_code=202)
    def score(body: ScoreBody) -> dict[str, Any]:  # type: ignore[valid-type]
        holder = host()
        request = _request(given(body))
        # what cannot be drawn is said now, not when its turn comes
        estimate(request, seconds_each(holder.output_folder, request), is_tiny(holder))
        return {"id": submit_score(jobs, host, request)}

    @router.post("/compare")
    def compare(body: CompareBody) -> dict[str, Any]:
        output = host().output_folder
        folders = [_scored(output, confined, name) for name in body.runs]
        return {"id": (made := compare_runs(output, folders, body.at)).name, **read_json(made / "compare.json")}

    @router.get("/comparisons/{id}/{name}")
    def comparison(id: str, name: str) -> FileResponse:
        if name not in COMPARED:
            raise HTTPException(404, f"a comparison has no {name}; it has {', '.join(COMPARED)}")
        folder = confined.child(run_roots(host().output_folder)[0] / COMPARISONS, id)
        return _file(confined.inside(folder, name), _KINDS[Path(name).suffix])

    @router.post("/check")
    def check(body: CheckBody) -> dict[str, Any]:
        values = given(body)
        return check_folder(
            values["data"], values.get("metadata") or None, body.trigger, body.resolution, body.class_word
        )

    @router.get("/captioners")
    def list_captioners() -> list[str]:
        return captioners(host())

    @router.post("/caption", status_code=202)
    def caption(body: CaptionBody) -> dict[str, Any]:
        from lora_eval.dataset.captioning import CaptionOrder

        values = given(body)
        encoder = current_settings().encoder
        order = CaptionOrder(body.trigger, body.class_word, overwrite=body.overwrite, encoder=encoder)
        return {"id": submit_caption(jobs, host, values["data"], order, body.by, values.get("metadata") or None)}

    app.include_router(router)


def _scored(output: Path, confined: Confinement, name: str) -> Path:
    """The folder of a finished scorecard run by its name."""
    for root in run_roots(output):
        folder = confined.child(root, name)
        if confined.inside(folder, "scorecard.json").is_file():
            return folder
    raise HTTPException(404, f"there is no finished scorecard run {name}")


def _request(values: Mapping[str, Any]) -> ScoreRequest:
    """The request of a body whose paths are confined. Raises ConfigError."""
    found: dict[str, Any] = {}
    for name in SCORE_FIELDS:
        key = body_key(name)
        if key not in values:
            continue
        value = values[key]
        if name == "axes":
            value = parse_axes(value)
        elif name in ("seeds", "prompts"):
            value = read_count(name, value)
        found[name] = value
    return ScoreRequest(**found)


def _job_routes(router: APIRouter, jobs: JobQueue) -> None:
    def known(id: str) -> JobState:
        state = jobs.get(id)
        if state is None:
            raise HTTPException(404, f"there is no job {id}; it may be too old")
        return state

    @router.get("/jobs")
    def list_jobs() -> list[dict[str, Any]]:
        return [asdict(state) for state in jobs.list()]

    @router.get("/jobs/{id}")
    def one_job(id: str) -> dict[str, Any]:
        return asdict(known(id))

    @router.post("/jobs/{id}/interrupt")
    def interrupt(id: str) -> dict[str, Any]:
        known(id)
        jobs.interrupt(id)
        return asdict(known(id))

    @router.post("/jobs/{id}/resume", status_code=202)
    def resume(id: str) -> dict[str, Any]:
        before = known(id)
        if not jobs.resume(id):
            raise HTTPException(422, f"job {id} is {before.status}; one that was paused, interrupted or failed goes on")
        return asdict(known(id))


def _run_routes(router: APIRouter, output: Callable[[], Path], confined: Confinement) -> None:
    def run_folder(id: str, *names: str) -> Path:
        """The run's folder; of a training and a scorecard of one name, the one that holds the file asked for."""
        folders = [folder for root in run_roots(output()) if (folder := confined.child(root, id)).is_dir()]
        if not folders:
            raise HTTPException(404, f"there is no run {id}")
        return next((folder for folder in folders if folder.joinpath(*names).exists()), folders[0])

    @router.get("/runs")
    def runs() -> list[dict[str, Any]]:
        folders = [path for root in run_roots(output()) if root.is_dir() for path in root.iterdir() if path.is_dir()]
        own = [path for path in folders if _is_own(path)]
        found = [_summary(path) for path in own if any((path / mark).is_file() for mark in _MARKS)]
        return sorted(found, key=lambda run: run["changed"], reverse=True)

    @router.get("/runs/{id}/images/{name}")
    def image(id: str, name: str) -> FileResponse:
        pictures = confined.inside(run_folder(id, "images"), "images")
        return _file(confined.child(pictures, name), "image/png")

    @router.get("/runs/{id}/{name}")
    def run_file(id: str, name: str) -> FileResponse:
        if name not in RUN_FILES:
            raise HTTPException(404, f"a run has no {name}; it has {', '.join(RUN_FILES)} and images/")
        return _file(confined.inside(run_folder(id, name), name), RUN_FILES[name])


def _is_own(folder: Path) -> bool:
    """Whether neither the folder nor what is read of it for the list is a link to somewhere else."""
    root = folder.parent.resolve()
    named = (folder, folder / "scorecard.json")
    return all(path.resolve() == root.joinpath(path.relative_to(folder.parent)) for path in named)


def _file(path: Path, kind: str) -> FileResponse:
    if not path.is_file():
        raise HTTPException(404, f"{path.name} is not there (yet)")
    return FileResponse(path, media_type=kind)


def _summary(folder: Path) -> dict[str, Any]:
    """A run in one entry of the list: what is there, and the verdict where it was scored."""
    files = [name for name in RUN_FILES if (folder / name).is_file()]
    verdict = recommended = None
    if "scorecard.json" in files:
        try:
            card = read_json(folder / "scorecard.json")
            verdict, recommended = card.get("verdict"), card.get("recommended")
        except (RunError, AttributeError):
            verdict = "scorecard.json cannot be read"
    return {
        "id": folder.name,
        "kind": "score" if any((folder / name).is_file() for name in SCORED) else "train",
        "files": files,
        "verdict": verdict,
        "recommended": recommended,
        "changed": folder.stat().st_mtime,
    }


def _basic_auth(users: Mapping[str, str]) -> Callable[..., None]:
    pairs = [(user.encode(), password.encode()) for user, password in users.items()]

    def check(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008
        user, password = credentials.username.encode(), credentials.password.encode()
        right = False
        # every pair is compared whole, so that the time tells nothing
        for known_user, known_password in pairs:
            right |= secrets.compare_digest(user, known_user) & secrets.compare_digest(password, known_password)
        if not right:
            raise HTTPException(401, "wrong user or password", {"WWW-Authenticate": "Basic"})

    return check
