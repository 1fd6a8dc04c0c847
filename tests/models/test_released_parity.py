"""Released layouts, read as the authors' code reads them, against an independent statement of what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Stack

from x2i_platform.config import AlignNetConfig, Fusion
from x2i_platform.models.alignnet import AlignNet, AlignNetDims
from x2i_platform.models.released import SUFFIXES, Layout, export_released, from_state, import_checkpoint

BATCH, LAYERS, TOKENS, WIDTH, PROMPT, POOLED = 2, 5, 12, 48, 32, 8


def stated(states_BCSH: Tensor, weights: dict[str, Tensor], *, heads: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """AlignNet's formula from bare tensors: `(B, S, E)` and `(B, P)`."""
    batch, layers, tokens, width = states_BCSH.shape
    if stack := {name.removeprefix("t5stack."): one for name, one in weights.items() if name.startswith("t5stack.")}:
        config = T5Config(
            d_model=width, d_kv=head_dim, d_ff=4 * width, num_heads=heads, feed_forward_proj="gated-gelu",
            num_layers=len({name.split(".")[1] for name in stack if name.startswith("block.")}),
            layer_norm_epsilon=1e-6, is_encoder_decoder=False, is_decoder=False, use_cache=False,
        )  # fmt: skip
        t5 = T5Stack(config).eval()
        assert t5.load_state_dict(stack, strict=False).unexpected_keys == []
        flat = states_BCSH.reshape(batch * layers, tokens, width)
        states_BCSH = t5(inputs_embeds=flat).last_hidden_state.reshape(states_BCSH.shape)
    if "cha_scale" in weights:
        scaled = [weights["cha_scale"][0, layer, 0, 0] * states_BCSH[:, layer] for layer in range(layers)]
        fused_BSH = torch.stack(scaled).sum(0) / layers
    elif "conv.weight" in weights:
        # Cross-correlation of the (S, H) plane, layer by layer, with two zeros around it.
        padded = nn.functional.pad(states_BCSH, (2, 2, 2, 2))
        windows = padded.unfold(2, 5, 1).unfold(3, 5, 1)
        fused_BSH = torch.einsum("bcshij,cij->bsh", windows, weights["conv.weight"][0]) + weights["conv.bias"]
    else:
        fused_BSH = states_BCSH.mean(1)
    centred = fused_BSH - fused_BSH.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    normal = normal * weights["mlp.layernorm.weight"] + weights["mlp.layernorm.bias"]
    prompt_BSE = _gelu(normal @ weights["mlp.projector.0.weight"].T) @ weights["mlp.projector.2.weight"].T
    pooled_BSP = _gelu(prompt_BSE) @ weights["mlp.fc.1.weight"].T + weights["mlp.fc.1.bias"]
    return prompt_BSE, pooled_BSP.mean(1)


def _gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / 2**0.5)) / 2


def as_the_authors_read(path: Path) -> dict[str, Tensor]:
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".bin":
        return content
    named = set(content["config"])
    assert named == {
        "in_channels", "kernel_size", "input_dim", "output_dim0", "output_dim1", "num_layers", "num_heads", "norm_eps",
        "head_dim", "use_t5", "use_scale", "use_cnn",
    }, "their class takes these arguments and no other"  # fmt: skip
    state: dict[str, Tensor] = content["state_dict"]
    return state


@torch.no_grad()
@pytest.mark.parametrize("layout", SUFFIXES)
@pytest.mark.parametrize("t5_layers", [0, 2])
@pytest.mark.parametrize("fusion", ["conv", "scale", "mean"])
def test_outputs_are_those_of_the_formula(tmp_path: Path, fusion: Fusion, t5_layers: int, layout: Layout) -> None:
    torch.manual_seed(0)
    heads = {"t5_heads": 3, "t5_head_dim": 8} if t5_layers else {}
    dims = AlignNetDims(LAYERS, WIDTH, text_tokens=TOKENS, prompt_dim=PROMPT, pooled_dim=POOLED, **heads)
    alignnet = AlignNet(AlignNetConfig(fusion=fusion, t5_layers=t5_layers, padding="reference"), dims=dims).eval()
    for weight in alignnet.parameters():  # zero biases and unit scales would hide a mistake
        weight.add_(0.1 * torch.randn(weight.shape))
    path = export_released(alignnet, tmp_path / f"alignnet{SUFFIXES[layout]}", layout=layout)

    states_BCSH = torch.randn(BATCH, LAYERS, TOKENS, WIDTH)
    expected = stated(states_BCSH, as_the_authors_read(path), heads=3, head_dim=8)
    config, found, state = import_checkpoint(path, num_layers=LAYERS, text_tokens=TOKENS)
    assert (config.fusion, config.t5_layers) == (fusion, t5_layers)
    imported = from_state(config, dims=found, state=state)
    for model in (alignnet, imported):
        conditioning = model(states_BCSH, mask_BS=torch.ones(BATCH, TOKENS, dtype=torch.bool))
        torch.testing.assert_close(conditioning.prompt_embeds_BTE, expected[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(conditioning.pooled_BP, expected[1], rtol=1e-6, atol=1e-6)
