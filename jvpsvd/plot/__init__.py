"""Figures: spectra with bands, vectors as images, values by depth and index; one style for all.

matplotlib draws, and is asked for when something is drawn: install jvpsvd[plot].
"""

from jvpsvd.plot.heat_map import depth_by_index
from jvpsvd.plot.spectra import spectra
from jvpsvd.plot.vectors import around_grey, vectors

__all__ = ["around_grey", "depth_by_index", "spectra", "vectors"]
