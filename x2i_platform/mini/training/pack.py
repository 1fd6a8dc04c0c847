"""Trained parts become the folders that ship: a FLUX pipeline and a Qwen2.5-VL, in half precision, with a manifest.

Invariant: the manifest says of every weights file its SHA-256, and of every part its seed, steps and last figures.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from x2i_platform.mini.drawing import SIDE
from x2i_platform.mini.qwen import write_processors
from x2i_platform.mini.training import dit, language, text, trainer, vae, video, vision

FLUX, QWEN, MANIFEST = "flux", "qwen2.5-vl", "manifest.json"
COMMAND = "python -m x2i_platform.mini.build --folder DIR"
PARTS: Mapping[str, tuple[int, trainer.Schedule]] = {
    "vae": (vae.SEED, vae.SCHEDULE),
    "dit/first": (dit.FIRST.seed, dit.FIRST.schedule),
    "dit/text": (text.SEED, text.SCHEDULE),
    "dit/second": (dit.SECOND.seed, dit.SECOND.schedule),
    "language": (language.SEED, language.SCHEDULE),
    "tower": (vision.SEED, vision.TOWER_SCHEDULE),
    "vision": (vision.SEED, vision.SCHEDULE),
    "video": (video.SEED, video.SCHEDULE),
}


def write_flux(folder: Path, *, autoencoder: AutoencoderKL, parts: dit.TeacherParts) -> None:
    """The teacher as `FluxPipeline.from_pretrained` reads it."""
    parts.t5_words.model_max_length = dit.TEXT_TOKENS
    parts.clip_words.model_max_length = dit.CLIP_TOKENS
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=autoencoder,
        text_encoder=parts.clip,
        tokenizer=parts.clip_words,
        text_encoder_2=parts.t5,
        tokenizer_2=parts.t5_words,
        transformer=parts.dit,
    )
    pipeline.to(torch.float16).save_pretrained(_empty(folder / FLUX), safe_serialization=True)


def write_qwen(folder: Path, *, model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer) -> None:
    """The MLLM with its tokenizer and processors."""
    target = _empty(folder / QWEN)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half().save_pretrained(target, safe_serialization=True)
    tokenizer.save_pretrained(target)
    write_processors(target, patch=vision.PATCH, merge=vision.MERGE, side_limit=SIDE)


def write_manifest(folder: Path, *, logs: Path, accuracy: Mapping[str, Any]) -> None:
    """What was shipped, and how it was made. `accuracy` holds figures of an evaluation."""
    weights = sorted(folder.rglob("*.safetensors"))
    manifest = {
        "command": COMMAND,
        "hardware": f"{platform.machine()}, {torch.get_num_threads()} thread, no GPU",
        "parts": {
            name: {"seed": seed, "steps": schedule.last, **_last(logs / name / trainer.LOG)}
            for name, (seed, schedule) in PARTS.items()
        },
        "accuracy": dict(accuracy),
        "sha256": {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in weights},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _last(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    last: dict[str, Any] = json.loads(path.read_text("utf-8").splitlines()[-1])
    return {"seconds": last.pop("seconds"), "last": {key: value for key, value in last.items() if key != "step"}}


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
