"""Messages of a request become the MLLM's prompt: their media are decoded, and prepared as the recipe says."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from x2i_platform.config import MediaConfig
from x2i_platform.generation.content import ContentPart, Message
from x2i_platform.media.clips import Video
from x2i_platform.media.images import decode_image
from x2i_platform.media.sounds import decode_audio
from x2i_platform.media.videos import decode_video
from x2i_platform.models.prompts import Medium, Part, Prompt, Turn, Weighted


def load_prompt(messages: Sequence[Message], *, media: MediaConfig) -> Prompt:
    """The prompt with its media decoded and prepared. Raises InputError for a file that can't be used."""
    return Prompt(
        tuple(Turn(message.role, tuple(_part(part, media=media) for part in message.parts)) for message in messages)
    )


def prepared(image: Image.Image, *, media: MediaConfig) -> Image.Image:
    """An image as the recipe wants it: a square of `image_side` pixels, or as it is."""
    if media.image_side is None:
        return image
    return image.resize((media.image_side, media.image_side), Image.Resampling.BICUBIC)


def _part(part: ContentPart, *, media: MediaConfig) -> Part:
    if part.kind == "text":
        return part.value
    medium = _medium(part, media=media)
    return medium if part.weight == 1.0 else Weighted(medium, part.weight)


def _medium(part: ContentPart, *, media: MediaConfig) -> Medium:
    content, name = part.content(), part.name
    if part.kind == "audio":
        return decode_audio(content, name=name, sampling_rate=media.audio_sampling_rate)
    if part.kind == "image":
        return prepared(decode_image(content, name=name), media=media)
    video = decode_video(content, name=name, fps=media.video_fps, max_frames=media.video_frames)
    return Video(tuple(prepared(frame, media=media) for frame in video.frames), fps=video.fps)
