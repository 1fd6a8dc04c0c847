"""What the platform asks of a kind of DiT. Everything else about a teacher is the same for all of them.

Stores, steps and canvases know latents as `(B, N, C)`: one token for each 2 x 2 latents, which `packing` makes. A kind
whose DiT takes images of latents unpacks them in its own `velocity`.

Shape suffixes: B batch, N image tokens, C packed latent channels, T text tokens, E prompt width, P pooled width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from x2i_platform.config import TeacherConfig
from x2i_platform.models.conditioning import Conditioning
from x2i_platform.models.dims import DiTDims

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Architecture(ABC):
    """One kind of DiT with the pipeline around it. Classes are named, so that a plan needn't load their libraries."""

    transformer: ClassVar[str]
    """Class of the DiT in diffusers."""
    pipeline: ClassVar[str]
    """Class of the pipeline in diffusers that encodes prompts and denoises."""
    clip: ClassVar[str]
    """Class of its CLIP encoders in transformers."""
    clips: ClassVar[tuple[str, ...]]
    """Folders of its CLIP encoders."""
    t5: ClassVar[str]
    """Folder of its T5 encoder. The tokenizer of a `text_encoder_2` is `tokenizer_2`."""
    t5_setting: ClassVar[str] = "teacher.text_tokens"
    """What decides how many tokens T5 reads."""
    classifier_free: ClassVar[bool]
    """Whether guidance above 1 compares with the empty prompt, in a second forward. If not, guidance is an input."""

    tables: ClassVar[tuple[str, ...]] = ()
    """Fixed tables that are stored with the DiT's weights. They are no parameters."""

    @abstractmethod
    def dims(self, config: Mapping[str, Any], *, latent_scale: int) -> DiTDims:
        """Read the sizes from the transformer's `config.json`. Raises KeyError for a size that isn't there."""

    def t5_tokens(self, config: TeacherConfig) -> int:
        """Return how many of the text tokens are T5's. Raises ConfigError if there is no room for any."""
        return config.text_tokens

    @abstractmethod
    def latent_channels(self, dit: Any) -> int:
        """Return the number of channels of one latent of its VAE."""

    def largest_side(self, dit: Any) -> int | None:
        """Return the largest side of a canvas in tokens: that of the DiT's table of positions, or None without one."""
        side: int | None = dit.config.get("pos_embed_max_size")
        return side

    @abstractmethod
    def velocity(
        self, dit: Any, conditioning: Conditioning, *, latents_BNC: Tensor, sigma_B: Tensor, guidance: float
    ) -> Tensor:
        """Predict the velocity `(B, N, C)` of a square canvas, as one step of the pipeline does.

        Classifier-free guidance isn't in it: it is what the DiT says under this conditioning.
        """

    @abstractmethod
    def encode(self, pipeline: Any, *, clip: Sequence[list[str]], t5: list[str], t5_tokens: int) -> Conditioning:
        """Encode prompts, one list for each CLIP and one for T5, by the pipeline's own `encode_prompt`."""

    def decode(self, pipeline: Any, latents: Tensor, *, width: int, height: int) -> Image:
        """Decode one image from latents `(1, …)` as they are between the pipeline's steps."""
        vae = pipeline.vae
        unscaled = self.unpacked(pipeline, latents, width=width, height=height) / vae.config.scaling_factor
        pixels = vae.decode((unscaled + vae.config.shift_factor).to(vae.dtype), return_dict=False)[0]
        image: Image = pipeline.image_processor.postprocess(pixels.detach(), output_type="pil")[0]
        return image

    @abstractmethod
    def unpacked(self, pipeline: Any, latents: Tensor, *, width: int, height: int) -> Tensor:
        """Return the pipeline's latents as images `(B, c, H, W)`."""
