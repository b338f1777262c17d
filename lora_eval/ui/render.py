"""Values of the controller as HTML. Everything that comes from outside is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lora_eval.errors import LoraEvalError
from lora_eval.i18n import language
from lora_eval.service import library
from lora_eval.service.jobs import ENDED, PAUSED, QUEUED, RUNNING, JobState
from lora_eval.service.progress import clock_text
from lora_eval.service.training_pictures import Checked
from lora_eval.ui import text
from lora_eval.ui.pictures import thumb
from lora_eval.ui.views import TrainView

MOST_PICTURES = 200
MOST_FINDINGS = 100


def _e(value: object) -> str:
    return escape(str(value), quote=True)


def escaped(value: object) -> str:
    """For the few places outside this file that make markup."""
    return _e(value)


def _badge(css: str, words: str) -> str:
    return f'<span class="lora-eval-badge {_e(css)}">{_e(words)}</span>'


def _button(data: str, value: str, words: str) -> str:
    return f'<button type="button" class="lora-eval-small" data-le-{data}="{_e(value)}">{_e(words)}</button>'


def _word(name: str, css: str = "") -> str:
    return f'<span class="{css}">{_e(text.WORDS[name])}</span>'


def message(line: str, kind: str = "error") -> str:
    """A line beside the button it answers; ``kind`` is ``error``, ``good``, ``paused`` or ``waits``."""
    role = "alert" if kind == "error" else "status"
    words = _e(language.localized(line))
    return f'<div class="lora-eval-message {kind}" role="{role}">{words}</div>' if line else ""


def good(*parts: object) -> str:
    """Good news: translatable texts, and values in elements of their own."""
    inner = " ".join(f"<span>{_e(part)}</span>" for part in parts)
    return f'<div class="lora-eval-message good" role="status">{inner}</div>'


def empty(words: str) -> str:
    return f'<div class="lora-eval-empty">{_e(words)}</div>'


# -- jobs --------------------------------------------------------------------------------------------


def job(state: JobState | None, folder: Path | None, nothing: str, hint: str = "", waits: str = "") -> str:
    """Progress of a job: a bar, what is going on, the time left; why it stopped, and Resume where it can go on.

    Args:
        nothing: shown while there is no job. hint: shown while it runs. waits: who waits for it.
    """
    data = "" if folder is None else f' data-le-folder="{_e(folder)}"'
    if state is None:
        if folder is None:
            return f'<div class="lora-eval-job">{empty(nothing)}</div>'
        badge = _badge("finished", text.WORDS["on_disk"])
        line = f'<div class="lora-eval-line">{badge}<strong>{_e(folder.name)}</strong></div>'
        return f'<div class="lora-eval-job"{data}>{line}</div>'
    active = state.status not in ENDED
    share = 100.0 if state.status == "finished" else 100.0 * state.done / state.total if state.total else 0.0
    times = []
    if state.status == RUNNING and state.eta is not None:
        times.append(f"<b>{clock_text(state.eta)}</b> {_word('left')}")
    if state.ended is not None and state.started is not None:
        times.append(f"<b>{clock_text(state.ended - state.started)}</b> {_word('used')}")
    if state.status == QUEUED and state.position:
        times.append(f"{_word('ahead')} <b>{state.position}</b>")
    count = f"<span>{state.done} / {state.total}</span>" if state.total > 1 else ""
    line = f'<div class="lora-eval-text">{_e(language.localized(state.text))}</div>' if active and state.text else ""
    bar = f'role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}"'
    quiet = f'<div class="lora-eval-quiet">{_e(hint)}</div>' if hint and state.status == RUNNING else ""
    again = _button("again", state.id, text.RESUME) if state.resumable else ""
    said = message(state.error, "paused" if state.status == PAUSED else "error") + message(waits, "waits")
    data += f' data-le-active="{int(active)}" data-le-status="{state.status}"'
    return (
        f'<div class="lora-eval-job {state.status}"{data}>'
        f'<div class="lora-eval-line">{_badge(state.status, text.STATUS[state.status])}'
        f"<strong>{_e(state.title)}</strong>{count}"
        f'<span class="lora-eval-times">{" · ".join(times)}</span>{again}</div>'
        f'<div class="lora-eval-bar" {bar}><div style="width:{share:.1f}%"></div></div>'
        f"{line}{said}{quiet}</div>"
    )


def stop_button(id: str) -> str:
    """Stops a job from where it is shown."""
    return f'<div class="lora-eval-line">{_button("cancel", id, text.INTERRUPT)}</div>'


def queue(jobs: Sequence[JobState], kind: str) -> str:
    """What runs elsewhere and what waits; "" when this tab's own job is alone."""
    rows = []
    for state in jobs:
        if state.status == RUNNING and state.kind == kind:
            continue
        tab = text.SCORE_TITLE if state.kind == "score" else text.TRAIN_TITLE
        cancel = _button("cancel", state.id, text.WORDS["cancel"]) if state.status == QUEUED else ""
        badge = _badge(state.status, text.STATUS[state.status])
        rows.append(f"<li>{badge}<span>{_e(tab)}</span><strong>{_e(state.title)}</strong>{cancel}</li>")
    if not rows:
        return ""
    return f'<div class="lora-eval-queue"><h4>{_e(text.WORDS["queue"])}</h4><ol>{"".join(rows)}</ol></div>'


