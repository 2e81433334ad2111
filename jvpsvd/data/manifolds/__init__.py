"""Artificial data on manifolds with exact dimension and tangent spaces.

Arguments out of range raise `ArgumentError`.
"""

from jvpsvd.data.manifolds.classes import sample_classes
from jvpsvd.data.manifolds.glyphs import GLYPHS, Glyph
from jvpsvd.data.manifolds.manifold import Manifold, Points
from jvpsvd.data.manifolds.smooth_shapes import LinearSubspace, Sphere, SwissRoll, Torus

__all__ = [
    "GLYPHS",
    "Glyph",
    "LinearSubspace",
    "Manifold",
    "Points",
    "Sphere",
    "SwissRoll",
    "Torus",
    "sample_classes",
]
