"""The whole method in thirty lines: AlignNet learns to steer a frozen DiT as the DiT's own text encoders do.

    python examples/distill_step.py

Here teacher and student run side by side. `x2i-platform train` reads the teacher's outputs from a feature store, and
its step is `x2i_platform/training/step.py`. Writes nothing.

Shape suffixes: B batch, C MLLM layers + 1, S tokens, H hidden width, N image tokens.
"""

from __future__ import annotations

import torch

from pipelines import RECIPES
from x2i_platform.config import Recipe
from x2i_platform.models.alignnet import AlignNet, AlignNetDims, pad_states
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.taps import attention_taps
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.recipes import load
from x2i_platform.training.losses import attention_kl

CAPTIONS = ["a red circle left of a blue square", "two small green stars", "a large yellow heart", "a black cross"]
STEPS = 30


def distill(recipe: Recipe) -> list[float]:
    """Loss of each step."""
    teacher, mllm = Teacher.load(recipe.teacher), MLLM.load(recipe.mllm)
    noise_BNC, sigma_B = teacher.noise(range(len(CAPTIONS))), torch.ones(len(CAPTIONS))

    def attention(conditioning: Conditioning) -> list[torch.Tensor]:
        """What all attention modules of the DiT put out under a conditioning, on the same pure noise."""
        with attention_taps(teacher.dit, teacher.tap_names) as taken:
            teacher.forward(
                conditioning.prompt_embeds_BTE,
                pooled_BP=conditioning.pooled_BP,
                latents_BNC=noise_BNC,
                sigma_B=sigma_B,
            )
        return list(taken.values())

    # What is to be matched: the DiT under its own encoders, T5 and CLIP.
    targets = attention(TextEncoders.load(recipe.teacher).encode(CAPTIONS))
    # What there is to read: the MLLM's hidden states of the same captions, padded to the teacher's text length.
    states_BCSH, mask_BS = pad_states(mllm.encode(CAPTIONS), text_tokens=recipe.teacher.text_tokens)
    # What learns. The DiT stays frozen; gradients only pass through it.
    alignnet = AlignNet(recipe.alignnet, dims=AlignNetDims.of(recipe))
    optimizer = torch.optim.AdamW(alignnet.parameters(), lr=recipe.train.lr)
    losses = []
    for _ in range(STEPS):
        loss = attention_kl(attention(alignnet(states_BCSH, mask_BS=mask_BS)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    losses = distill(load("mini", shipped=RECIPES))
    for step in (1, STEPS // 2, STEPS):
        print(f"step {step}: loss {losses[step - 1]:.2f}")


if __name__ == "__main__":
    main()
