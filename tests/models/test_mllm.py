from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.random_models import THREE_CAPTIONS
from x2i_platform.config import MLLMConfig
from x2i_platform.errors import WeightsError, X2IError
from x2i_platform.models.mllm import MLLM
from x2i_platform.models.prompt_reader import PromptTooLong, caption_tokens
from x2i_platform.models.prompts import Prompt

STRANGE = [
    "braces {caption} {0} {{x}} {",
    """both 'single' and "double" quotes""",
    "two\nlines\tand a tab\\",
    "an emoji 🟢, Grüße, 你好, مرحبا",
    "",
]


def reference_prompt(caption: str) -> str:
    return str({"Text input": caption, "Instruction editing description": "no", "image input": "no"})


def test_sizes_are_the_miniatures(mllm: MLLM) -> None:
    assert (mllm.num_layers_plus_one, mllm.hidden_size) == (5, 64)
    (states_CSH,) = mllm.encode(THREE_CAPTIONS[:1])
    assert states_CSH.shape == (5, len(mllm.tokenize(THREE_CAPTIONS[:1])[0]), 64)
    assert not states_CSH.requires_grad
    assert mllm.encode([]) == []


def test_states_are_those_of_generates_prefill(mllm: MLLM, qwen_folder: Path) -> None:
    whole = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen_folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(qwen_folder)
    chat = [{"role": "user", "content": [{"type": "text", "text": reference_prompt(THREE_CAPTIONS[0])}]}]
    inputs = words.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answer = whole.generate(
        **inputs, max_new_tokens=2, do_sample=False, output_hidden_states=True, return_dict_in_generate=True
    )
    prefill_CSH = torch.cat(answer.hidden_states[0])
    (states_CSH,) = mllm.encode(THREE_CAPTIONS[:1])
    assert torch.equal(states_CSH, prefill_CSH)


def test_a_batch_gives_each_prompt_what_it_gets_alone(mllm: MLLM) -> None:
    prompts = [*THREE_CAPTIONS, *STRANGE]
    together = mllm.encode(prompts)
    assert len({states.shape[1] for states in together}) > 3, "prompts of one length test no padding"
    for prompt, states_CSH in zip(prompts, together, strict=True):
        (alone_CSH,) = mllm.encode([prompt])
        torch.testing.assert_close(states_CSH, alone_CSH, rtol=1e-4, atol=1e-4)


def test_padding_to_a_length_keeps_prompts_on_the_right_and_gives_what_is_left_of_them(mllm: MLLM) -> None:
    """The reference's way; a released AlignNet was trained with it."""
    for alone_CSH, padded_CSH in zip(mllm.encode(THREE_CAPTIONS), mllm.encode(THREE_CAPTIONS, pad_to=100), strict=True):
        length = alone_CSH.shape[1]
        assert padded_CSH.shape == (5, 100, 64)
        torch.testing.assert_close(padded_CSH[:, -length:], alone_CSH, rtol=1e-4, atol=1e-4)
        filler_H = mllm.model.get_input_embeddings().weight[mllm.tokenizer.pad_token_id]
        assert torch.equal(padded_CSH[0, 0], filler_H)
    with pytest.raises(PromptTooLong, match="at most 20 fit"):
        mllm.encode(THREE_CAPTIONS, pad_to=20)


def test_layers_run_from_the_embedding_to_the_final_norm(mllm: MLLM) -> None:
    ids = mllm.tokenize(THREE_CAPTIONS[:1])[0]
    (states_CSH,) = mllm.encode(THREE_CAPTIONS[:1])
    with torch.no_grad():
        embedded_SH = mllm.model.get_input_embeddings()(ids)
        last_SH = mllm.model(input_ids=ids[None]).last_hidden_state[0]
    assert torch.equal(states_CSH[0], embedded_SH)
    assert torch.equal(states_CSH[-1], last_SH)


def test_the_lm_head_is_not_there_and_token_types_are_passed(mllm: MLLM) -> None:
    assert not any("lm_head" in name for name, _ in mllm.model.named_modules())
    seen: dict[str, Any] = {}
    hook = mllm.model.register_forward_pre_hook(lambda _m, _a, kwargs: seen.update(kwargs), with_kwargs=True)
    mllm.encode(THREE_CAPTIONS)
    hook.remove()
    lengths = [len(ids) for ids in mllm.tokenize(THREE_CAPTIONS)]
    assert seen["attention_mask"].sum(1).tolist() == lengths
    assert seen["attention_mask"][0, : lengths[0]].all(), "padding isn't on the right"
    assert seen["mm_token_type_ids"].tolist() == torch.zeros(3, max(lengths)).tolist()


