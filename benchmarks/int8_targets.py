"""What int8 costs in the loss: KL per token between exact targets and stored ones, on the miniature teacher.

    python benchmarks/int8_targets.py [--captions 32] [--tokens 40 16 4]

For each number of tokens kept a row, the mean over taps and captions of KL(stored || exact) at temperature 3, for int8
with a scale a channel and for bf16, and the bytes of scales as a share of the row.
"""

from __future__ import annotations

import argparse
import json

import torch

from pipelines import RECIPES
from x2i_platform.features.codec import decode, encode_int8, encode_raw
from x2i_platform.mini import captions_path
from x2i_platform.models.taps import attention_taps
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.recipes import load
from x2i_platform.training.losses import attention_kl


@torch.no_grad()
def exact_targets(count: int) -> list[torch.Tensor]:
    """Z-scored attention outputs `(tokens, D)` of every tap of some captions."""
    recipe = load("mini", shipped=RECIPES)
    teacher, encoders = Teacher.load(recipe.teacher), TextEncoders.load(recipe.teacher)
    conditioning = encoders.encode(captions_path().read_text(encoding="utf-8").splitlines()[:count])
    with attention_taps(teacher.dit, teacher.tap_names) as taken:
        teacher.forward(
            conditioning.prompt_embeds_BTE,
            pooled_BP=conditioning.pooled_BP,
            latents_BNC=teacher.noise(range(count)),
            sigma_B=torch.ones(count),
        )
    outputs = [one_ND for tap_BND in taken.values() for one_ND in tap_BND]
    return [(x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-7) for x in outputs]


def kl_per_token(stored: torch.Tensor, exact: torch.Tensor) -> float:
    """Mean KL of a row, in nats."""
    return float(attention_kl([stored.double()[None]], [exact.double()[None]])) / exact.shape[0]


def main() -> None:
    """Print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=32)
    parser.add_argument("--tokens", type=int, nargs="+", default=[40, 16, 4])
    options = parser.parse_args()
    targets = exact_targets(options.captions)
    print("| tokens a row | int8 KL | bf16 KL | scales / row |\n|---|---|---|---|")
    results = []
    for tokens in options.tokens:
        rows = [row[torch.randperm(len(row), generator=torch.Generator().manual_seed(0))[:tokens]] for row in targets]
        int8 = sum(kl_per_token(decode(encode_int8(row)), row) for row in rows) / len(rows)
        bf16 = sum(kl_per_token(decode(encode_raw(row.bfloat16())), row) for row in rows) / len(rows)
        results.append({"tokens": tokens, "int8": int8, "bf16": bf16, "scales": 2 / (tokens + 2)})
        print(f"| {tokens} | {int8:.1e} | {bf16:.1e} | {2 / (tokens + 2):.1%} |")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
