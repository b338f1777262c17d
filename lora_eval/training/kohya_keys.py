"""Every setting of kohya's scripts that is known here: one of ours, one that cannot change a LoRA, or one to name.

Names as in sd-scripts' ``train_network.py``, ``library/train_util.py`` and ``library/config_util.py``, and as in
lora-scripts' ``mikazuki/schema``. A key in none of these tables is named as left out.
"""

from __future__ import annotations

SAME = {
    "pretrained_model_name_or_path": "base_model",
    "train_data_dir": "train_data_dir",
    "reg_data_dir": "reg_data_dir",
    "in_json": "metadata_path",
    "metadata_file": "metadata_path",
    "prior_loss_weight": "prior_loss_weight",
    "output_dir": "output_dir",
    "output_name": "name",
    "network_dim": "lora_rank",
    "network_alpha": "lora_alpha",
    "network_dropout": "dropout",
    "network_weights": "init_lora",
    "train_batch_size": "batch_size",
    "max_train_epochs": "epochs",
    "max_train_steps": "max_steps",
    "learning_rate": "learning_rate",
    "unet_lr": "learning_rate",
    "lr_warmup_steps": "warmup_steps",
    "lr_scheduler_num_cycles": "lr_cycles",
    "resolution": "resolution",
    "bucket_no_upscale": "no_upscale",
    "seed": "seed",
    "mixed_precision": "mixed_precision",
    "save_every_n_steps": "save_steps",
    "save_every_n_epochs": "save_epochs",
    "gradient_accumulation_steps": "gradient_accumulation",
    "gradient_checkpointing": "gradient_checkpointing",
    "max_grad_norm": "max_grad_norm",
    "min_snr_gamma": "min_snr_gamma",
    "noise_offset": "noise_offset",
    "caption_extension": "caption_extension",
    "caption_dropout_rate": "caption_dropout",
    "caption_tag_dropout_rate": "tag_dropout",
    "shuffle_caption": "shuffle_caption",
    "keep_tokens": "keep_tokens",
    "flip_aug": "flip",
    "random_crop": "random_crop",
    "validation_split": "validation_fraction",
    "validate_every_n_steps": "validation_steps",
    "sample_every_n_steps": "sample_steps",
    "cache_latents_to_disk": "cache_latents_to_disk",
    # lora-scripts' form; its sample_steps are steps of the sampler
    "sample_cfg": "sample_cfg",
    "sample_seed": "sample_seed",
    "sample_steps": "sampler_steps",
}
# sd-scripts spells it in both ways
ALIASES = {
    "caption_extention": "caption_extension",
    "lr_scheduler_type": "lr_scheduler",
    "dataset_repeats": "num_repeats",
}

# None of these changes which LoRA comes out.
SILENT = frozenset({
    # where and how fast it is computed, not what
    "cache_latents", "cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk", "vae_batch_size",
    "text_encoder_batch_size", "max_data_loader_n_workers", "persistent_data_loader_workers", "xformers", "sdpa",
    "mem_eff_attn", "lowram", "highvram", "torch_compile", "dynamo_backend", "ddp_timeout",
    "ddp_gradient_as_bucket_view", "ddp_static_graph", "cpu_offload_checkpointing", "disable_mmap_load_safetensors",
    "skip_cache_check", "cache_info", "tokenizer_cache_dir", "blocks_to_swap", "fused_backward_pass",
    # logs and uploads
    "logging_dir", "log_with", "log_prefix", "log_config", "log_tracker_name", "log_tracker_config",
    "wandb_api_key", "wandb_run_name", "console_log_level", "console_log_file", "console_log_simple",
    "huggingface_repo_id", "huggingface_repo_type", "huggingface_path_in_repo", "huggingface_token",
    "huggingface_repo_visibility", "save_state_to_huggingface", "async_upload",
    # a run can always be resumed, and all checkpoints are kept
    "save_state", "save_state_on_train_end", "save_last_n_steps", "save_last_n_epochs", "save_last_n_steps_state",
    "save_last_n_epochs_state",
    # what is written into the file beside the weights
    "save_model_as", "use_safetensors", "no_metadata", "training_comment", "metadata_title", "metadata_author",
    "metadata_description", "metadata_license", "metadata_tags", "output_config", "config_file", "debug_dataset",
    # buckets are always on (a note says so where they were off); the form's own switches
    "enable_bucket", "network_train_unet_only", "enable_preview", "prompt_file", "positive_prompts",
    "negative_prompts",
})  # fmt: skip
# a value at which the setting changes nothing; False, "" and 0 are so for every key that is not in SAME
NEUTRAL: dict[str, tuple[object, ...]] = {
    "loss_type": ("l2",),
    "huber_schedule": ("snr",),
    "huber_c": (0.1,),
    "huber_scale": (1, 1.0),
    "min_timestep": (0,),
    "max_timestep": (1000,),
    "caption_separator": (",",),
    "network_multiplier": (1, 1.0),
    "lr_scheduler_power": (1, 1.0),
    "bucket_reso_steps": (64,),
    "base_weights_multiplier": (1, 1.0),
    "token_warmup_min": (1,),
    "save_n_epoch_ratio": (0,),
    "lr_restart_cycles": (1,),
}
SAMPLERS = {
    "ddim": "DDIM", "euler": "Euler", "k_euler": "Euler", "euler_a": "Euler a", "k_euler_a": "Euler a",
    "heun": "Heun", "lms": "LMS", "k_lms": "LMS", "dpm_2": "DPM2", "k_dpm_2": "DPM2", "dpm_2_a": "DPM2 a",
    "k_dpm_2_a": "DPM2 a", "dpmsolver++": "DPM++ 2M",
}  # fmt: skip
