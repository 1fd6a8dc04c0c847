"""`python -m x2i_platform.mini.build [PART...] --folder DIR`: train the miniature models, or continue to."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def vae(folder: Path) -> None:
    """Pictures to latents and back."""
    from x2i_platform.mini.training.vae import build

    build(folder / "vae")


def teacher(folder: Path) -> None:
    """T5, CLIP and the DiT; after the VAE."""
    from x2i_platform.mini.training import dit
    from x2i_platform.mini.training import vae as vae_part

    dit.build(folder / "dit", vae=vae_part.build(folder / "vae"))


def language(folder: Path) -> None:
    """The MLLM's language model."""
    from x2i_platform.mini.training.language import build

    build(folder / "language")


def vision(folder: Path) -> None:
    """The MLLM's vision tower, then videos; after the language model."""
    from x2i_platform.mini.training import language as language_part
    from x2i_platform.mini.training import video as video_part
    from x2i_platform.mini.training import vision as vision_part

    model, tokenizer = language_part.build(folder / "language")
    vision_part.pretrain_tower(model, folder=folder / "tower")
    vision_part.build(model, tokenizer, folder=folder / "vision")
    video_part.build(model, tokenizer, folder=folder / "video")


PARTS = {part.__name__: part for part in (vae, teacher, language, vision)}


def main() -> None:
    """Run the parts asked for, in their order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints and logs are kept")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, part in PARTS.items():
        if name in (arguments.parts or PARTS):
            part(arguments.folder)


if __name__ == "__main__":
    main()
