from __future__ import annotations

import gc
import weakref
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from x2i_platform.errors import ConfigError
from x2i_platform.models.taps import Tap, attention_taps, flux_tap_names, select_taps, tap_names
from x2i_platform.models.teacher import Teacher

Embeds = tuple[Tensor, Tensor]


def run(teacher: Teacher, conditioning: Embeds) -> Tensor:
    prompt_embeds_BTE, pooled_BP = conditioning
    return teacher.forward(
        prompt_embeds_BTE, pooled_BP=pooled_BP, latents_BNC=teacher.noise([1, 2]), sigma_B=torch.ones(2)
    )


def num_hooks(teacher: Teacher) -> int:
    modules = list(teacher.dit.modules())
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


def loss_of(taps: dict[str, Tensor]) -> Tensor:
    return torch.stack([(tap * torch.linspace(-1, 1, tap.shape[-1])).square().mean() for tap in taps.values()]).sum()


def gradients(teacher: Teacher, conditioning: Embeds, *, inside: bool = False) -> list[Tensor]:
    for tensor in conditioning:
        tensor.grad = None
    with attention_taps(teacher.dit, teacher.tap_names) as taps:
        run(teacher, conditioning)
        kept = dict(taps)
        loss = loss_of(taps)
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert list(taps) == list(teacher.tap_names)
    assert all(taps[name] is kept[name] for name in kept), "the backward replaced a tap"
    return [tensor.grad.clone() for tensor in conditioning if tensor.grad is not None]


def test_a_flux_dit_has_76_taps_double_blocks_first() -> None:
    names = flux_tap_names(num_double=19, num_single=38)
    assert len(names) == len(set(names)) == 76
    assert names[:3] == ("double.0.image", "double.0.text", "double.1.image")
    assert names[37:39] == ("double.18.text", "single.0")
    assert names[-1] == "single.37"


def test_choices_keep_the_order_of_the_dit(teacher: Teacher) -> None:
    names = tap_names(teacher.dit)
    assert select_taps(names, "all") == names
    assert select_taps(names, "double") + select_taps(names, "single") == names
    assert select_taps(names, ("single.0", "double.1.text", "single.0")) == ("double.1.text", "single.0")


def test_an_unknown_or_empty_choice_is_refused(teacher: Teacher) -> None:
    with pytest.raises(ConfigError, match=r"'double\.0\.img'.*did you mean 'double\.0\.image'"):
        select_taps(teacher.tap_names, ("double.0.img",))
    with pytest.raises(ConfigError, match="choose none"):
        select_taps(teacher.tap_names, ())
    with pytest.raises(ConfigError, match="unknown tap"), attention_taps(teacher.dit, ["single.99"]):
        pass


def test_values_are_those_at_the_output_projections(teacher: Teacher, conditioning: Embeds) -> None:
    """Against captures at other places: the output projections, and the input of the single blocks' last layer."""
    expected: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for index, block in enumerate(teacher.dit.transformer_blocks):
            for stream, layer in (("image", block.attn.to_out[0]), ("text", block.attn.to_add_out)):
                name = f"double.{index}.{stream}"
                hook = layer.register_forward_hook(lambda _m, _a, out, name=name: expected.update({name: out}))
                hooks.callback(hook.remove)
        for index, block in enumerate(teacher.dit.single_transformer_blocks):
            name = f"single.{index}"
            hook = block.proj_out.register_forward_pre_hook(
                lambda _m, args, name=name: expected.update({name: args[0][..., : teacher.inner_dim]})
            )
            hooks.callback(hook.remove)
        with attention_taps(teacher.dit, teacher.tap_names) as taps:
            run(teacher, conditioning)
    assert list(taps) == list(expected) == list(teacher.tap_names)
    for name, tap in taps.items():
        torch.testing.assert_close(tap, expected[name], rtol=0, atol=0)
    assert taps["double.1.image"].shape == (2, teacher.num_image_tokens, teacher.inner_dim)
    assert taps["double.1.text"].shape == (2, 32, teacher.inner_dim)
    assert taps["single.2"].shape == (2, 32 + teacher.num_image_tokens, teacher.inner_dim)


def test_the_attention_is_taken_before_its_gate(teacher: Teacher, conditioning: Embeds) -> None:
    """A double block adds gate * attention; so what its second norm reads is known from the tap."""
    block = teacher.dit.transformer_blocks[0]
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        before = block.norm1.register_forward_hook(lambda _m, args, out: seen.update(input=args[0], gate=out[1]))
        after = block.norm2.register_forward_pre_hook(lambda _m, args: seen.update(sum=args[0]))
        hooks.callback(before.remove)
        hooks.callback(after.remove)
        with attention_taps(teacher.dit, ["double.0.image"]) as taps:
            run(teacher, conditioning)
    torch.testing.assert_close(seen["input"] + seen["gate"].unsqueeze(1) * taps["double.0.image"], seen["sum"])


