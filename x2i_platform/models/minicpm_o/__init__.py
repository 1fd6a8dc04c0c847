"""MiniCPM-o 2.6 from transformers' native parts: Qwen2, SigLIP and Whisper, joined as its authors' code joins them.

transformers has no class for it, and code in a model folder never runs here. Facts are from `modeling_minicpmo.py`,
`modeling_navit_siglip.py`, `resampler.py`, `processing_minicpmo.py` and `image_processing_minicpmv.py` of
openbmb/MiniCPM-o-2_6 (Apache-2.0). What differs from them is listed in docs/minicpm-o.md.

Invariant: modules have the names of the released weights, so that no name is mapped.
"""

from __future__ import annotations

from x2i_platform.torchvision_schemas import define_missing_schemas

define_missing_schemas()  # before a class is imported from transformers
