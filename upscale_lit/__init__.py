"""Train a 2x image upscaler, stage by stage, and use it: `from upscale_lit import Upscaler`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upscale_lit.inference.upscaler import Upscaler

__all__ = ["Upscaler"]


def __getattr__(name: str) -> object:  # not before it is asked for: the networks alone need PyTorch only
    if name == "Upscaler":
        from upscale_lit.inference.upscaler import Upscaler

        return Upscaler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
