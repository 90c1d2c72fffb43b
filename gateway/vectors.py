"""How a vector goes over the wire: numbers, base64 of little-endian float32, or fewer bits a number."""

import base64
import math
from typing import Any, Literal

import numpy as np

Encoding = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]


def encoded(vector: Any, encoding: Encoding) -> Any:
    """
    Return a vector [dimensions] float32 as orjson takes it: an array, or text for base64.

    int8 and uint8 scale each vector by its own largest number, which leaves cosines as they are. The binary kinds
    keep the sign of each number, eight to a byte, first number highest; `binary` is `ubinary` less 128.
    """
    match encoding:
        case "float":
            return vector
        case "base64":
            return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")
        case "int8" | "uint8":
            whole = np.rint(vector * (127 / max(float(np.abs(vector).max()), 1e-12))).astype(np.int8)
            return whole if encoding == "int8" else (whole.astype(np.int16) + 128).astype(np.uint8)
        case "binary" | "ubinary":
            bits = np.packbits(vector > 0, axis=-1)
            return bits if encoding == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)


def unit(vector: Any) -> Any:
    """Return a vector [dimensions] float32 scaled to length 1; one of zeros stays as it is."""
    return vector / np.float32(max(math.sqrt(vector @ vector), 1e-12))