def test_single_blocks_take_text_first(teacher: Teacher, conditioning: Embeds) -> None:
    """The joint stream is what the last double block puts out: text, then image."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        double = teacher.dit.transformer_blocks[-1].register_forward_hook(
            lambda _m, _a, out: seen.update(text=out[0], image=out[1])
        )
        single = teacher.dit.single_transformer_blocks[0].norm.register_forward_pre_hook(
            lambda _m, args: seen.update(joint=args[0])
        )
        hooks.callback(double.remove)
        hooks.callback(single.remove)
        run(teacher, conditioning)
    assert seen["text"].shape[1] == 32
    assert torch.equal(seen["joint"], torch.cat([seen["text"], seen["image"]], dim=1))


@pytest.mark.parametrize("inside", [False, True], ids=["backward-after", "backward-inside"])
def test_gradients_are_equal_under_gradient_checkpointing(teacher: Teacher, conditioning: Embeds, inside: bool) -> None:
    plain = gradients(teacher, conditioning, inside=inside)
    teacher.enable_gradient_checkpointing()
    for _step in range(2):  # a recomputation must not leak into the next step
        recomputed = gradients(teacher, conditioning, inside=inside)
        for ours, theirs in zip(recomputed, plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert all(gradient.abs().max() > 0 for gradient in plain)


def test_gradients_equal_those_of_numerical_differences(teacher: Teacher, conditioning: Embeds) -> None:
    teacher.enable_gradient_checkpointing()
    _, pooled_gradient = gradients(teacher, conditioning)
    prompt_embeds_BTE, pooled_BP = (tensor.detach() for tensor in conditioning)
    direction = torch.sign(pooled_gradient)
    losses = []
    for step in (1e-2, -1e-2):
        with torch.no_grad(), attention_taps(teacher.dit, teacher.tap_names) as taps:
            run(teacher, (prompt_embeds_BTE, pooled_BP + step * direction))
        losses.append(loss_of(taps))
    numerical = (losses[0] - losses[1]) / 2e-2
    torch.testing.assert_close(numerical, (pooled_gradient * direction).sum(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_is_left_behind(teacher: Teacher, conditioning: Embeds, checkpointing: bool) -> None:
    if checkpointing:
        teacher.enable_gradient_checkpointing()
    with attention_taps(teacher.dit, teacher.tap_names) as taps:
        run(teacher, conditioning)
    loss = loss_of(taps)
    loss.backward()
    alive = [weakref.ref(tap) for tap in taps.values()]
    del taps, loss
    gc.collect()
    assert not [ref for ref in alive if ref() is not None]
    assert num_hooks(teacher) == 0


def test_hooks_go_when_the_forward_fails(teacher: Teacher, conditioning: Embeds) -> None:
    prompt_embeds_BTE, pooled_BP = conditioning
    with pytest.raises(RuntimeError, match="shapes"), attention_taps(teacher.dit, teacher.tap_names) as taps:
        run(teacher, (prompt_embeds_BTE[..., :-1], pooled_BP))
    assert taps == {}
    assert num_hooks(teacher) == 0


def test_a_second_forward_in_one_context_is_refused(teacher: Teacher, conditioning: Embeds) -> None:
    with attention_taps(teacher.dit, ["single.0"]) as taps:
        run(teacher, conditioning)
        first = taps["single.0"]
        with pytest.raises(RuntimeError, match="open a new context"):
            run(teacher, conditioning)
        assert taps == {"single.0": first}


def test_a_tap_knows_what_lies_on_its_axis() -> None:
    image, text, joint = (Tap.named(name) for name in ("double.0.image", "double.11.text", "single.3"))
    assert [tap.streams for tap in (image, text, joint)] == [("image",), ("text",), ("text", "image")]
    assert [tap.num_tokens(text=5, image=7) for tap in (image, text, joint)] == [7, 5, 12]
    kept = {"text_idx": torch.tensor([1, 3]), "image_idx": torch.tensor([0, 2, 6])}
    positions = [tap.positions(**kept, num_text=5).tolist() for tap in (image, text, joint)]
    assert positions == [[0, 2, 6], [1, 3], [1, 3, 5, 7, 11]]
    output = torch.arange(24.0).view(1, 12, 2)
    assert [list(tap.split(output, num_text=5)) for tap in (image, text)] == [["image"], ["text"]]
    split = joint.split(output, num_text=5)
    assert torch.equal(torch.cat([split["text"], split["image"]], dim=1), output)
