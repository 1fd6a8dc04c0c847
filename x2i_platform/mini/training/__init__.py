"""Trains the miniature models from seeds; `python -m x2i_platform.mini.build` runs it.

Invariant: no model ever sees a held-out combination; what one sees at a step is a function of the seed and the step.
"""

from x2i_platform.torchvision_schemas import define_missing_schemas

define_missing_schemas()  # before any part imports transformers or diffusers