@pytest.mark.parametrize("caption", STRANGE)
def test_any_caption_survives_the_template(mllm: MLLM, caption: str) -> None:
    text = mllm.tokenizer.decode(mllm.tokenize([caption])[0])
    assert reference_prompt(caption) in text
    assert text.endswith("<|im_start|>assistant\n")


def test_a_prompt_is_taken_as_it_stands(mllm: MLLM, mllm_config: MLLMConfig) -> None:
    plain = MLLM(
        mllm.model,
        tokenizer=mllm.tokenizer,
        family=mllm._family,
        config=MLLMConfig(model=mllm_config.model, template="{caption}"),
    )
    prompt = Prompt.of(reference_prompt(THREE_CAPTIONS[0]))
    assert mllm.tokenize([prompt])[0].tolist() == mllm.tokenize([THREE_CAPTIONS[0]])[0].tolist()
    assert plain.tokenize(["a {caption}"])[0].tolist() == plain.tokenize([Prompt.of("a {caption}")])[0].tolist()


def test_a_prompt_too_long_names_its_length_and_place(mllm: MLLM) -> None:
    with pytest.raises(PromptTooLong, match=r"prompt of \d{3} tokens, at most 128") as caught:
        mllm.encode([THREE_CAPTIONS[0], "a red circle " * 60])
    assert isinstance(caught.value, X2IError)
    assert caught.value.index == 1
    assert len(str(caught.value)) < 160


@pytest.fixture(scope="module")
def llama_folder(qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text-only causal LM with a chat template of its own."""
    folder = tmp_path_factory.mktemp("llama")
    words = transformers.AutoTokenizer.from_pretrained(qwen_folder)
    words.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    words.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        tie_word_embeddings=False,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_text_only_causal_lm_works(llama_folder: Path) -> None:
    llama = MLLM.load(MLLMConfig(model=str(llama_folder), dtype="float32"))
    whole = transformers.LlamaForCausalLM.from_pretrained(llama_folder).eval()
    states = llama.encode(THREE_CAPTIONS)
    assert (llama.num_layers_plus_one, llama.hidden_size) == (4, 32)
    assert not any("lm_head" in name for name, _ in llama.model.named_modules())
    for ids, states_CSH in zip(llama.tokenize(THREE_CAPTIONS), states, strict=True):
        with torch.no_grad():
            expected_CSH = torch.cat(whole(input_ids=ids[None], output_hidden_states=True).hidden_states)
        torch.testing.assert_close(states_CSH, expected_CSH, rtol=1e-4, atol=1e-5)


def test_a_text_only_causal_lm_answers(llama_folder: Path) -> None:
    llama = MLLM.load(MLLMConfig(model=str(llama_folder), dtype="float32", answer_tokens=5))
    whole = transformers.LlamaForCausalLM.from_pretrained(llama_folder).eval()
    ids = llama.tokenize(THREE_CAPTIONS[:1])[0][None]
    said = whole.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)[
        0, ids.shape[1] :
    ]
    (answer,) = llama.answers(THREE_CAPTIONS[:1])
    assert answer.text == llama.tokenizer.decode(said, skip_special_tokens=True).strip()


def test_loads_in_the_recipes_dtype(mllm_config: MLLMConfig) -> None:
    half = MLLM.load(mllm_config.model_copy(update={"dtype": "bfloat16"}))
    assert half.encode(THREE_CAPTIONS[:1])[0].dtype == torch.bfloat16


def test_an_unknown_family_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama_folder, tmp_path / "other"))
    path = folder / "config.json"
    for family, hint in (("bart", "and text-only"), ("internvl_chat", r"and text-only.*InternVL3-1B-hf")):
        changed = {**json.loads(path.read_text()), "model_type": family, "is_encoder_decoder": True}
        path.write_text(json.dumps(changed))
        with pytest.raises(WeightsError, match=rf"family '{family}'; supported are qwen2_5_vl, qwen3_vl.*{hint}"):
            MLLM.load(MLLMConfig(model=str(folder)))


def test_a_tokenizer_without_chat_template_is_refused(llama_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(llama_folder, tmp_path / "base"))
    (folder / "chat_template.jinja").unlink()
    config = MLLMConfig(model=str(folder), dtype="float32", template="{caption}")
    with pytest.raises(WeightsError, match=r"no chat template; a chat_template\.jinja .*{{ messages\[0\]"):
        MLLM.load(config)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    plain = MLLM.load(config)
    assert plain.tokenizer.decode(plain.tokenize(["a red circle"])[0]) == "a red circle"


def test_the_tokenizer_alone_counts_what_the_model_would_read(mllm: MLLM, mllm_config: MLLMConfig) -> None:
    count = caption_tokens(mllm_config)
    for caption in (*THREE_CAPTIONS, *STRANGE, "<|im_end|>"):
        tokens = len(mllm.tokenize([caption])[0])
        assert count(caption, 0) == tokens
        assert count(caption, 10_000) >= tokens
