"""Sheets: a bicubic upscaling next to the result, in one picture."""

from PIL import Image, ImageDraw, ImageFont

from upscale_lit.inference.pictures import on_white, shallow

CAPTION = 24  # the height in px of the line of captions above the two pictures of a sheet


def sheet_size(width: int, height: int) -> tuple[int, int]:
    """Return the width and height in px of a sheet for a result of this width and height."""
    return 2 * width + 2, height + CAPTION


def sheet(picture: Image.Image, result: Image.Image, name: str) -> Image.Image:
    """Return a sheet that shows a bicubic upscaling of `picture` next to `result`, with captions, in 8-bit RGB.

    Both pictures have the size of `result`; `sheet_size` gives the size of the sheet. name: the caption of `result`.
    """
    page = Image.new("RGB", sheet_size(*result.size), "white")
    for left, image, caption in ((0, picture, "bicubic"), (result.width + 2, result, name)):
        ImageDraw.Draw(page).text((left + 4, 2), caption, "black", ImageFont.load_default(16))
        image = shallow(on_white(image)).convert("RGB").resize(result.size, Image.Resampling.BICUBIC)
        page.paste(image, (left, CAPTION))
    if result.mode.startswith("RGB") and "icc_profile" in result.info:
        page.info["icc_profile"] = result.info["icc_profile"]
    return page
