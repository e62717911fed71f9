"""vitscale: train large Vision Transformers from scratch."""

__version__ = "0.1.0"
