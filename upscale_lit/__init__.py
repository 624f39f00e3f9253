"""Train 2x image upscalers stage by stage, and upscale pictures with `from upscale_lit import Upscaler`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upscale_lit.inference.upscaler import Upscaler

    __version__: str

__all__ = ["Upscaler", "__version__"]


# These names are imported on first use, because the networks alone need only PyTorch.
def __getattr__(name: str) -> object:
    if name == "Upscaler":
        from upscale_lit.inference.upscaler import Upscaler

        return Upscaler
    if name == "__version__":
        from importlib.metadata import version

        return version("upscale-lit")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
