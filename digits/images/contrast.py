"""Contrast: find ink that grey levels do not show, in the alpha channel or in one of the colours.

White ink on a transparent background, and ink as bright as the paper, such as red on green, have no contrast in grey.
"""

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from digits.images.types import Pixels

_LINES = 64
"""Number of rows and columns of the sample that shows whether grey levels have contrast."""
_CLEAR = 96
"""Range of grey levels from which an image has contrast."""
_SAMPLE_SIDE = 128
"""Largest side of the sample in which ink is looked for."""
_LEAST_SIDE = 8
"""Least side of an image in which ink is looked for."""
_PAPER = 4
"""Share of the sample's side, as a divisor, over which the paper is averaged."""
_TAILS = (0.003, 0.997)
"""Quantiles whose difference is the contrast of a channel: low enough for thin ink, without the extremes of noise."""
_EQUAL = 28
"""Contrast of ink below which it may be noise."""
_MORE = 2.5
"""Least ratio of a colour's contrast to that of the grey levels, to be used in their place."""
_COLOUR, _ALPHA = 40, 64
"""Least contrast of a colour and of the alpha channel, to be used in place of the grey levels."""
_MOST_INK = 0.6
"""Largest share of an image that can be ink. A page with transparent corners has more opaque pixels."""
_STRIP_PIXELS = 1 << 20
"""Number of pixels that are converted at a time."""
_GREY = ("1", "L", "LA")


def find_contrast(grey: Image.Image, image: Image.Image) -> Pixels:
    """Return the grey levels of an image, or the channel that shows its ink if they have no contrast and it has.

    Args:
        grey: grey levels on a white background, mode L.
        image: the image itself, in a mode that can be converted to RGBA.

    Returns:
        (H, W) uint8: the grey levels; or the opacity, inverted; or red, green or blue on a white background.
    """
    levels, has_channels = to_array(grey), image.mode not in _GREY or image.has_transparency_data
    if not has_channels or _is_clear(grey, levels) or min(image.size) < _LEAST_SIDE:
        return levels
    channel = _visible_channel(_sampled(image))
    return levels if channel is None else _read_channel(image, channel)


def to_array(grey: Image.Image) -> Pixels:
    """Return the pixels of an image of mode L, (H, W) uint8."""
    width, height = grey.size
    return np.frombuffer(grey.tobytes(), np.uint8).reshape(height, width)


def has_clear_contrast(levels: Pixels) -> bool:
    """Return whether some rows and columns of an image have grey levels that are far apart."""
    height, width = levels.shape
    some = levels[:: height // _LINES + 1, :: width // _LINES + 1]
    return int(some.max()) - int(some.min()) >= _CLEAR


def _is_clear(grey: Image.Image, levels: Pixels) -> bool:
    if levels.size > _LINES**2:
        return has_clear_contrast(levels)
    low, high = grey.im.getextrema()  # the fastest way; in a small image, NumPy takes as long as part of the decoding
    return bool(high - low >= _CLEAR)


def _read_channel(image: Image.Image, name: str) -> Pixels:
    """Return a channel on a white background. A few rows at a time are converted, so that copies are small."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    strips = (image.crop((0, top, width, min(top + rows, height))) for top in range(0, height, rows))
    return np.concatenate([_channel_on_white(_with_channels(strip), name) for strip in strips])


def _sampled(image: Image.Image) -> Image.Image:
    """Return every n-th pixel of an image. Averages would need a copy of a large image."""
    factor = max(image.size) // _SAMPLE_SIDE + 1
    width, height = (max(1, side // factor) for side in image.size)
    return _with_channels(image.resize((width, height), Image.Resampling.NEAREST))


def _with_channels(image: Image.Image) -> Image.Image:
    """Convert an image to RGBA if it has any transparency, else to RGB."""
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _visible_channel(sample: Image.Image) -> str | None:
    """Return the channel (A, R, G or B) of an image that shows ink, None if its grey levels do or no channel does."""
    grey = _contrast(_channel_on_white(sample.convert("LA"), "L"))
    if grey >= _EQUAL:
        return None
    if sample.mode == "RGBA" and _is_ink(np.asarray(sample.getchannel("A"))):
        return "A"
    contrast, name = max((_contrast(_channel_on_white(sample, name)), name) for name in "RGB")
    return name if contrast >= max(_COLOUR, _MORE * grey) else None


def _is_ink(alpha: Pixels) -> bool:
    return int(alpha.max()) - int(alpha.min()) >= _ALPHA and float(alpha.mean()) <= _MOST_INK * 255


def _contrast(channel: Pixels) -> int:
    """Return the contrast of ink with the paper around it, in levels; uneven light makes none."""
    paper = Image.fromarray(channel).filter(ImageFilter.BoxBlur(max(channel.shape) // _PAPER))
    low, high = np.quantile(channel.astype(np.int16) - np.asarray(paper), _TAILS)
    return int(high - low)


def _channel_on_white(image: Image.Image, name: str) -> Pixels:
    """Return a channel of an image on a white background, or its opacity inverted: (H, W) uint8."""
    channel = image.getchannel(name)
    if name == "A":
        channel = ImageChops.invert(channel)
    elif "A" in image.getbands():
        canvas = Image.new("L", image.size, 255)
        canvas.paste(channel, mask=image.getchannel("A"))
        channel = canvas
    return to_array(channel)
