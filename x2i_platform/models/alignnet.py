"""AlignNet: maps the hidden states of all layers of a multimodal LLM to the DiT's two text conditionings.

Shape suffixes: B batch, C MLLM layers + 1 (the embedding output counts), S input tokens, T output tokens, H hidden
width of the MLLM, E width of a prompt token, P width of the pooled vector.

Invariants: parameter names and shapes match the released X2I checkpoints; the initial weights depend on
`config.init_seed` alone, and drawing them changes no global random state; unless `padding` is `reference`, the output
does not depend on the values at padded positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from x2i_platform.config import AlignNetConfig, Padding, Recipe
from x2i_platform.errors import InputError, WeightsError
from x2i_platform.models.catalog import dit_dims, mllm_dims
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.dims import DEFAULT_T5_HEAD_DIM, t5_attention
from x2i_platform.torchvision_schemas import define_missing_schemas

LAYER_NORM_EPS = 1e-6
CONV_KERNEL = 5


@dataclass(frozen=True)
class AlignNetDims:
    """The sizes that follow from the MLLM and the teacher."""

    num_layers: int
    """C: the MLLM's layers plus one for its embedding output."""
    hidden_size: int
    text_tokens: int = 512
    """Text tokens the DiT was trained with. `zero` and `reference` padding fill up to this number. A longer prompt
    is not cut: FLUX gives text tokens no positions, so it takes any number of them."""
    prompt_dim: int = 4096
    pooled_dim: int = 768
    t5_heads: int | None = None
    """Attention heads of the optional T5 stack; None means `hidden_size // t5_head_dim`."""
    t5_head_dim: int = DEFAULT_T5_HEAD_DIM

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """Read the sizes from the recipe's two models. Raises ConfigError if the T5 heads don't divide the width."""
        teacher = dit_dims(recipe.teacher.model, revision=recipe.teacher.revision)
        mllm = mllm_dims(recipe.mllm.model, revision=recipe.mllm.revision)
        heads, head_dim = t5_attention(recipe.alignnet, hidden_size=mllm.hidden_size)
        return cls(
            num_layers=mllm.num_states,
            hidden_size=mllm.hidden_size,
            text_tokens=recipe.teacher.text_tokens,
            prompt_dim=teacher.joint_dim,
            pooled_dim=teacher.pooled_dim,
            t5_heads=heads,
            t5_head_dim=head_dim,
        )


