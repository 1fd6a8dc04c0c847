"""Against diffusers' own packing of FLUX.1's latents."""

from __future__ import annotations

import diffusers
import torch

from x2i_platform.models.dits.packing import pack, unpack


def test_tokens_are_those_of_the_flux_pipeline() -> None:
    latents_BcHW = torch.randn(2, 16, 8, 8)
    tokens_BNC = pack(latents_BcHW)
    assert torch.equal(tokens_BNC, diffusers.FluxPipeline._pack_latents(latents_BcHW, 2, 16, 8, 8))
    assert torch.equal(unpack(tokens_BNC), diffusers.FluxPipeline._unpack_latents(tokens_BNC, 64, 64, 8))


def test_unpacking_undoes_packing_and_tokens_run_row_by_row() -> None:
    latents_BcHW = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    tokens_BNC = pack(latents_BcHW)
    assert tokens_BNC.shape == (2, 4, 12)
    assert tokens_BNC[0, 1, :4].tolist() == [2, 3, 6, 7]
    assert torch.equal(unpack(tokens_BNC), latents_BcHW)
