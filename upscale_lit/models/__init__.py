"""The networks: plain modules from low to high pictures, in the networks' pixel range."""

from upscale_lit.models.upsampler import (
    ATANH_HINGES,
    FACTORS,
    Compact,
    Upsampler,
    Upsampler8x,
    bicubic_kernel,
    continued,
    start_as_bicubic,
    upscale,
)

__all__ = [
    "ATANH_HINGES",
    "FACTORS",
    "Compact",
    "Upsampler",
    "Upsampler8x",
    "bicubic_kernel",
    "continued",
    "start_as_bicubic",
    "upscale",
]
