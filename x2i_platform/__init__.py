"""X2I on your own GPUs: precompute features, distil AlignNet, register it, generate images."""

__version__ = "0.1.0"
