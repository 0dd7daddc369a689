"""How large an image may be: a file of some bytes may claim to be one of terabytes.

Pillow refuses more than these pixels, OpenCV only more than 2^30 of them. Here what a header claims is looked at
before anything is decoded, and the limit is one.
"""

import os

MAX_PIXELS = "PARIBUS_MAX_PIXELS"  # in the environment, which every worker sees: another limit
MOST_PIXELS = 178_956_970
MOST_BYTES = 8  # of a file for each pixel that may be: 16-bit RGBA, stored as it is


class TooLargeError(ValueError):
    """An image claims more pixels than it may have; its arguments are the words for that, and how many."""


def most_pixels() -> int:
    """Of one image; ValueError where the environment says no number."""
    given = os.environ.get(MAX_PIXELS, "")
    if given and not given.isdecimal():
        raise ValueError(
            f"{MAX_PIXELS}={given} (environment): a number of pixels, {MOST_PIXELS} if it is not set"
        )
    return int(given or MOST_PIXELS)


def allow(width: int, height: int) -> None:
    """Raises TooLargeError for more pixels than an image may have."""
    if width * height > most_pixels():
        raise TooLargeError(f"claims {width} x {height} pixels", width * height)
