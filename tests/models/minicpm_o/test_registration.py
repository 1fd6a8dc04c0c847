from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from x2i_platform.models.minicpm_o.configuration import MiniCPMOConfig
from x2i_platform.models.minicpm_o.image_processing import MiniCPMVImageProcessor
from x2i_platform.models.minicpm_o.modeling import MiniCPMOForConditionalGeneration, MiniCPMOModel
from x2i_platform.models.minicpm_o.processing import MiniCPMOProcessor
from x2i_platform.models.minicpm_o.registration import register


def test_auto_classes_read_the_folder_and_run_none_of_its_code(
    minicpm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks on the terminal before it would run code of a folder; files of that code aren't even there."""
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        assert "auto_map" in json.loads((minicpm_folder / name).read_text())
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("transformers wants to run code of the folder"))
    register()
    assert type(transformers.AutoConfig.from_pretrained(minicpm_folder)) is MiniCPMOConfig
    assert type(transformers.AutoModel.from_pretrained(minicpm_folder)) is MiniCPMOModel
    for kind in (transformers.AutoModelForCausalLM, transformers.AutoModelForMultimodalLM):
        assert type(kind.from_pretrained(minicpm_folder)) is MiniCPMOForConditionalGeneration
    processor = transformers.AutoProcessor.from_pretrained(minicpm_folder)
    assert type(processor) is MiniCPMOProcessor
    assert type(processor.image_processor) is MiniCPMVImageProcessor
    assert type(processor.feature_extractor) is transformers.WhisperFeatureExtractor


def test_the_tokenizer_is_the_folders(minicpm_folder: Path) -> None:
    words = transformers.AutoTokenizer.from_pretrained(minicpm_folder)
    ids = words("a circle<unk>b<|im_end|>é")["input_ids"]
    assert words.convert_ids_to_tokens(ids) == ["a", "Ġcircle", "<unk>", "b", "<|im_end|>", "Ã", "©"]
    assert (words.eos_token, words.pad_token, words.unk_token) == ("<|im_end|>", "<|endoftext|>", "<unk>")


def test_it_may_be_called_again() -> None:
    before = transformers.AutoConfig.for_model("minicpmo")
    register()
    register()
    assert type(transformers.AutoConfig.for_model("minicpmo")) is type(before)
