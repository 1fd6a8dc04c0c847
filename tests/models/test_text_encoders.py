from __future__ import annotations

import shutil
from pathlib import Path

import diffusers
import pytest
import torch
import transformers

from tests.random_models import THREE_CAPTIONS
from x2i_platform.config import TeacherConfig
from x2i_platform.errors import WeightsError
from x2i_platform.models.text_encoders import TextEncoders


def test_encodes_exactly_as_the_whole_pipeline(text_encoders: TextEncoders, flux_folder: Path) -> None:
    pipeline = diffusers.FluxPipeline.from_pretrained(flux_folder)
    with torch.no_grad():
        prompt_embeds, pooled, _ = pipeline.encode_prompt(THREE_CAPTIONS, max_sequence_length=32)
    ours = text_encoders.encode(THREE_CAPTIONS)
    assert ours.prompt_embeds_BTE.shape == (3, 32, 64)
    assert ours.pooled_BP.shape == (3, 32)
    assert torch.equal(ours.prompt_embeds_BTE, prompt_embeds)
    assert torch.equal(ours.pooled_BP, pooled)
    assert not ours.prompt_embeds_BTE.requires_grad


def test_t5_sees_its_padding_unmasked_and_clip_77_tokens(text_encoders: TextEncoders, flux_folder: Path) -> None:
    t5 = transformers.T5EncoderModel.from_pretrained(flux_folder / "text_encoder_2").eval()
    clip = transformers.CLIPTextModel.from_pretrained(flux_folder / "text_encoder").eval()
    t5_words = transformers.AutoTokenizer.from_pretrained(flux_folder / "tokenizer_2")
    clip_words = transformers.AutoTokenizer.from_pretrained(flux_folder / "tokenizer")
    t5_ids = t5_words(THREE_CAPTIONS[:1], padding="max_length", max_length=32, return_tensors="pt").input_ids
    clip_ids = clip_words(THREE_CAPTIONS[:1], padding="max_length", max_length=77, return_tensors="pt").input_ids
    ours = text_encoders.encode(THREE_CAPTIONS[:1])
    with torch.no_grad():
        torch.testing.assert_close(ours.prompt_embeds_BTE, t5(input_ids=t5_ids).last_hidden_state)
        torch.testing.assert_close(ours.pooled_BP, clip(input_ids=clip_ids).pooler_output)


def test_a_caption_is_encoded_alike_alone_and_in_a_batch(text_encoders: TextEncoders) -> None:
    together = text_encoders.encode(THREE_CAPTIONS)
    for row, caption in enumerate(THREE_CAPTIONS):
        alone = text_encoders.encode([caption])
        torch.testing.assert_close(alone.prompt_embeds_BTE[0], together.prompt_embeds_BTE[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone.pooled_BP[0], together.pooled_BP[row], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("caption", ["", "a {red} 'circle'\n\"quoted\"", "ein grüner Kreis 🟢", "a red circle " * 200])
def test_every_caption_fits(text_encoders: TextEncoders, caption: str) -> None:
    ours = text_encoders.encode([caption])
    assert ours.prompt_embeds_BTE.shape == (1, 32, 64)
    assert ours.prompt_embeds_BTE.isfinite().all()
    assert ours.pooled_BP.isfinite().all()


def test_loads_in_the_recipes_dtype(teacher_config: TeacherConfig) -> None:
    half = TextEncoders.load(teacher_config.model_copy(update={"dtype": "bfloat16", "text_tokens": 16}))
    ours = half.encode(THREE_CAPTIONS[:2])
    assert ours.prompt_embeds_BTE.shape == (2, 16, 64)
    assert ours.prompt_embeds_BTE.dtype == ours.pooled_BP.dtype == torch.bfloat16


def test_a_damaged_tokenizer_is_refused(teacher_config: TeacherConfig, flux_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(flux_folder, tmp_path / "flux"))
    (folder / "tokenizer_2" / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match="tokenizer_2 can't be loaded: "):
        TextEncoders.load(teacher_config.model_copy(update={"model": str(folder)}))
