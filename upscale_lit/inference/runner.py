"""Upscale pictures of all sizes, each with the networks that fit its size."""

from collections.abc import Callable, Sequence

from PIL import Image

from upscale_lit import shipped
from upscale_lit.inference import choose
from upscale_lit.inference.comparison import bicubic
from upscale_lit.inference.restore import check_restore
from upscale_lit.inference.upscaler import Upscaler, device_of


class Runner:
    """The networks of a command, of which the size of each picture chooses one or several.

    networks: the available networks. scale: 2, 4 or 8, or the factor of a network of another program.
    tile, device, fp32, restore: see Upscaler.
    The methods take pictures as `upright` returns them.
    Raises InputError if the device is not available, if no networks reach the scale, or if they cannot restore.
    """

    def __init__(
        self, networks: Sequence[choose.Network], scale: int, tile: int = 0, device: str = "auto", fp32: bool = False,
        restore: float | None = None,
    ) -> None:  # fmt: skip
        self.scale, self.restore, self.options = scale, restore, (tile, device, fp32)
        device_of(device)  # a wrong device ends a command before the first file
        self.ways = choose.ways(networks, scale)
        for way in self.ways:
            check_restore(restore, way.networks[0].model, way.networks[0].robust)
        self._upscalers: dict[tuple[choose.Way, float | None], Upscaler] = {}

    def way(self, picture: Image.Image) -> choose.Way:
        """Return the networks for a picture."""
        return choose.nearest(self.ways, min(picture.size))

    def upscaler(self, picture: Image.Image, unrestored: bool = False) -> Upscaler:
        """Return the upscaler for a picture. unrestored: one that restores nothing, whatever `restore` is."""
        key = self.way(picture), 0.0 if unrestored else self.restore
        if key not in self._upscalers:
            self._upscalers[key] = Upscaler.of(key[0], *self.options, key[1])
        return self._upscalers[key]

    def upscale(self, picture: Image.Image, progress: Callable[[float], None] | None = None) -> Image.Image:
        """Return the upscaled picture. progress: see Upscaler. Raises MemoryError if memory is too small."""
        return self.upscaler(picture).enlarge(picture, progress)

    def amount(self, picture: Image.Image) -> float:
        """Return the amount of restoration for a picture."""
        return self.upscaler(picture).amount(picture.info["lossy"])

    def facts(self, picture: Image.Image, result: Image.Image) -> str:
        """Return words on how a result was made: sizes, networks, precision and restoration."""
        way, amount, lossy = self.way(picture), self.amount(picture), picture.info["lossy"]
        precision = self.upscaler(picture).precision(amount, picture.mode == "I;16")
        size = f"{picture.width}x{picture.height} to {result.width}x{result.height}"
        restored = ""
        if way.networks[0].robust is not None:
            reason = "" if self.restore is not None else f" ({lossy})" if lossy else " (no lossy compression)"
            restored = f", restore {amount:g}{reason}"
        return f"{size} by {way.name} in {precision}{restored}"

    def layers(
        self, picture: Image.Image, result: Image.Image, progress: Callable[[float], None] | None = None
    ) -> list[tuple[str, Image.Image]]:
        """Return the pictures that a page compares, with their labels: bicubic, and the result as the last one.

        If the result was restored, the result without restoration is computed, and comes between them.
        progress: follows this computation; see Upscaler.
        """
        found = [("bicubic", bicubic(picture, self.scale))]
        way, amount = self.way(picture), self.amount(picture)
        name = shipped.model_of(way.networks[0].path) or way.name
        if amount == 0:
            return [*found, (name, result)]
        unrestored = self.upscaler(picture, unrestored=True).enlarge(picture, progress)
        return [*found, (f"{name}, restore 0", unrestored), (f"{name}, restore {amount:g}", result)]
