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
# cells.csv column -> (words, decimals), in the order shown under a picture
CELL_FACTS = {
    "clip_i": ("likeness to the references (CLIP-I)", 3),
    "clip_i_gain": ("likeness gained over weight 0", 3),
    "clip_t": ("fit to the prompt (CLIP-T)", 3),
    "clip_t_delta": ("fit against weight 0", 3),
    "retrieval_rank": ("rank of its own prompt", 1),
    "elements_won": ("share of elements seen", 2),
    "effect": ("change from weight 0", 3),
    "drift_z": ("drift from the other seeds, robust deviations", 1),
    "distortion_z": ("distortion (above 3 it left weight 0's spread)", 1),
    "nn_train": ("nearest training picture, cosine", 3),
    "nn_ssim": ("the same, SSIM", 2),
}
