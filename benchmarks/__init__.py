"""The benchmarks; each load begins without the experts that earlier runs used."""

import os

os.environ["OUTLIER_HISTORY"] = "0"
