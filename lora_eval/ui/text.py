"""Every text that the tabs show. ``localizations/zh_CN.json`` has a translation for each; a test keeps it so.

The WebUI translates whole text nodes, so a text here is never glued to a number: each stands in an element of its own.
"""

from __future__ import annotations

from lora_eval.report.words import COMPARED as _COMPARED
from lora_eval.report.words import QUESTIONS as _QUESTIONS
from lora_eval.report.words import TITLES as _TITLES

TRAIN_TITLE = "LoRA Train"
SCORE_TITLE = "LoRA Scorecard"

# name of a setting -> (label, hint). The order is the order in the tab.
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "LoRA network": {
        "lora_rank": ("Rank", "8 first; 4 when memory is short, 16 when 8 learns too little"),
        "lora_alpha": ("Alpha", "empty: the same as the rank, so that the scale is 1"),
        "preset": (
            "Layers",
            "attention: Q, K, V and output; transformer: what kohya trains; full: with 3x3 convolutions",
        ),
        "conv_rank": ("Rank of convolutions", "only for the full preset; empty: the rank"),
        "blocks": ("Blocks", "train only these parts of the UNet; none ticked: all"),
        "rank_stabilised": ("Rank-stabilised scale", "alpha over the square root of the rank (rsLoRA)"),
        "dropout": ("Dropout", "share of the LoRA's inputs set to zero; 0: off"),
        "init_lora": ("Start from LoRA", "path of a LoRA to go on from, of any rank; empty: start anew"),
    },
    "Steps and learning rate": {
        "epochs": ("Epochs", "passes over the pictures; 10 to 15 are advised"),
        "max_steps": ("Step limit", "stop after so many steps all the same; empty: no limit"),
        "batch_size": ("Batch size", "pictures in one pass; 4 to 6 on 24 GB, 1 or 2 when memory is short"),
        "gradient_accumulation": (
            "Gradient accumulation",
            "passes in one step; acts like a larger batch without its memory",
        ),
        "learning_rate": ("Learning rate", "2e-4 for a style, 1e-4 for a character or an object"),
        "optimizer": ("Optimiser", "adamw8bit, lion and prodigy need their package"),
        "lr_scheduler": ("Learning rate schedule", "how the learning rate changes over the run"),
        "lr_cycles": ("Restarts", "cycles of cosine_with_restarts"),
        "warmup_steps": ("Warm-up", "number of steps, or a share of all steps below 1"),
        "weight_decay": ("Weight decay", "pulls the LoRA towards zero"),
        "betas": ("Betas", "two numbers of the optimiser"),
        "max_grad_norm": ("Gradient clipping", "largest norm of the gradient; 0: no clipping"),
        "ema": ("Average of weights (EMA)", "decay such as 0.999; empty: off"),
        "seed": ("Training seed", "the same seed and settings give the same LoRA"),
    },
    "Noise and precision": {
        "min_snr_gamma": ("Min-SNR gamma", "5 evens out the timesteps; empty: off"),
        "noise_offset": ("Noise offset", "helps very dark and very bright pictures; 0: off"),
        "mixed_precision": ("Mixed precision", "auto: as the WebUI computes"),
        "on_out_of_memory": (
            "When memory runs out",
            "smaller: go on with smaller settings of the same effect; stop: an error",
        ),
        "gradient_checkpointing": ("Gradient checkpointing", "less memory, about a third slower"),
    },
    "Captions and pictures": {
        "class_word": ("Class word", "what the trigger is, for example woman, dog or painting"),
        "caption_dropout": ("Caption dropout", "share of pictures shown without caption"),
        "tag_dropout": ("Tag dropout", "share of tags left out"),
        "shuffle_caption": ("Shuffle tags", "tags in another order each time"),
        "keep_tokens": ("Keep first tags", "so many tags stay in front"),
        "flip": ("Flip", "mirror half of the pictures; not for faces with a side or for lettering"),
        "random_crop": ("Random crop", "cut another part each time instead of the middle"),
        "reg_data_dir": ("Regularisation pictures", "folder with the class without the concept; empty: none"),
        "prior_loss_weight": ("Weight of regularisation", "how much their loss counts"),
        "resolution": ("Resolution", "side or WIDTHxHEIGHT in pixels; empty: as in Settings, else the model's own"),
        "no_upscale": ("Do not enlarge", "small pictures keep their size"),
    },
    "Hard negatives": {
        "hard_negative_prompts": (
            "Prompts to leave alone",
            "one a line, kept as the base model draws them; empty: the captions without the trigger",
        ),
        "hard_negative_weight": ("Weight of hard negatives", "how much they count; 0.3 is usual; 0: off"),
        "hard_negative_start": ("Hard negatives from", "share of the run after which they begin"),
    },
    "Validation and early stop": {
        "validation_fraction": (
            "Held-out share",
            "pictures kept aside to measure with; empty: a tenth from 20 pictures up",
        ),
        "validation_steps": ("Validate every", "steps; empty: about twenty times a run"),
        "early_stop": ("Patience", "stop after so many validations without a better loss; 0: never"),
    },
    "Checkpoints and test pictures": {
        "save_steps": ("Checkpoint every", "steps; 100 to 200 are advised, so that the best can be gone back to"),
        "save_epochs": ("Checkpoint every (epochs)", "also at the end of so many epochs; 0: by steps alone"),
        "save_dtype": ("Precision of files", "fp16 is what the WebUIs expect"),
        "sample_prompts": ("Prompts of test pictures", "one a line; {trigger} and {class_word} are filled in"),
        "sample_negative": ("Negative prompt of test pictures", "what should not be in them"),
        "sample_steps": ("Test pictures every", "steps"),
        "samples_per_prompt": ("Pictures per prompt", "each with a seed of its own"),
        "sample_seed": ("Seed of test pictures", "the same over the whole run, so that only the LoRA differs"),
        "sampler": ("Sampler of test pictures", "a name of the WebUI's list"),
        "sampler_steps": ("Sampling steps of test pictures", "more is finer and slower"),
        "sample_cfg": ("CFG scale of test pictures", "how strictly the prompt is followed"),
        "measure_samples": (
            "Measure test pictures",
            "fidelity, diversity and alignment at each step; needs prompts above and the image encoder",
        ),
        "sample_early_stop": (
            "Patience with test pictures",
            "stop after so many steps in a row whose pictures an earlier step beats; 0: advise only",
        ),
    },
    "Files and folders": {
        "metadata_path": (
            "Caption table",
            "metadata.csv with file name and prompt; empty: the folder's own, else .txt beside each picture",
        ),
        "caption_extension": ("Caption ending", "read only caption files with this ending; empty: .txt, then .caption"),
        "output_dir": ("Output folder", "empty: the WebUI's outputs"),
        "base_model": ("Base model", "empty: the one in memory; a name here is checked against it"),
        "cache_latents_to_disk": ("Keep encodings", "a second run on the same pictures starts faster"),
        "publish": ("Put into the LoRA folder", "the finished LoRA can be used at once"),
    },
}

