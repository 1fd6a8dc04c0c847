"""Floating-point operations of every network of a run, computed from sizes alone. Imports no torch.

A multiply-add counts as 2. Only matrix products count: norms, softmaxes and activations are under 1 % at these widths.
Attention counts every pair of tokens, as the kernels in use compute it. The DiT's weights are frozen, so its backward
pass only computes gradients of activations: as many operations as the forward pass for a linear layer, twice as many
for attention. With gradient checkpointing a backward pass costs one more forward pass.
"""

from __future__ import annotations

from x2i_platform.config import AlignNetConfig
from x2i_platform.models.dims import DiTDims, MLLMDims, T5Dims, t5_attention

CONV_KERNEL = 5
"""Kernel side of AlignNet's fusion convolution."""
TIME_CHANNELS = 256
"""Width of the sinusoidal embedding of time and guidance, in FLUX and SD3."""


def dit_forward(dims: DiTDims, *, image_tokens: int, text_tokens: int) -> int:
    """Return the FLOPs of one DiT forward on one sample: 74.4 TFLOP for FLUX.1 on 4096 + 512 tokens."""
    embedders = image_tokens * _linear(dims.in_channels, dims.inner_dim)
    embedders += (1 + dims.guidance_embeds) * _mlp(TIME_CHANNELS, dims.inner_dim)
    linear = _dit_linear(dims, image_tokens=image_tokens, text_tokens=text_tokens)
    return embedders + linear + _dit_attention(dims, image_tokens=image_tokens, text_tokens=text_tokens)


def dit_backward_to_activations(dims: DiTDims, *, image_tokens: int, text_tokens: int) -> int:
    """Return the FLOPs of one DiT backward from the velocity to the conditioning, for one sample.

    It is 89.2 TFLOP for FLUX.1 on 4096 + 512 tokens. A loss on the taps skips the layers after the last tap, under 1 %.
    """
    linear = _dit_linear(dims, image_tokens=image_tokens, text_tokens=text_tokens)
    return linear + 2 * _dit_attention(dims, image_tokens=image_tokens, text_tokens=text_tokens)


def t5_forward(dims: T5Dims, *, tokens: int) -> int:
    """Return the FLOPs of the T5 encoder on one caption. CLIP's 0.01 TFLOP is left out."""
    projections = 4 * _linear(dims.d_model, dims.attention_dim)
    gated_mlp = 3 * _linear(dims.d_model, dims.d_ff)
    return dims.num_layers * (tokens * (projections + gated_mlp) + _attention(tokens, width=dims.attention_dim))


def mllm_prefill(dims: MLLMDims, *, tokens: int) -> int:
    """Return the FLOPs of the MLLM's language model on one prompt of `tokens` tokens, without its LM head."""
    width = dims.num_heads * dims.head_dim
    projections = 2 * _linear(dims.hidden_size, width)
    projections += 2 * _linear(dims.hidden_size, dims.num_kv_heads * dims.head_dim)
    gated_mlp = 3 * _linear(dims.hidden_size, dims.intermediate_size)
    return dims.num_layers * (tokens * (projections + gated_mlp) + _attention(tokens, width=width))


def mllm_answer(dims: MLLMDims, *, prompt_tokens: int, answer_tokens: int) -> int:
    """Return the FLOPs of the MLLM's answer to one prompt, without its LM head.

    The model runs twice: once token by token, and once over prompt and answer for the hidden states.
    """
    return 2 * mllm_prefill(dims, tokens=prompt_tokens + answer_tokens)


def alignnet(config: AlignNetConfig, *, mllm: MLLMDims, dit: DiTDims, tokens: int) -> int:
    """Return the FLOPs of AlignNet's forward on one sample of `tokens` tokens, padding included.

    Its backward costs twice that, less the gradient of the first layer's input.
    """
    states, hidden = mllm.num_states, mllm.hidden_size
    fusion = tokens * hidden * _linear(states * CONV_KERNEL**2, 1) if config.fusion == "conv" else 0
    projector = tokens * (_linear(hidden, dit.joint_dim) + _linear(dit.joint_dim, dit.joint_dim))
    pooled = tokens * _linear(dit.joint_dim, dit.pooled_dim)
    heads, head_dim = t5_attention(config, hidden_size=hidden)
    stack = T5Dims(config.t5_layers, d_model=hidden, d_ff=4 * hidden, attention_dim=heads * head_dim)
    return states * t5_forward(stack, tokens=tokens) + fusion + projector + pooled


def _dit_linear(dims: DiTDims, *, image_tokens: int, text_tokens: int) -> int:
    """Return the FLOPs of every linear layer between the conditioning and the velocity."""
    width, tokens = dims.inner_dim, image_tokens + text_tokens
    # A block is 4 w² of attention and 8 w² of MLP a token; a single block spends the same in two fused layers.
    blocks = (dims.num_double + dims.num_single) * tokens * 12 * _linear(width, width)
    modulations = (12 * dims.num_double + 3 * dims.num_single + 2) * _linear(width, width)
    # A second attention: 4 w² an image token, and 3 modulations.
    blocks += len(dims.dual_blocks) * image_tokens * 4 * _linear(width, width)
    modulations += len(dims.dual_blocks) * 3 * _linear(width, width)
    # Text that ends in the last attention has queries, keys and values there, and 2 modulations instead of 6.
    blocks -= dims.text_ends * text_tokens * 9 * _linear(width, width)
    modulations -= dims.text_ends * 4 * _linear(width, width)
    ends = text_tokens * _linear(dims.joint_dim, width) + image_tokens * _linear(width, dims.in_channels)
    return blocks + modulations + ends + _mlp(dims.pooled_dim, width)


def _dit_attention(dims: DiTDims, *, image_tokens: int, text_tokens: int) -> int:
    joint = (dims.num_double + dims.num_single) * _attention(image_tokens + text_tokens, width=dims.inner_dim)
    return joint + len(dims.dual_blocks) * _attention(image_tokens, width=dims.inner_dim)


def _linear(inputs: int, outputs: int) -> int:
    return 2 * inputs * outputs


def _mlp(inputs: int, width: int) -> int:
    return _linear(inputs, width) + _linear(width, width)


def _attention(tokens: int, *, width: int) -> int:
    """Return the FLOPs of the scores and of their product with the values."""
    return 2 * _linear(tokens, tokens) * width
