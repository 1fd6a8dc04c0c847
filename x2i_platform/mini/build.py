"""`python -m x2i_platform.mini.build [PART...] --folder DIR`: train the miniature models, or resume, and pack them.

AlignNet isn't among them: the platform's own commands train it on these models, see `benchmarks/ship_alignnet.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

    from x2i_platform.mini.training.dit import TeacherParts

Part = Callable[[Path], object]
"""Trains a part and the parts it needs in a folder, or resumes there."""


def vae(folder: Path) -> AutoencoderKL:
    """Train the VAE."""
    from x2i_platform.mini.training.vae import build

    return build(folder / "vae")


def teacher(folder: Path) -> tuple[AutoencoderKL, TeacherParts]:
    """Train the VAE, then T5, then CLIP and the DiT."""
    from x2i_platform.mini.training import dit, text

    autoencoder, parts = vae(folder), dit.TeacherParts()
    parts.t5 = text.build(folder / "text", config=parts.t5.config, tokenizer=parts.t5_words)
    dit.build(parts, vae=autoencoder, folder=folder / "dit")
    return autoencoder, parts


def language(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer]:
    """Train the MLLM's language model."""
    from x2i_platform.mini.training.language import build

    return build(folder / "language")


def vision(folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer]:
    """Train the language model, then the vision tower, then all of the MLLM on videos."""
    from x2i_platform.mini.training import video as video_part
    from x2i_platform.mini.training import vision as vision_part

    model, tokenizer = language(folder)
    vision_part.pretrain_tower(model, folder=folder / "tower")
    vision_part.build(model, tokenizer, folder=folder / "vision")
    video_part.build(model, tokenizer, folder=folder / "video")
    return model, tokenizer


def pack(folder: Path) -> None:
    """Write all models as they ship. Unfinished parts are trained first."""
    from x2i_platform.mini import captions_path
    from x2i_platform.mini.checkpoints import trained_folder
    from x2i_platform.mini.training import pack as packing

    autoencoder, parts = teacher(folder)
    packing.write_flux(trained_folder(), autoencoder=autoencoder, parts=parts)
    model, tokenizer = vision(folder)
    packing.write_qwen(trained_folder(), model=model, tokenizer=tokenizer)
    packing.write_captions(captions_path())
    packing.write_manifest(trained_folder(), logs=folder)


def audio(folder: Path) -> None:
    """Train an audio tower for the packed MLLM, pack both as a Thinker, and record the spoken suite."""
    from x2i_platform.mini.checkpoints import trained_folder
    from x2i_platform.mini.recordings import FOLDER
    from x2i_platform.mini.training import audio as audio_part
    from x2i_platform.mini.training import omni, recordings
    from x2i_platform.mini.training import pack as packing

    model, tokenizer = omni.widened(trained_folder() / packing.QWEN)
    audio_part.pretrain_ear(model, tokenizer, folder=folder / "ear")
    audio_part.build(model, tokenizer, folder=folder / "audio")
    packing.write_omni(trained_folder(), model=model, tokenizer=tokenizer)
    packing.add_audio_to_manifest(trained_folder(), logs=folder)
    recordings.write(FOLDER)


PARTS: Mapping[str, Part] = {part.__name__: part for part in (vae, teacher, language, vision, pack, audio)}


def main(arguments: Sequence[str] | None = None, *, parts: Mapping[str, Part] = PARTS) -> None:
    """Run the given parts in their order. `arguments` defaults to the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *parts], metavar="PART", help=f"of {', '.join(parts)}; all")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints and logs are kept")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    for name, part in parts.items():
        if name in (asked.parts or parts):
            part(asked.folder)


if __name__ == "__main__":
    main()
