"""Train a 2x image upscaler, stage by stage, and use it: `from upscale_lit import Upscaler`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upscale_lit.inference.upscaler import Upscaler

    __version__: str

__all__ = ["Upscaler", "__version__"]


def __getattr__(name: str) -> object:  # not before it is asked for: the networks alone need PyTorch only
    if name == "Upscaler":
        from upscale_lit.inference.upscaler import Upscaler

        return Upscaler
    if name == "__version__":
        from importlib.metadata import version

        return version("upscale-lit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
