"""Training of the miniature models from seeds; `python -m x2i_platform.mini.build` runs it.

Invariant: no model sees a held-out combination; a step's data are a function of the seed and the step.
"""

from x2i_platform.torchvision_schemas import define_missing_schemas

define_missing_schemas()  # before any part imports transformers or diffusers
