"""AlignNet maps the hidden states of all layers of a multimodal LLM to the DiT's two text conditionings.

Shape suffixes: B batch, C MLLM layers + 1 (the embedding output counts), S tokens given, T tokens returned, H hidden
width of the MLLM, E width of a prompt token, P width of the pooled vector.

Invariants: parameter names and shapes are those of the released X2I checkpoints; the initial weights depend only on
`config.init_seed`, and drawing them changes no global random state; the output doesn't depend on the values at padded
positions, unless `padding` is `reference`.
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
    """The sizes that the MLLM and the teacher decide."""

    num_layers: int
    """C: layers of the MLLM plus one for its embedding output."""
    hidden_size: int
    text_tokens: int = 512
    """Conditioning tokens that the DiT was trained with; `zero` and `reference` padding fill up to it. Longer
    prompts are not cut: FLUX gives text no positions, so it takes any number of tokens."""
    prompt_dim: int = 4096
    pooled_dim: int = 768
    t5_heads: int | None = None
    """Heads of the optional T5 stack; None gives one head for each `t5_head_dim` of hidden width."""
    t5_head_dim: int = DEFAULT_T5_HEAD_DIM

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """The sizes that a recipe's two models need. Raises ConfigError for heads that don't divide the width."""
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

    `config.padding` declares what stands where a prompt is shorter than the batch:

    - `zero`: zeroed states, up to `dims.text_tokens`, go through the network like any token, so that the DiT sees as
      many conditioning tokens as it was trained with; pooled is the mean over valid tokens.
    - `reference`: the states as given, up to `dims.text_tokens`; pooled is the mean over all positions. The released
      checkpoints were trained and run so.
    - `none`: nothing beyond the longest prompt of the batch; pooled is the mean over valid tokens. In a batch of
      unequal lengths the shorter prompts still have zeroed states up to the longest, and the DiT, which knows no mask,
      sees the tokens made of them: where that matters, batch prompts of one length. Valid tokens are as if alone.
    """

    def __init__(self, config: AlignNetConfig, *, dims: AlignNetDims) -> None:
        super().__init__()
        self.config = config
        self.dims = dims
        # Drawn on the CPU (or not at all, on `meta`), so that a seed means the same weights on every device.
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
        """Conditioning of a padded batch: `prompt_embeds (B, T, E)` and `pooled (B, P)`.

        `mask_BS` is True at valid positions. T is `dims.text_tokens`, or S where that is more, or with padding `none`.
        States are cast to the weights' dtype unless autocast is on. Raises WeightsError for states of another MLLM.
        """
        self._check_states(states_BCSH)
        if not torch.is_autocast_enabled(states_BCSH.device.type):
            states_BCSH = states_BCSH.to(self.mlp.layernorm.weight.dtype)
        states_BCSH, mask_BS = self._pad(states_BCSH, mask_BS)
        # Optional: tokens of each layer attend to each other. (B, C, S, H) -> (B, C, S, H)
        if self.config.t5_layers:
            states_BCSH = self._mix_tokens(states_BCSH, mask_BS)
        # Layers are mixed into one sequence, (B, C, S, H) -> (B, S, H), and projected to the DiT's widths.
        pooled_over_BT = torch.ones_like(mask_BS) if self.config.padding == "reference" else mask_BS
        return cast(Conditioning, self.mlp(self.fuse_layers(states_BCSH), pooled_over_BT))

    def fuse_layers(self, states_BCSH: Tensor) -> Tensor:
        """Mix the MLLM's layers into one sequence, `(B, S, H)`."""
        if self.config.fusion == "conv":
            # Layers are the input channels of an image of tokens x width: each output sees 5 x 5 of every layer.
            return cast(Tensor, self.conv(states_BCSH)).squeeze(1)
        if self.config.fusion == "scale":
            # One learned factor per layer.
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
        """Zero what is not valid, and extend to the teacher's text length, as `config.padding` says."""
        # The convolution and the T5 stack would carry padded values into valid tokens.
        if self.config.padding != "reference":
            states_BCSH = states_BCSH.masked_fill(~mask_BS[:, None, :, None], 0)
        missing = self.dims.text_tokens - states_BCSH.shape[2]
        if self.config.padding != "none" and missing > 0:
            states_BCSH = nn.functional.pad(states_BCSH, (0, 0, 0, missing))
            mask_BS = nn.functional.pad(mask_BS, (0, missing))
        return states_BCSH, mask_BS

    def _mix_tokens(self, states_BCSH: Tensor, mask_BS: Tensor) -> Tensor:
        """The T5 stack over every layer's sequence. Padding takes part, as in the released code, except with `none`."""
        num_layers = states_BCSH.shape[1]
        attention_mask = mask_BS.repeat_interleave(num_layers, 0) if self.config.padding == "none" else None
        # The layers of a prompt are separate sequences of one batch: (B * C, S, H).
        mixed = self.t5stack(inputs_embeds=states_BCSH.flatten(0, 1), attention_mask=attention_mask)
        mixed_BCSH = cast(Tensor, mixed.last_hidden_state).view(states_BCSH.shape)
        if attention_mask is None:
            return mixed_BCSH
        return mixed_BCSH.masked_fill(~mask_BS[:, None, :, None], 0)


def pad_states(states: Sequence[Tensor], *, text_tokens: int, padding: Padding = "zero") -> tuple[Tensor, Tensor]:
    """Collate states `(C, S_i, H)` of several prompts into `states (B, C, S, H)` and their validity mask `(B, S)`.

    Padding is zeros on the right: up to `text_tokens` at least, or with `none` up to the longest. Keeps dtype and
    device. Raises InputError for no prompt or an empty one.
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
    """LayerNorm, two linear layers to the prompt tokens, one more to the pooled vector."""

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
        # In place of T5's tokens: (B, T, H) -> (B, T, E).
        prompt_embeds_BTE = self.projector(self.layernorm(fused_BTH))
        # In place of CLIP's pooled vector: each token is projected to P, then averaged. (B, T, E) -> (B, P)
        pooled_BP = (self.fc(prompt_embeds_BTE) * pooled_over_BT.unsqueeze(-1)).sum(1)
        return Conditioning(prompt_embeds_BTE, pooled_BP / pooled_over_BT.sum(1, keepdim=True))


def _t5_stack(dims: AlignNetDims, *, num_layers: int) -> nn.Module:
    """T5's encoder layers alone: gated GELU, feed-forward of 4 H, relative positions; fed with states, not ids."""
    define_missing_schemas()  # or a CPU build of torch beside torchvision can't import what follows
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Stack

    stack = T5Stack(
        T5Config(
            vocab_size=1,  # the embedding is dropped below: released checkpoints hold none
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
            dropout_rate=0.0,  # T5's default would make every step, validation too, depend on the random state
            use_cache=False,
        )
    )
    stack.embed_tokens = None
    return cast(nn.Module, stack)