class AlignNet(nn.Module):
    """Fuses the MLLM's layers into one sequence and projects it to the DiT's conditioning.

    `config.padding` says how prompts shorter than the batch are padded:

    - `zero`: pads with zero states up to `dims.text_tokens`. They pass through the network like any token, so the DiT
      sees as many text tokens as it was trained with. Pooled is the mean over valid tokens.
    - `reference`: keeps the states as given and pads up to `dims.text_tokens`. Pooled is the mean over all positions.
      The released checkpoints were trained and run this way.
    - `none`: pads only to the longest prompt of the batch. Pooled is the mean over valid tokens. The DiT has no text
      mask, so it still sees the padding of the shorter prompts; to avoid that, batch prompts of one length. The outputs
      at valid tokens do not depend on the batch.
    """

    def __init__(self, config: AlignNetConfig, *, dims: AlignNetDims) -> None:
        super().__init__()
        self.config = config
        self.dims = dims
        # Weights are drawn on the CPU (on `meta` not at all), so one seed gives the same weights on every device.
        device = "meta" if torch.get_default_device().type == "meta" else "cpu"
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.default_generator.manual_seed(config.init_seed)
            if config.t5_layers:
                self.t5stack = _t5_stack(dims, num_layers=config.t5_layers)
            if config.fusion == "conv":
                self.conv = nn.Conv2d(dims.num_layers, 1, CONV_KERNEL, padding=CONV_KERNEL // 2)
            elif config.fusion == "scale":
                self.cha_scale = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, dims.num_layers, 1, 1)))
            self.mlp = _Projector(dims)

    def forward(self, states_BCSH: Tensor, *, mask_BS: Tensor) -> Conditioning:
        """Compute the conditioning of a padded batch: `prompt_embeds (B, T, E)` and `pooled (B, P)`.

        `mask_BS` is True at valid positions. T is `max(S, dims.text_tokens)`, or S with padding `none`. States are cast
        to the weights' dtype unless autocast is on. Raises WeightsError for states of another MLLM.
        """
        self._check_states(states_BCSH)
        if not torch.is_autocast_enabled(states_BCSH.device.type):
            states_BCSH = states_BCSH.to(self.mlp.layernorm.weight.dtype)
        # (B, C, S, H) -> (B, C, T, H): the DiT was trained with a fixed number of text tokens.
        states_BCSH, mask_BS = self._pad(states_BCSH, mask_BS)
        # Optional: attention between the tokens, in each layer's sequence by itself.
        if self.config.t5_layers:
            states_BCSH = self._mix_tokens(states_BCSH, mask_BS)
        # The released code averages over padding too; otherwise only valid tokens count.
        pooled_over_BT = torch.ones_like(mask_BS) if self.config.padding == "reference" else mask_BS
        # (B, C, T, H) -> (B, T, H), then the projection to (B, T, E) and (B, P).
        return cast(Conditioning, self.mlp(self.fuse_layers(states_BCSH), pooled_over_BT))

    def fuse_layers(self, states_BCSH: Tensor) -> Tensor:
        """Mix the MLLM's layers into one sequence, `(B, S, H)`."""
        # (B, C, S, H) -> (B, S, H): one number per token and channel from all layers.
        if self.config.fusion == "conv":
            # Layers are the channels of a tokens x width image. Each output sees 5 x 5 values of every layer.
            return cast(Tensor, self.conv(states_BCSH)).squeeze(1)
        if self.config.fusion == "scale":
            # One learned factor per layer, then the mean.
            return (self.cha_scale * states_BCSH).mean(1)
        return states_BCSH.mean(1)

    def _check_states(self, states_BCSH: Tensor) -> None:
        dims, shape = self.dims, tuple(states_BCSH.shape)
        if len(shape) != 4 or (shape[1], shape[3]) != (dims.num_layers, dims.hidden_size):
            raise WeightsError(
                f"this AlignNet takes MLLM states (batch, {dims.num_layers} layers, tokens, {dims.hidden_size}), not "
                f"{shape}: they come from another MLLM"
            )

    def _pad(self, states_BCSH: Tensor, mask_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Zero invalid positions and pad to the teacher's text length, as `config.padding` asks."""
        # The convolution and the T5 stack would carry padded values into valid tokens.
        if self.config.padding != "reference":
            states_BCSH = states_BCSH.masked_fill(~mask_BS[:, None, :, None], 0)
        missing = self.dims.text_tokens - states_BCSH.shape[2]
        if self.config.padding != "none" and missing > 0:
            states_BCSH = nn.functional.pad(states_BCSH, (0, 0, 0, missing))
            mask_BS = nn.functional.pad(mask_BS, (0, missing))
        return states_BCSH, mask_BS

    def _mix_tokens(self, states_BCSH: Tensor, mask_BS: Tensor) -> Tensor:
        """Run the T5 stack over each layer's sequence. Except with `none` it attends to padding, as released."""
        num_layers = states_BCSH.shape[1]
        attention_mask = mask_BS.repeat_interleave(num_layers, 0) if self.config.padding == "none" else None
        # (B, C, S, H) -> (B * C, S, H): each layer of each prompt is a sequence of its own.
        mixed = self.t5stack(inputs_embeds=states_BCSH.flatten(0, 1), attention_mask=attention_mask)
        mixed_BCSH = cast(Tensor, mixed.last_hidden_state).view(states_BCSH.shape)
        if attention_mask is None:
            return mixed_BCSH
        return mixed_BCSH.masked_fill(~mask_BS[:, None, :, None], 0)


def pad_states(states: Sequence[Tensor], *, text_tokens: int, padding: Padding = "zero") -> tuple[Tensor, Tensor]:
    """Collate states `(C, S_i, H)` of several prompts into `states (B, C, S, H)` and a validity mask `(B, S)`.

    Pads with zeros on the right, to at least `text_tokens` positions, or with `none` to the longest prompt. Keeps dtype
    and device. Raises InputError if there is no prompt or a prompt has no token.
    """
    lengths = [one_CSH.shape[1] for one_CSH in states]
    if not lengths or not min(lengths):
        raise InputError(f"AlignNet needs at least one prompt and one token in each, got lengths {lengths}")
    num_layers, _, hidden_size = states[0].shape
    size = max(lengths) if padding == "none" else max(*lengths, text_tokens)
    states_BCSH = states[0].new_zeros(len(states), num_layers, size, hidden_size)
    for row_CSH, one_CSH in zip(states_BCSH, states, strict=True):
        row_CSH[:, : one_CSH.shape[1]] = one_CSH
    positions = torch.arange(size, device=states_BCSH.device)
    return states_BCSH, positions < torch.tensor(lengths, device=states_BCSH.device)[:, None]


class _Projector(nn.Module):
    """Projects states to prompt tokens (LayerNorm and two linear layers) and to the pooled vector (one more)."""

    def __init__(self, dims: AlignNetDims) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(dims.hidden_size, eps=LAYER_NORM_EPS)
        self.projector = nn.Sequential(
            nn.Linear(dims.hidden_size, dims.prompt_dim, bias=False),
            nn.GELU(),
            nn.Linear(dims.prompt_dim, dims.prompt_dim, bias=False),
        )
        self.fc = nn.Sequential(nn.GELU(), nn.Linear(dims.prompt_dim, dims.pooled_dim))

    def forward(self, fused_BTH: Tensor, pooled_over_BT: Tensor) -> Conditioning:
        # (B, T, H) -> (B, T, E): takes the place of T5's tokens.
        prompt_embeds_BTE = self.projector(self.layernorm(fused_BTH))
        # (B, T, E) -> (B, T, P) -> (B, P): takes the place of CLIP's vector; the mean over the chosen tokens.
        pooled_BP = (self.fc(prompt_embeds_BTE) * pooled_over_BT.unsqueeze(-1)).sum(1)
        return Conditioning(prompt_embeds_BTE, pooled_BP / pooled_over_BT.sum(1, keepdim=True))


def _t5_stack(dims: AlignNetDims, *, num_layers: int) -> nn.Module:
    """Build T5's encoder layers: gated GELU, feed-forward width 4 H, relative positions. They take states, not ids."""
    define_missing_schemas()  # a CPU build of torch beside torchvision can't import T5 without them
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Stack

    stack = T5Stack(
        T5Config(
            vocab_size=1,  # the embedding is dropped below: released checkpoints have none
            pad_token_id=None,
            eos_token_id=None,
            d_model=dims.hidden_size,
            d_ff=4 * dims.hidden_size,
            d_kv=dims.t5_head_dim,
            num_heads=dims.t5_heads or max(1, dims.hidden_size // dims.t5_head_dim),
            num_layers=num_layers,
            layer_norm_epsilon=LAYER_NORM_EPS,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            dropout_rate=0.0,  # T5's default would make every step, and validation, random
            use_cache=False,
        )
    )
    stack.embed_tokens = None
    return cast(nn.Module, stack)
