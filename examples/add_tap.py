"""Choose the taps that teach, and watch a module of the DiT that is no tap.

    python examples/add_tap.py            # makes a small store in a temporary folder
    python examples/add_tap.py STORE      # makes it there, and leaves it

A tap is an attention output of the DiT. Which ones are stored and learned from is a choice of the recipe. To watch
another module takes a forward hook. To store and learn from it in every run, it needs a name in
`x2i_platform/models/taps.py`; docs/extending.md says how.

Shape suffixes: B batch, N tokens, D channels.
"""

from __future__ import annotations

import sys
import tempfile

import torch
from small_store import make_store
from torch import Tensor, nn

from pipelines import RECIPES
from x2i_platform.config import Recipe
from x2i_platform.features.schema import sample_id
from x2i_platform.features.store import FeatureStore
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.teacher import Teacher
from x2i_platform.models.text_encoders import TextEncoders
from x2i_platform.recipes import load
from x2i_platform.training.data import Batch, Collate, FeatureDataset, Place
from x2i_platform.training.losses import attention_kl
from x2i_platform.training.step import distill_step

CAPTIONS = ["a red circle left of a blue square", "two small green stars", "a large yellow heart", "a black cross"]
CHOICE = ["targets.taps=[double.1.image, single.3]", "mllm.states=prompt"]
STEPS = 20


def read_batch(store: FeatureStore, *, recipe: Recipe) -> Batch:
    """What the store has of the captions, side by side. They are few, so they all lie in shard 0."""
    dataset = FeatureDataset(store.files.url, store.manifest())
    samples = [dataset[Place(0, sample_id(caption))] for caption in CAPTIONS]
    return Collate(recipe.alignnet.padding, text_tokens=recipe.teacher.text_tokens)(samples)


def watch(module: nn.Module, conditioning: Conditioning, *, teacher: Teacher) -> Tensor:
    """What a module of the DiT puts out, `(B, N, D)`, on pure noise. It stays part of the autograd graph."""
    seen: list[Tensor] = []
    with module.register_forward_hook(lambda _module, _args, output: seen.append(output)):
        teacher.forward(
            conditioning.prompt_embeds_BTE,
            pooled_BP=conditioning.pooled_BP,
            latents_BNC=teacher.noise(range(len(CAPTIONS))),
            sigma_B=torch.ones(len(CAPTIONS)),
        )
    return seen[0]


def main(folder: str) -> None:
    recipe = load("mini", shipped=RECIPES, overrides=CHOICE)
    teacher = Teacher.load(recipe.teacher)
    alignnet = AlignNet(recipe.alignnet, dims=AlignNetDims.of(recipe))

    # Other taps: the store holds those that the recipe names, and the step learns from those that the batch has.
    batch = read_batch(make_store(folder, recipe=recipe, captions=CAPTIONS), recipe=recipe)
    result = distill_step(alignnet, teacher=teacher, batch=batch, config=recipe.train)
    print(f"taps in the store: {', '.join(batch.targets_BTD)}")
    print(f"KL per token at these taps: {result.loss / result.num_tokens:.4f}")

    # Another module: the MLP of the second double block's image stream. The teacher reads the captions with T5 and
    # CLIP, the student with AlignNet. The loss takes any pair of outputs, and its gradient reaches AlignNet.
    mlp = teacher.dit.transformer_blocks[1].ff
    target_BND = watch(mlp, TextEncoders.load(recipe.teacher).encode(CAPTIONS), teacher=teacher)
    optimizer = torch.optim.AdamW(alignnet.parameters(), lr=recipe.train.lr)
    for step in range(1, STEPS + 1):
        output_BND = watch(mlp, alignnet(batch.states_BCSH, mask_BS=batch.mask_BS), teacher=teacher)
        loss = attention_kl([output_BND], [target_BND])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (1, STEPS):
            print(f"KL per token at the MLP, step {step}: {loss / output_BND.shape[1]:.4f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(temporary)
