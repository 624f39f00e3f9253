"""The networks: plain modules that map low to high pictures, in the networks' pixel range (`resample.to_network`)."""

from upscale_lit.models.apply import continued, upscale
from upscale_lit.models.branches import add_branches, without_branches
from upscale_lit.models.compact import Compact
from upscale_lit.models.registry import MODELS, build, know
from upscale_lit.models.stack import FACTORS, STAGES, Upsampler8x
from upscale_lit.models.upsampler import Upsampler

__all__ = [
    "FACTORS", "MODELS", "STAGES", "Compact", "Upsampler", "Upsampler8x", "add_branches", "build", "continued", "know",
    "upscale", "without_branches",
]  # fmt: skip
