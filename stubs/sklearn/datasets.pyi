# Narrow stub: the one call of docs/examples/influence_digits.py. Why, and when it can go, is said
# in sklearn/__init__.pyi.

from typing import Literal

import numpy as np
from numpy.typing import NDArray

def load_digits(*, return_X_y: Literal[True]) -> tuple[NDArray[np.float64], NDArray[np.int64]]: ...  # noqa: N803  # the name is scikit-learn's
