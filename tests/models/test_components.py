"""A head is put on a model that is loaded already, whether it has weights of its own or shares the embeddings'."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from x2i_platform.errors import WeightsError
from x2i_platform.models.components import load_frozen, load_head


@pytest.fixture(params=["tied", "untied", "in several files"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=40,
        tie_word_embeddings=request.param == "tied",
    )
    size = "8KB" if request.param == "in several files" else "5GB"
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path, max_shard_size=size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (request.param == "in several files")
    return tmp_path


def test_the_head_is_read_and_the_model_below_stays_the_same(folder: Path) -> None:
    below = load_frozen(transformers.AutoModel, folder, dtype="float32", device="cpu")
    weights = {name: weight.data_ptr() for name, weight in below.named_parameters()}
    whole = load_head(transformers.LlamaForCausalLM, folder, below=below)
    assert whole.base_model is below
    assert {name: weight.data_ptr() for name, weight in below.named_parameters()} == weights
    assert not any(weight.requires_grad or weight.is_meta for weight in whole.parameters())
    ids = torch.tensor([[1, 5, 7]])
    expected = transformers.LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(whole(ids).logits, expected(ids).logits)


def test_a_missing_head_is_refused(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=40
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    below = load_frozen(transformers.AutoModel, tmp_path, dtype="float32", device="cpu")
    with pytest.raises(WeightsError, match=r"lm_head\.weight"):
        load_head(transformers.LlamaForCausalLM, tmp_path, below=below)
