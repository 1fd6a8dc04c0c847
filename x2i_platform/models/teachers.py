"""The pipelines that can be planned with as teachers, without their weights. Another one needs only its folder.

Parameters were counted by building each architecture from its published config on torch's meta device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from x2i_platform.models.dims import DiTDims, SD3Dims, T5Dims
from x2i_platform.models.dits.sd3 import SD3
from x2i_platform.models.entries import TeacherEntry

_DEV = TeacherEntry(
    model="black-forest-labs/FLUX.1-dev",
    dit=DiTDims(),
    t5=T5Dims(),
    dit_parameters=11_901_408_320,
    t5_parameters=4_762_310_656,
    clip_parameters=123_060_480,
    vae_parameters=83_819_683,
    licence="FLUX.1 [dev] Non-Commercial License",
)
_SCHNELL = replace(
    _DEV,
    model="black-forest-labs/FLUX.1-schnell",
    dit=DiTDims(guidance_embeds=False),
    dit_parameters=11_891_178_560,
    licence="apache-2.0",
)
_SD35_LARGE = replace(
    _DEV,
    model="stabilityai/stable-diffusion-3.5-large",
    transformer=SD3.transformer,
    dit=SD3Dims(),
    dit_parameters=8_056_627_520,
    clip_parameters=818_310_144,
    licence="Stability AI Community License",
)

TEACHERS: Mapping[str, TeacherEntry] = {
    entry.model: entry
    for entry in (
        _DEV,
        _SCHNELL,
        # A fine-tune of schnell, with which the reference draws too.
        replace(_SCHNELL, model="shuttleai/shuttle-3-diffusion"),
        _SD35_LARGE,
        # Distilled to 4 steps, without guidance.
        replace(_SD35_LARGE, model="stabilityai/stable-diffusion-3.5-large-turbo"),
        replace(
            _SD35_LARGE,
            model="stabilityai/stable-diffusion-3.5-medium",
            dit=SD3Dims(num_double=24, inner_dim=1536, dual_blocks=tuple(range(13))),
            dit_parameters=2_243_171_520,
        ),
        TeacherEntry(
            model="mini:flux",
            dit=DiTDims(2, 4, inner_dim=128, joint_dim=128, pooled_dim=64, guidance_embeds=False),
            t5=T5Dims(num_layers=3, d_model=128, d_ff=256, attention_dim=128),
            dit_parameters=2_316_864,
            t5_parameters=525_824,
            clip_parameters=197_760,
            vae_parameters=721_331,
            licence="apache-2.0",
        ),
        TeacherEntry(
            model="mini:random-flux",
            dit=DiTDims(num_double=2, num_single=3, inner_dim=96, joint_dim=64, pooled_dim=32),
            t5=T5Dims(num_layers=2, d_model=64, d_ff=128, attention_dim=64),
            dit_parameters=1_205_296,
            t5_parameters=101_824,
            clip_parameters=41_824,
            vae_parameters=271_379,
            licence="apache-2.0",
        ),
        TeacherEntry(
            model="mini:random-sd3",
            transformer=SD3.transformer,
            dit=SD3Dims(num_double=3, inner_dim=96, joint_dim=64, pooled_dim=48, dual_blocks=(0,)),
            t5=T5Dims(num_layers=2, d_model=64, d_ff=128, attention_dim=64),
            dit_parameters=1_034_032,
            t5_parameters=101_824,
            clip_parameters=59_920,
            vae_parameters=271_379,
            licence="apache-2.0",
        ),
    )
}
