"""Types: the arrays that the package's functions share."""

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