# -- training ----------------------------------------------------------------------------------------


def _awaited(title: str, css: str, inner: str = "") -> str:
    """The place that a section will take, so that nothing below it moves when it comes."""
    return f'<section class="lora-eval-section"><h4>{_e(title)}</h4><div class="{css}">{inner}</div></section>'


def loss(folder: Path | None, awaited: bool = False) -> str:
    """Training and validation loss with the diagnosis in words; its place while it is only ``awaited``."""
    place = _awaited(text.WORDS["loss"], "lora-eval-awaited lora-eval-awaited-loss") if awaited else ""
    if folder is None or not (folder / "history.csv").is_file():
        return place
    from lora_eval.report.charts import loss_chart
    from lora_eval.training.curve import diagnose
    from lora_eval.training.logs import read_history
    from lora_eval.training.watch import samples_beside

    try:
        history = read_history(folder / "history.csv")
    except LoraEvalError:
        # a run that has not logged two steps yet
        return place
    found = diagnose(
        history.step,
        history.loss,
        history.val_loss,
        samples_beside(folder),
        val_step=history.val_step,
        val_error=history.val_error if len(history.val_error) else None,
        averaged=history.averaged,
    )
    marks = [(int(path.stem[-6:]), path.stem) for path in library.checkpoints(folder) if path.stem[-6:].isdigit()]
    chart = loss_chart(history.step, history.loss, history.val_step, history.val_loss, marks, text.WORDS["loss"])
    return (
        f'<section class="lora-eval-section"><h4>{_e(text.WORDS["loss"])} '
        f"{_badge('state-' + found.state.replace(' ', '-'), text.STATES[found.state])}</h4>"
        f'<p class="lora-eval-diagnosis">{_e(language.said(found.reason))}</p>'
        f'<div class="lora-eval-chart">{chart}</div>'
        f'<p class="lora-eval-quiet">{_e(text.WORDS["loss_keys"])}</p></section>'
    )


def film(folder: Path | None, awaited: int = 0) -> str:
    """Test pictures: a column for each step, the latest in sight; their place while so many are only ``awaited``."""
    found = [] if folder is None else library.samples(folder)
    if not found:
        blank = '<span class="lora-eval-noimage"></span>' * awaited
        inner = f"<figure>{blank}<figcaption>&nbsp;</figcaption></figure>"
        return _awaited(text.WORDS["previews"], "lora-eval-film lora-eval-awaited", inner) if awaited else ""
    steps = sorted({one.step for one in found})
    columns = []
    for step in steps:
        pictures = "".join(
            thumb(one.path, f"{text.WORDS['step']} {step} · {one.number + 1}") for one in found if one.step == step
        )
        columns.append(f"<figure>{pictures}<figcaption>{_word('step')} <b>{step}</b></figcaption></figure>")
    return (
        f'<section class="lora-eval-section"><h4>{_e(text.WORDS["previews"])}</h4>'
        f'<div class="lora-eval-film" tabindex="0">{"".join(columns)}</div></section>'
    )


