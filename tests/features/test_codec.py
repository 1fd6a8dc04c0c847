"""Tensors survive the trip through bytes: raw ones bit for bit, int8 ones within half a step."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from x2i_platform.config import TargetsConfig
from x2i_platform.costs import TARGET_BYTES
from x2i_platform.errors import StoreError
from x2i_platform.features.codec import CODECS, TARGET_ENCODERS, Blob, decode, encode_int8, encode_raw

ALL_HALVES = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_pattern_survives_also_nan_payloads(dtype: torch.dtype) -> None:
    tensor = ALL_HALVES.view(dtype).reshape(4, 128, 128)
    decoded = decode(encode_raw(tensor))
    assert (decoded.dtype, decoded.shape) == (dtype, tensor.shape)
    assert bits(decoded) == bits(tensor)


def test_float32_and_int8_survive_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(-(2**31), 2**31, (50, 40), generator=generator).to(torch.int32)
    for tensor in (words.view(torch.float32), ALL_HALVES.to(torch.int8)):
        assert bits(decode(encode_raw(tensor))) == bits(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (1, 1, 1), (3, 1)])
def test_odd_shapes_survive(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.full(shape, 3, dtype=dtype)
    decoded = decode(encode_raw(tensor))
    assert torch.equal(decoded, tensor)
    assert decoded.shape == shape


def test_a_view_is_stored_as_it_reads_and_what_comes_back_may_be_written_to() -> None:
    tensor = torch.arange(24.0).reshape(4, 6).T[1:4, ::2]
    decoded = decode(encode_raw(tensor))
    assert torch.equal(decoded, tensor)
    decoded[0, 0] = -1
    assert decoded[0, 0] == -1


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(StoreError, match=r"holds float32, bfloat16, float16, int8, not torch\.float64"):
        encode_raw(torch.zeros(2, dtype=torch.float64))


def z_scores(tokens: int, channels: int, *, outliers: bool = False) -> torch.Tensor:
    values = torch.randn(tokens, channels, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if outliers:
        values[:, ::97] *= 40
    return ((values - values.mean(-1, keepdim=True)) / values.std(-1, keepdim=True)).float()


@pytest.mark.parametrize("outliers", [False, True])
def test_int8_keeps_every_channel_within_half_its_own_step(outliers: bool) -> None:
    z_TD = z_scores(96, 512, outliers=outliers)
    blob = encode_int8(z_TD)
    error_TD = (decode(blob) - z_TD).abs()
    step_D = z_TD.abs().amax(0) / 127
    # A float16 scale is off by up to 2^-11 of itself, 0.07 of a step at the largest value.
    assert (error_TD <= 0.5 * step_D * (1 + 2**-10)).all()
    assert len(blob.data) == z_TD.numel()
    assert len(blob.scale or b"") == 2 * 512


def test_int8_of_zero_tiny_and_lone_channels() -> None:
    values_TD = torch.tensor([[0.0, 1e-9, 5.0, -3.0], [0.0, -1e-9, 0.0, -3.0]])
    decoded = decode(encode_int8(values_TD))
    assert torch.isfinite(decoded).all()
    assert torch.equal(decoded[:, 0], torch.zeros(2))
    assert (decoded - values_TD).abs().max() < 5.0 / 127 * 0.1
    assert torch.equal(decode(encode_int8(torch.zeros(3, 2))), torch.zeros(3, 2))


@pytest.mark.parametrize(("outliers", "most"), [(False, 1e-4), (True, 1e-3)])
def test_int8_hardly_moves_the_loss(outliers: bool, most: float) -> None:
    """KL(quantised || exact) a token, at the temperature of the loss; random students are around 0.1 to 1 away."""
    z_TD = z_scores(128, 1024, outliers=outliers)

    def log_p(values_TD: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(values_TD.double() / 3, -1)

    exact_TD, quantised_TD = log_p(z_TD), log_p(decode(encode_int8(z_TD)))
    kl_T = (quantised_TD.exp() * (quantised_TD - exact_TD)).sum(-1)
    assert 0 <= kl_T.mean() < most


RAW = encode_raw(torch.randn(3, 4))
INT8 = encode_int8(torch.randn(3, 4))


@pytest.mark.parametrize(
    "blob",
    [
        replace(RAW, data=RAW.data[:-1]),
        replace(RAW, data=RAW.data + b"\0"),
        replace(RAW, data=b""),
        replace(RAW, shape=(3, 5)),
        replace(RAW, shape=(-3, -4)),
        replace(RAW, dtype="bfloat16"),
        replace(RAW, dtype="float64"),
        replace(RAW, codec="zip"),
        replace(RAW, codec="int8_channel"),
        replace(INT8, scale=None),
        replace(INT8, scale=b""),
        replace(INT8, scale=(INT8.scale or b"")[:2]),
        replace(INT8, scale=(INT8.scale or b"") + b"\0\0"),
        replace(INT8, data=INT8.data[:-1]),
        replace(INT8, shape=(12,)),
        replace(INT8, shape=(3, 4, 1)),
    ],
)
def test_bytes_that_do_not_fit_are_refused(blob: Blob) -> None:
    with pytest.raises(StoreError):
        decode(blob)


def test_a_few_lines_of_numpy_decode_what_is_stored() -> None:
    states = torch.randn(3, 5, 8).bfloat16()
    blob = encode_raw(states)
    planes = np.frombuffer(blob.data, np.uint8).reshape(2, -1)
    values = (np.ascontiguousarray(planes.T).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(values.reshape(blob.shape), states.float().numpy())

    blob = encode_int8(z_scores(7, 16))
    quantised = np.frombuffer(blob.data, np.int8).reshape(blob.shape)
    scaled = quantised * np.frombuffer(blob.scale or b"", np.float16).astype(np.float32)
    assert np.array_equal(scaled, decode(blob).numpy())


def test_every_codec_of_a_recipe_has_an_encoder_a_price_and_a_way_back() -> None:
    names = set(get_args(TargetsConfig.model_fields["codec"].annotation))
    assert names == set(TARGET_ENCODERS) == set(TARGET_BYTES)
    assert {encode(torch.ones(2, 3)).codec for encode in TARGET_ENCODERS.values()} <= set(CODECS)
