"""From pictures that were drawn elsewhere to a scorecard: listing, completing, measuring, reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lora_eval
from lora_eval.encoders.protocol import Encoder
from lora_eval.encoders.registry import resolve_encoder
from lora_eval.errors import ConfigError, RunError
from lora_eval.files import make_folder, read_json, write_json
from lora_eval.report.results import write_results
from lora_eval.scorecard.data import KINDS, Scorecard
from lora_eval.scorecard.dimensions.measure import measure
from lora_eval.scorecard.draw.store import TABLE_FILE, RunFolder
from lora_eval.scorecard.features.cache import FeatureCache
from lora_eval.scorecard.features.collect import EncoderSource, Material, build_data, measured_with, picture_source
from lora_eval.scorecard.features.references import References, find_references
from lora_eval.scorecard.plan.checkpoints import slug
from lora_eval.service.measured.cells import cells_of, prompts_of, write_cut
from lora_eval.service.measured.rows import list_pictures
from lora_eval.service.measured.said import complete


@dataclass(frozen=True)
class MeasureRequest:
    """What is known of pictures drawn elsewhere, beside their table and what they say themselves.

    Attributes:
        data: folder of reference pictures.
        kind: one of KINDS.
        trigger: the LoRA's trigger in the prompts; ``class_word`` replaces it in what CLIP is given.
        histories: checkpoint or LoRA name -> loss history.
        lora: the LoRA that is judged, where pictures were drawn with several.
        believe_table: take the table's word; what the pictures say of themselves is not read.
    """

    data: Path | str | None = None
    kind: str = "object"
    trigger: str = ""
    class_word: str = ""
    histories: dict[str, str] = field(default_factory=dict)
    lora: str = ""
    believe_table: bool = False


def measure_table(
    source: Path | str | Sequence[Path],
    out: Path | str,
    request: MeasureRequest | None = None,
    *,
    encoder: str | Encoder = "auto",
    resamples: int = 1000,
) -> Scorecard:
    """Measure pictures that were drawn elsewhere and write the reports into ``out``.

    Args:
        source: a folder of pictures; pictures; a text file with one path a line; or a table (CSV, tabs, ``;`` or
            ``|``) with the column ``image`` and what else is known: ``prompt, seed, weight, checkpoint, lora, step,
            role, prompt_id, negative_prompt, sampler, steps, cfg``. Images are relative to the table. What the table
            leaves open is read from the pictures (:mod:`lora_eval.reading.generation`).
        request: references, kind, trigger and histories; None: none of them.

    Raises:
        RunError: a row that cannot be used or that its own picture contradicts; the line names it and the mend.
        ConfigError: unknown kind or encoder.
    """
    request = request or MeasureRequest()
    data, kind, histories = request.data, request.kind, request.histories
    if kind not in KINDS:
        raise ConfigError(f'kind "{kind}" is none of {", ".join(KINDS)}')
    sources = [Path(source)] if isinstance(source, str | Path) else [Path(one) for one in source]
    folder = RunFolder(out)
    if folder.plan_file.exists():
        raise RunError(f"{folder.root} holds a run that was drawn here; choose another folder")
    listing = list_pictures(sources)
    known = complete(listing, request.lora, request.believe_table)
    prompts = prompts_of(known.rows, request.trigger.strip(), request.class_word)
    make_folder(folder.root)
    with folder.lock():
        paths = write_cut(known.rows, folder.root)
        cells = cells_of(known.rows, paths, folder.root, f"{slug(Path(listing.name).stem)}-{listing.digest}")
        found = find_references(data, []) if data else References(notes={"references": _NO_DATA})
        given = resolve_encoder(encoder) if isinstance(encoder, str) else encoder
        embedder = EncoderSource(given)
        write_json(
            folder.root / TABLE_FILE,
            {
                "table": [str(one.resolve()) for one in sources],
                "data": str(Path(data).resolve()) if data else None,
                "kind": kind,
                "trigger": request.trigger,
                "class_word": request.class_word,
                "encoder": given if isinstance(given, str) else given.id,
                "histories": histories or {},
                "lora": request.lora,
                "believe_table": request.believe_table,
                # whether another run's likeness may be compared with this one's
                "references": [path.name for path in found.pictures],
            },
        )
        sizes = Counter(zip(cells["width"], cells["height"], strict=True))
        cache = FeatureCache(folder, embedder.id, embedder.load)
        run_data, shown = build_data(
            cache,
            Material(
                cells,
                [picture_source(path) for path in paths],
                prompts=prompts,
                kind=kind,
                size=min(sizes, key=lambda size: (-sizes[size], size)),
                references=found,
                histories={name: Path(path) for name, path in (histories or {}).items()},
                notes={**found.notes, **known.notes},
            ),
        )
        if len(sizes) > 1:
            run_data.notes["sizes"] = (
                f"pictures of {len(sizes)} sizes: sharpness and noise are not comparable between them"
            )
        origin: dict[str, Any] = {
            "run": cells["run"].iloc[0],
            "program": f"lora-eval {lora_eval.__version__}",
            "table": listing.name,
            "images": len(cells),
            "weights": sorted(set(cells["weight"])),
            "trigger": request.trigger,
            **measured_with(run_data),
        }
        if known.notes:
            origin["notes"] = list(known.notes.values())
        return write_results(folder, run_data, measure(run_data, resamples=resamples), shown, origin)


_NO_DATA = "no reference pictures; name a folder of pictures of the concept with --data"


def measure_again(root: Path, encoder: Encoder | None, resamples: int) -> Scorecard:
    """:func:`measure_table` with the settings of the folder's last time."""
    settings = read_json(root / TABLE_FILE)
    try:
        table, named = settings.pop("table"), settings.pop("encoder")
        sources = [Path(one) for one in ([table] if isinstance(table, str) else table)]
        settings.pop("references", None)
        request = MeasureRequest(**{**settings, "histories": settings.get("histories") or {}})
        return measure_table(sources, root, request, encoder=encoder or named, resamples=resamples)
    except (KeyError, TypeError, AttributeError):
        raise RunError(f"{root / TABLE_FILE} is incomplete; measure the table again into a new folder") from None
