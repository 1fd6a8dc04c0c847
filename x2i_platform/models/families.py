"""Families of MLLMs: how their inputs and their classes in transformers differ. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MediaKind = Literal["image", "video", "audio"]


@dataclass(frozen=True)
class Family:
    """How the inputs of one family of MLLMs differ."""

    whole: str
    """Name of the transformers class that includes the LM head, or of the Auto class that finds it."""
    body: str = "AutoModel"
    """Name of the class below the LM head. AutoModel finds it, unless the published config nests it."""
    takes: tuple[MediaKind, ...] = ()
    """What prompts may hold besides text."""
    token_types: bool = False
    """Whether the forward takes `mm_token_type_ids`. Without them Qwen2.5-VL and Qwen3-VL silently give vision tokens
    wrong positions."""
    joined_on: int = 0
    """Axis on which the pixels of several prompts are concatenated."""
    unused: tuple[str, ...] = ()
    """Prefixes of published weights that no hidden state depends on."""


_SIGHT: tuple[MediaKind, ...] = ("image", "video")
_OMNI = Family(
    whole="Qwen2_5OmniThinkerForConditionalGeneration",
    body="Qwen2_5OmniThinkerModel",
    takes=("image", "video", "audio"),
    unused=("talker.", "token2wav."),  # they speak the answer
)
FAMILIES: Mapping[str, Family] = {
    "qwen2_5_vl": Family(whole="Qwen2_5_VLForConditionalGeneration", takes=_SIGHT, token_types=True),
    "qwen3_vl": Family(whole="Qwen3VLForConditionalGeneration", takes=_SIGHT, token_types=True),
    "qwen2_5_omni": _OMNI,
    "qwen2_5_omni_thinker": _OMNI,
    "internvl": Family(whole="InternVLForConditionalGeneration", takes=_SIGHT),
    # It packs the patches of all images side by side.
    "minicpmv4_6": Family(whole="MiniCPMV4_6ForConditionalGeneration", takes=_SIGHT, joined_on=-1),
    # Its classes are in `models.minicpm_o`; `tts.` speaks the answer.
    "minicpmo": Family(
        whole="AutoModelForMultimodalLM", takes=("image", "video", "audio"), token_types=True, unused=("tts.",)
    ),
}
"""Families that take more than text, by the `model_type` of their config.json."""
OTHER_LAYOUTS: Mapping[str, str] = {
    "internvl_chat": "; this is InternVL's own layout: take the one made for transformers, such as "
    "OpenGVLab/InternVL3-1B-hf"
}
"""Why a family's published folder isn't taken, and which is."""
TEXT_ONLY = Family(whole="AutoModelForCausalLM")
"""Any causal language model of transformers."""
