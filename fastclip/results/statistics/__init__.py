"""Intervals and exact tests of integer counts. The tests ask SciPy and statsmodels; nothing here imports them.

`ranks` is not among the names below: it alone needs NumPy, which takes a tenth of a second to load.
"""

from fastclip.results.statistics.corrections import bh, holm
from fastclip.results.statistics.intervals import (
    LEVEL,
    Interval,
    mean_interval,
    mean_of_intervals,
    newcombe,
    wilson,
)
from fastclip.results.statistics.paired import PairTest, QTest, cochran, mcnemar

__all__ = [
    "LEVEL",
    "Interval",
    "PairTest",
    "QTest",
    "bh",
    "cochran",
    "holm",
    "mcnemar",
    "mean_interval",
    "mean_of_intervals",
    "newcombe",
    "wilson",
]
