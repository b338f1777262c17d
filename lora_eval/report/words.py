"""What the report calls things; the tab uses the same words."""

from __future__ import annotations

TITLES = {
    "consistency": "Visual consistency",
    "fidelity": "Feature fidelity",
    "generalisation": "Generalisation",
    "curve": "Training curve",
    "strength": "Strength control",
    "alignment": "Prompt alignment",
}
QUESTIONS = {
    "consistency": "Does the style drift between draws?",
    "fidelity": "Does it look like my subject?",
    "generalisation": "Did it learn the concept or the pictures?",
    "curve": "Can I trust the loss curve?",
    "strength": "Is the weight a knob or a switch?",
    "alignment": "Does it still listen to the prompt?",
}
COMPARED = {
    "consistency": "0: the change differs by seed like noise; 1: as alike as the references would be",
    "fidelity": "0: the base model without LoRA; 1: the references among themselves",
    "generalisation": "0: nothing left beyond plain prompts, or copies; 1: nothing lost",
    "curve": "1: converged; 0.6: still falling; 0.4: oscillating; 0.3: overfit; 0.2: flat; 0: diverged",
    "strength": "0: no orderly response to the weight; 1: even and unbroken up to weight 1",
    "alignment": "0: the picture could belong to any prompt; 1: as close to its prompt as without LoRA",
}
ROLE_WORDS = {
    "plain": "the concept as trained",
    "fidelity": "key features in other poses",
    "challenge": "new scene, style or action",
    "composition": "several things asked for at once",
    "negative": "with a negative prompt",
    "unrelated": "without the trigger",
}
# cells.csv column -> (words, decimals, what it is in a sentence), in the order shown under a picture
CELL_FACTS = {
    "clip_i": (
        "likeness to the references (CLIP-I)",
        3,
        "Mean cosine between the picture's and the references' image features: 1 would be the same picture.",
    ),
    "clip_i_gain": (
        "likeness gained over weight 0",
        3,
        "How much nearer to the references the LoRA brought this prompt and seed; 0 is the base model.",
    ),
    "clip_t": (
        "fit to the prompt (CLIP-T)",
        3,
        "Cosine between the picture's and the prompt's features; compare it with other pictures, not with 1.",
    ),
    "clip_t_delta": (
        "fit against weight 0",
        3,
        "What the LoRA did to the fit to the prompt for this seed; below 0 it listens less than the base model.",
    ),
    "retrieval_rank": (
        "rank of its own prompt",
        1,
        "Place of its own prompt when all prompts of the suite are sorted by their fit to the picture; 1 is best.",
    ),
    "elements_won": (
        "share of elements seen",
        2,
        "Share of the things asked for that fit the picture better than every swapped one.",
    ),
    "effect": (
        "change from weight 0",
        3,
        "Cosine distance between this picture and that of the same prompt and seed without LoRA.",
    ),
    "drift_z": (
        "drift from the other seeds, robust deviations",
        1,
        "How far its style lies from the other seeds of its prompt; above 3 it stands out.",
    ),
    "distortion_z": (
        "distortion (above 3 it left weight 0's spread)",
        1,
        "How far clipping, saturation, sharpness and noise lie outside of what the base model draws.",
    ),
    "nn_train": (
        "nearest training picture, cosine",
        3,
        "Likeness to the most alike training picture; beside it stands what training pictures reach among themselves.",
    ),
    "nn_ssim": (
        "the same, SSIM",
        2,
        "Structural likeness to that training picture, pixel by pixel; 1 is a copy.",
    ),
}
# how a metric colours a map: gain (blue above 0, orange below), level (more is bluer), fault (more is oranger)
COLOURS = {
    "clip_i_gain": "gain",
    "clip_t_delta": "gain",
    "clip_i": "level",
    "clip_t": "level",
    "elements_won": "level",
    "effect": "level",
    "drift_z": "fault",
    "distortion_z": "fault",
    "nn_train": "fault",
}
AXIS_TITLES = {"weight": "weight", "checkpoint": "checkpoint", "prompt": "prompt", "seed": "seed"}
