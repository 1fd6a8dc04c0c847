"""A small MiniCPM-o 2.6 with random weights, in a folder with the released files' names, keys and code references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.random_models import CAPTIONS

from x2i_platform.mini.random.weights import fill
from x2i_platform.models.minicpm_o.configuration import MiniCPMOConfig
from x2i_platform.models.minicpm_o.modeling import MiniCPMOForConditionalGeneration
from x2i_platform.models.minicpm_o.registration import register
