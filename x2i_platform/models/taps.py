"""Records the outputs of the DiT's attention modules, by name, during one forward pass.

Names follow the DiT from input to output: `double.0.image`, `double.0.text`, `double.1.image`, …, `single.0`, …: 76 at
FLUX.1 size. A double block gives two streams, taken after the output projection and before the gate. A single block
gives one joint stream, text tokens first; it has no output projection. SD3 has double blocks alone: the last one has no
`text`, and some have `double.0.image2`, a second attention on the image. Imports no torch, so a plan can count taps.

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
    from torch import Tensor, nn

Stream = Literal["image", "text"]
STREAMS: tuple[Stream, ...] = ("image", "text")
"""Order in which a double block's attention returns its two streams."""


@dataclass(frozen=True)
class Tap:
    """One attention output: its name, and the streams on its token axis."""

    name: str
    streams: tuple[Stream, ...]
    """One for a double block; both for a single block, text tokens first."""

    @classmethod
    def named(cls, name: str) -> Tap:
        """Return the tap with a name such as `double.0.image` or `single.3`."""
        kind, _, rest = name.partition(".")
        stream = rest.rpartition(".")[2]
        if kind == "single":
            return cls(name, ("text", "image"))
        return cls(name, ("text",) if stream == "text" else ("image",))

    def num_tokens(self, *, text: int, image: int) -> int:
        """Return the length of this tap's token axis, given the (kept) lengths of the two streams."""
        counts = {"text": text, "image": image}
        return sum(counts[stream] for stream in self.streams)

    def join(self, *, text: Tensor, image: Tensor) -> Tensor:
        """Concatenate the two streams' values `(…, tokens)` in the order of this tap's axis."""
        import torch

        values = {"text": text, "image": image}
        return torch.cat([values[stream] for stream in self.streams], dim=-1)

    def positions(self, *, text_idx: Tensor, image_idx: Tensor, num_text: int) -> Tensor:
        """Map the streams' token indices, `(…, tokens)`, to this axis: images come after `num_text` of text."""
        return self.join(text=text_idx, image=image_idx + (num_text if "text" in self.streams else 0))

    def split(self, output_BND: Tensor, *, num_text: int) -> dict[Stream, Tensor]:
        """Split an output into its streams."""
        if len(self.streams) == 1:
            return {self.streams[0]: output_BND}
        return {"text": output_BND[:, :num_text], "image": output_BND[:, num_text:]}


def flux_tap_names(*, num_double: int, num_single: int) -> tuple[str, ...]:
    """Return all tap names of a FLUX DiT with this many blocks, in the order in which a forward reaches them."""
    double = (f"double.{block}.{stream}" for block in range(num_double) for stream in STREAMS)
    single = (f"single.{block}" for block in range(num_single))
    return (*double, *single)


def sd3_tap_names(*, num_double: int, dual_blocks: Sequence[int]) -> tuple[str, ...]:
    """Return all tap names of an SD3 DiT, in the order in which a forward reaches them. `dual_blocks` attend twice."""
    names: list[str] = []
    for block in range(num_double):
        names += [f"double.{block}.{stream}" for stream in (STREAMS if block < num_double - 1 else STREAMS[:1])]
        names += [f"double.{block}.image2"] if block in dual_blocks else []
    return tuple(names)


def tap_names(dit: Any) -> tuple[str, ...]:
    """Return all tap names of this DiT."""
    return tuple(name for _, names in _tapped_modules(dit) for name in names)


def select_taps(names: Sequence[str], choice: Literal["all", "double", "single"] | tuple[str, ...]) -> tuple[str, ...]:
    """Return the chosen taps, each once, in the order of `names`. Raises ConfigError for an unknown or empty choice."""
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
def attention_taps(dit: Any, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Fill the yielded dict with the named attention outputs of the one forward of `dit` in this context.

    The tensors stay in the autograd graph, so a loss on them may go backward inside the context or after it. Gradient
    checkpointing runs the blocks and their hooks again in the backward pass; those outputs are ignored. A second
    forward in one context raises RuntimeError.
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
                # SD3's last block returns a text output too, which nothing reads: it has no name here.
                captured.update(pair for pair in zip(streams, outputs, strict=False) if pair[0] in wanted)

        return hook

    with ExitStack() as hooks:
        hooks.callback(dit.register_forward_pre_hook(begin).remove)
        hooks.callback(dit.register_forward_hook(end, always_call=True).remove)
        for module, streams in _tapped_modules(dit):
            hooks.callback(module.register_forward_hook(keep(streams)).remove)
        yield captured


def _tapped_modules(dit: Any) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Yield the attention modules in the order of a forward, with the names of their outputs.

    diffusers gives the blocks of FLUX and SD3 the same names, so it is read from them what a DiT has.
    """
    for index, block in enumerate(dit.transformer_blocks):
        streams = STREAMS[:1] if getattr(block, "context_pre_only", False) else STREAMS
        yield block.attn, tuple(f"double.{index}.{stream}" for stream in streams)
        if getattr(block, "attn2", None) is not None:
            yield block.attn2, (f"double.{index}.image2",)
    for index, block in enumerate(getattr(dit, "single_transformer_blocks", ())):
        yield block.attn, (f"single.{index}",)
