"""Captures the outputs of the DiT's attention modules, by name, while one forward runs.

Names follow the DiT from input to output: `double.0.image`, `double.0.text`, `double.1.image`, …, `single.0`, …: 76 at
FLUX.1 size. Double blocks give two streams after their output projection and before the gate; single blocks give one
joint stream, text tokens first, and have no output projection. Imports no torch, so a plan can count taps.

Shape suffixes of the tensors: (B batch, tokens, D channels).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from x2i_platform.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel
    from torch import Tensor, nn

Stream = Literal["image", "text"]
STREAMS: tuple[Stream, ...] = ("image", "text")
"""Order in which a double block's attention returns its two streams."""


@dataclass(frozen=True)
class Tap:
    """One attention output: its name, and the streams on its token axis."""

    name: str
    streams: tuple[Stream, ...]
    """One stream for a double block; text and image, in that order, for a single block."""

    @classmethod
    def named(cls, name: str) -> Tap:
        """The tap of a name such as `double.0.image` or `single.3`."""
        kind, _, rest = name.partition(".")
        stream = rest.rpartition(".")[2]
        if kind == "single":
            return cls(name, ("text", "image"))
        return cls(name, ("text",) if stream == "text" else ("image",))

    def num_tokens(self, *, text: int, image: int) -> int:
        """Length of the token axis, given the lengths of the two streams (whole ones, or the tokens kept)."""
        counts = {"text": text, "image": image}
        return sum(counts[stream] for stream in self.streams)

    def join(self, *, text: Tensor, image: Tensor) -> Tensor:
        """Values of the two streams' tokens, `(…, tokens)`, in the order of this tap's axis."""
        import torch

        values = {"text": text, "image": image}
        return torch.cat([values[stream] for stream in self.streams], dim=-1)

    def positions(self, *, text_idx: Tensor, image_idx: Tensor, num_text: int) -> Tensor:
        """Positions of tokens of the two streams, `(…, tokens)`, on this tap's axis: images follow `num_text` text
        tokens.
        """
        return self.join(text=text_idx, image=image_idx + (num_text if "text" in self.streams else 0))

    def split(self, output_BND: Tensor, *, num_text: int) -> dict[Stream, Tensor]:
        """The output of each stream."""
        if len(self.streams) == 1:
            return {self.streams[0]: output_BND}
        return {"text": output_BND[:, :num_text], "image": output_BND[:, num_text:]}


def flux_tap_names(*, num_double: int, num_single: int) -> tuple[str, ...]:
    """Every tap of a FLUX DiT with these numbers of blocks, in the order in which a forward reaches them."""
    double = (f"double.{block}.{stream}" for block in range(num_double) for stream in STREAMS)
    single = (f"single.{block}" for block in range(num_single))
    return (*double, *single)


def tap_names(dit: FluxTransformer2DModel) -> tuple[str, ...]:
    """Every tap of this DiT."""
    return flux_tap_names(num_double=len(dit.transformer_blocks), num_single=len(dit.single_transformer_blocks))


def select_taps(names: Sequence[str], choice: Literal["all", "double", "single"] | tuple[str, ...]) -> tuple[str, ...]:
    """The chosen taps, each once, in the order of `names`. Raises ConfigError on an unknown name or an empty choice."""
    if isinstance(choice, str):
        chosen = {name for name in names if choice == "all" or name.startswith(f"{choice}.")}
    else:
        chosen = set(choice)
    for unknown in sorted(chosen.difference(names)):
        nearest = difflib.get_close_matches(unknown, names, n=1, cutoff=0)
        raise ConfigError(f"unknown tap {unknown!r} among {len(names)}; did you mean {nearest[0]!r}?")
    if not chosen:
        raise ConfigError(f"taps {choice!r} choose none of {len(names)}; use 'all', 'double', 'single' or names")
    return tuple(name for name in names if name in chosen)


@contextmanager
def attention_taps(dit: FluxTransformer2DModel, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Fill the yielded dict with the named attention outputs of the one forward of `dit` that runs inside.

    The tensors stay part of the autograd graph, so a loss on them may go backward inside the context or after it.
    Gradient checkpointing runs the blocks, and so the hooks, again during the backward: only what is computed while
    `dit` itself runs is kept. A second forward in one context raises RuntimeError instead of mixing two passes.
    """
    wanted = frozenset(select_taps(tap_names(dit), tuple(names)))
    captured: dict[str, Tensor] = {}
    forward_runs = False

    def begin(*_: Any) -> None:
        nonlocal forward_runs
        if captured:
            raise RuntimeError("attention_taps records one forward; open a new context for the next")
        forward_runs = True

    def end(*_: Any) -> None:
        nonlocal forward_runs
        forward_runs = False

    def keep(streams: tuple[str, ...]) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Tensor | tuple[Tensor, ...]) -> None:
            if forward_runs:
                outputs = output if isinstance(output, tuple) else (output,)
                captured.update(pair for pair in zip(streams, outputs, strict=True) if pair[0] in wanted)

        return hook

    with ExitStack() as hooks:
        hooks.callback(dit.register_forward_pre_hook(begin).remove)
        hooks.callback(dit.register_forward_hook(end, always_call=True).remove)
        for module, streams in _tapped_modules(dit):
            hooks.callback(module.register_forward_hook(keep(streams)).remove)
        yield captured


def _tapped_modules(dit: FluxTransformer2DModel) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    for index, block in enumerate(dit.transformer_blocks):
        yield block.attn, tuple(f"double.{index}.{stream}" for stream in STREAMS)
    for index, block in enumerate(dit.single_transformer_blocks):
        yield block.attn, (f"single.{index}",)