def checked(found: Checked) -> str:
    """The dataset check: what to mend first, then every picture with its caption."""
    by_picture: dict[str, list[dict[str, str]]] = {}
    for finding in found.findings:
        by_picture.setdefault(finding["picture"], []).append(finding)
    paths = {picture.name: picture.path for picture in found.pictures}
    counts = " ".join(
        f'<span class="lora-eval-badge {severity}">{_e(text.SEVERITY[severity])}</span><b>{number}</b>'
        for severity in text.SEVERITY
        if (number := sum(finding["severity"] == severity for finding in found.findings))
    )
    rows = []
    for finding in found.findings[:MOST_FINDINGS]:
        path, severity = paths.get(finding["picture"]), finding["severity"]
        aside = _button("aside", finding["picture"], text.WORDS["set_aside"]) if path and severity != "info" else ""
        rows.append(
            f'<li class="{_e(severity)}"><span class="lora-eval-thumb">{thumb(path) if path else ""}</span><div>'
            f"{_badge(severity, text.SEVERITY[severity])} <strong>{_e(finding['picture'])}</strong> "
            f"<span>{_e(language.localized(finding['message']))}</span>"
            f'<div class="lora-eval-mend">{_e(language.localized(finding["mend"]))}</div></div>'
            f"{aside}</li>"
        )
    if len(found.findings) > MOST_FINDINGS:
        rows.append(f"<li>{_word('more_findings')} <b>{len(found.findings) - MOST_FINDINGS}</b></li>")
    findings = f'<ul class="lora-eval-findings">{"".join(rows)}</ul>' if rows else good(text.WORDS["no_findings"])
    cards = []
    for picture in found.pictures[:MOST_PICTURES]:
        own = by_picture.get(picture.name, [])
        worst = own[0]["severity"] if own else ""
        about = f'data-le-caption="{_e(picture.name)}" placeholder="{_e(text.WORDS["no_caption"])}"'
        caption = f'<textarea rows="3" aria-label="{_e(picture.name)}" {about}>{_e(picture.caption)}</textarea>'
        image = thumb(picture.path, picture.name)
        name = f'<span class="lora-eval-quiet">{_e(picture.name)}</span>'
        cards.append(f'<figure class="{worst}">{image}<figcaption>{name}{caption}</figcaption></figure>')
    if len(found.pictures) > MOST_PICTURES:
        cards.append(f"<p>{_word('more')} <b>{len(found.pictures) - MOST_PICTURES}</b></p>")
    return (
        f'<section class="lora-eval-section"><h4><b>{len(found.pictures)}</b> {_word("pictures")} {counts}</h4>'
        f'{findings}<p class="lora-eval-quiet">{_e(text.WORDS["edit"])}</p>'
        f'<div class="lora-eval-pictures lora-eval-captions">{"".join(cards)}</div></section>'
    )


def plan(settings: Mapping[str, Any]) -> str:
    """The defaults that matter most in a line, while all settings are folded away."""
    shown = []
    for name in ("lora_rank", "learning_rate", "epochs", "max_steps", "batch_size", "save_steps"):
        value = settings.get(name)
        if value is not None:
            label = next(group[name][0] for group in text.GROUPS.values() if name in group)
            number = f"{value:g}" if isinstance(value, float) else value
            shown.append(f"<li><span>{_e(label)}</span> <b>{_e(number)}</b></li>")
    return f'<ul class="lora-eval-plan">{"".join(shown)}</ul>'


def train_job(view: TrainView) -> str:
    return job(view.job, view.folder, text.TRAIN_EMPTY, text.TRAIN_WAITS, text.GENERATE_WAITS if view.waiting else "")
