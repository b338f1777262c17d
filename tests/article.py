"""The training config that the source article prints, word for word."""

from __future__ import annotations

MODEL = "./models/Stable-diffusion/v1-5-pruned.safetensors"
ARTICLE = f"""\
train_data_dir: "./data/style_train"
metadata_path: "./data/style_train/metadata.csv"
base_model: "{MODEL}"
lora_rank: 8
batch_size: 4
epochs: 10
learning_rate: 2e-4
output_dir: "./output/my_style_lora"
save_steps: 100
"""
