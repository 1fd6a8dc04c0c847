"""Makes transformers' Auto classes know MiniCPM-o 2.6 by the `model_type` of its config.json."""

from __future__ import annotations

from functools import cache

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
    AutoTokenizer,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)

from x2i_platform.models.minicpm_o.configuration import MiniCPMOConfig
from x2i_platform.models.minicpm_o.image_processing import MiniCPMVImageProcessor
from x2i_platform.models.minicpm_o.modeling import MiniCPMOForConditionalGeneration, MiniCPMOModel
from x2i_platform.models.minicpm_o.processing import MiniCPMOProcessor


@cache
def register() -> None:
    """Register the classes. A folder with code of its own is read by them too, and its code isn't run."""
    AutoConfig.register(MiniCPMOConfig.model_type, MiniCPMOConfig)
    AutoModel.register(MiniCPMOConfig, MiniCPMOModel)
    AutoModelForCausalLM.register(MiniCPMOConfig, MiniCPMOForConditionalGeneration)
    AutoModelForMultimodalLM.register(MiniCPMOConfig, MiniCPMOForConditionalGeneration)
    AutoTokenizer.register(MiniCPMOConfig, tokenizer_class=Qwen2Tokenizer)
    # One class whatever backend is asked for: torchvision's resizing gives other pixels than the released PIL's.
    backends = dict.fromkeys(("pil", "torchvision"), MiniCPMVImageProcessor)
    AutoImageProcessor.register(MiniCPMOConfig, image_processor_classes=backends)
    AutoFeatureExtractor.register(MiniCPMOConfig, WhisperFeatureExtractor)
    AutoProcessor.register(MiniCPMOConfig, MiniCPMOProcessor)