# -- LoRA Train --------------------------------------------------------------------------------------
STEP_FOLDER = "1 · Pictures"
STEP_NAME = "2 · Name and trigger"
STEP_TEMPLATE = "3 · Template"
FOLDER = (
    "Folder of pictures",
    "50 to 200 clean, sharp pictures; a caption for each in metadata.csv or a .txt beside it",
)
FOLDER_HINT = "for example /data/my_style"
CHECK = "Check pictures"
SAVE_CAPTIONS = "Save captions"
ADD_TRIGGER = "Put the trigger in front"
NAME = ("LoRA name", "file name and <lora:NAME:1>; empty: the folder's name")
TRIGGER = ("Trigger word", "a rare word that calls the concept; it should stand in every caption")
KIND = ("What it should learn", "fills in the settings below with the advised ones")
LOW_VRAM = ("Little memory", "12 GB or less: rank 4, one picture at a time")
KINDS = ("style", "character", "object")
TRAIN = "Train"
RESUME = "Resume"
INTERRUPT = "Interrupt"
CAPTION_GROUP = "Make captions by a program"
CAPTION_BY = (
    "Captions by",
    "BLIP: a sentence; DeepBooru: tags; CLIP terms: words from a list; correct them afterwards",
)
CAPTION_ANEW = ("Replace captions that are there", "else only pictures without a caption get one")
CAPTION_MAKE = "Make captions"
CONFIG = "Presets and settings as YAML"
PRESET_NAME = ("Preset", "choose one to load, or write a name to save the settings of this tab under")
PRESET_LOAD = "Load"
PRESET_SAVE = "Save"
SETTINGS_FILE = "Settings from a file: YAML, or a TOML of kohya's scripts"
CONFIG_SHOW = "Show settings"
CONFIG_USE = "Use these settings"
CONFIG_BOX = ("YAML", "copy it to keep it, or paste a training config here")
SCORE_RUN = "Score its checkpoints"
TRAIN_EMPTY = "Nothing trained yet. Choose a folder, a name and a template, then press Train."
TRAIN_WAITS = "While it trains, Generate waits; it gets its turn when the training ends or is interrupted."
GENERATE_WAITS = "Generate was pressed and waits for this training. Interrupt lets it go first, then Resume goes on."

