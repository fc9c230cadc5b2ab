"""Types: array types that several packages use."""

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
"""Grey levels of one image, (H, W), or of several, (N, H, W); 0 is black, 255 is white."""

Labels = npt.NDArray[np.uint8]
"""Class ids of N images, (N,)."""