# -- LoRA Scorecard ----------------------------------------------------------------------------------
LORAS = ("LoRAs", "one LoRA, or several checkpoints of one run")
REFRESH = "Refresh"
RUN_PICK = ("All checkpoints of a run", "fills in the list above")
SCORE_KIND = ("What it should have learnt", "from the LoRA: what its training said")
FROM_LORA = "from the LoRA"
DATA = ("Reference folder", "pictures of the concept; empty: those of its training")
PRESET = ("Preset", "how much is drawn: more pictures, narrower intervals")
PRESETS = ("quick", "standard", "thorough", "adaptive")
X_AXIS = ("X axis", "what stands side by side in the map of the pictures")
Y_AXIS = ("Y axis", "what stands one below the other")
X_VALUES = ("X values", "range as in the X/Y/Z plot, for example 0-1.2 [7], 100-500(+100) or 1-5; empty: the preset's")
Y_VALUES = ("Y values", "checkpoints by their steps, prompts by their place in the suite; empty: all")
AXES = ("weight", "checkpoint", "prompt", "seed")
BUDGET = ("Budget", "the most that is drawn; it looks where it matters; empty: a third of the thorough grid")
BUDGET_UNIT = "Budget in"
PICTURES = "pictures"
MINUTES = "minutes"
RUN = "Run"
WHAT = "What is drawn"
WEIGHTS = (
    "Weights",
    "range as in the X/Y/Z plot, for example 0-1.2 [7], 0-1(+0.2) or 0.4, 0.6, 0.9; empty: the preset's",
)
SEEDS = ("Seeds per prompt", "how many, or which: 1-5; empty: the preset's")
PROMPTS = ("Number of prompts", "how many, or which: 1-3, 7; empty: the preset's")
SUITE = ("Prompt suite", "a shipped one, or the path of a YAML or CSV file")
SUITE_AUTO = "by kind"
SCORE_TRIGGER = ("Trigger", "empty: from the LoRA")
SCORE_CLASS = ("Class word for CLIP", "what the trigger is; empty: from the LoRA")
SAMPLING = "How it is drawn"
SAMPLER = ("Sampler", "empty: Euler")
SCHEDULER = ("Schedule type", "empty: Automatic")
STEPS = ("Sampling steps", "empty: 20")
CFG = ("CFG scale", "empty: the model's own")
WIDTH = ("Width", "empty: as in Settings, else the model's own")
HEIGHT = ("Height", "empty: as in Settings, else the model's own")
CLIP_SKIP = ("Clip skip", "empty: 1")
BATCH = ("Pictures at once", "fewer need less memory; empty: as in Settings")
ENCODER = ("Image encoder", "auto, an open_clip model as NAME/PRETRAINED, or a folder; empty: as in Settings")
HISTORY = ("History", "runs on disk, the latest first")
USE_WEIGHT = "Use this weight"
USE_LORA = ("LoRA to use", "the recommended checkpoint")
USE_VALUE = ("Weight to use", "becomes the card's preferred weight")
USE = "Use the result"
DOWNLOADS = "Downloads"
ALL_RUNS = "All runs"
COMPARE = "Compare runs"
COMPARE_RUNS = ("Runs to compare", "two or more finished runs, paired by prompt and seed")
COMPARE_AT = ("At", "checkpoint:weight in place of a run's recommendation, for example fox-000200:0.8; empty: that")
COMPARE_START = "Compare"
COMPARE_FILES = "Files of the comparison"
SCORE_EMPTY = "Nothing scored yet. Choose a LoRA and press Run."
NO_LORA = "Choose a LoRA first"

# -- pieces of what is shown while it works -----------------------------------------------------------
STATUS = {
    "queued": "waiting in line",
    "running": "running",
    "finished": "finished",
    "failed": "failed",
    "interrupted": "interrupted",
    "paused": "paused",
}
SEVERITY = {"error": "error", "warning": "warning", "info": "note"}
STATES = {
    "converged": "converged",
    "still falling": "still falling",
    "flat": "flat",
    "oscillating": "oscillating",
    "diverged": "diverged",
    "overfit": "overfit",
    "too short": "too short to tell",
}
WORDS = {
    "on_disk": "last run",
    "left": "time left",
    "used": "time used",
    "ahead": "jobs ahead:",
    "queue": "Queue",
    "cancel": "take out",
    "loss": "Loss",
    "loss_keys": "thin: each step · thick: smoothed · squares: held-out pictures",
    "previews": "Test pictures by step",
    "step": "step",
    "pictures": "pictures",
    "minutes": "minutes",
    "minutes_unknown": "time unknown until a first run on this machine",
    "no_findings": "No problems found.",
    "drawn": "Drawn last",
    "recommended": "Recommended",
    "not_measured": "not measured",
    "full_report": "Full report",
    "copy": "Copy",
    "send": "Send to txt2img",
    "advice": "What to change next time",
    "saved": "Saved to the LoRA's card:",
    "submitted": "In line.",
    "stopping": "Stopping at the next step; what is done is kept.",
    "nothing_runs": "Nothing is running.",
    "captions_saved": "Captions changed:",
    "settings_taken": "Settings taken over.",
    "preset_saved": "Preset saved:",
    "look_again": "Press Check pictures to see and correct them.",
    "no_caption": "no caption",
    "edit": "Captions can be changed here.",
    "set_aside": "set aside",
    "aside_done": "Moved to:",
    "more": "more pictures not shown:",
    "more_findings": "more findings not shown:",
    "filled": "Filled in from the run:",
    "preset": "Preset",
    "fills": "Filling in:",
    "own_page": "Open on its own",
    "comparison": "Comparison",
    "unfinished": "not finished",
    "run": "Run folder",
    "when": "When",
    "weight": "weight",
    "said": "What was said",
}

VERDICTS = ("good", "weak", "poor")


def all_strings() -> list[str]:
    """Each text once, in the order of this file."""
    found: dict[str, None] = {}

    def add(value: object) -> None:
        if isinstance(value, str):
            found[value] = None
        elif isinstance(value, dict):
            for key, one in value.items():
                if value is GROUPS:
                    add(key)
                add(one)
        elif isinstance(value, (tuple, list)):
            for one in value:
                add(one)

    for name, value in globals().items():
        if name.isupper():
            add(value)
    for words in (_TITLES, _QUESTIONS, _COMPARED):
        add(words)
    return list(found)
