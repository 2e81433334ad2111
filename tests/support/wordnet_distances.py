"""Distances of two synsets, one pair at a time: what `Hierarchy.distance_matrix` is held to."""

from jvpsvd.data.hierarchy import Hierarchy


def min_depth(tree: Hierarchy, wnid: str) -> int:
    """Return the number of edges on the shortest path up to a root."""
    above = tree.ancestors(wnid)
    return min(edges for c, edges in above.items() if c in tree.roots)


def path_distance(tree: Hierarchy, first: str, second: str) -> int:
    """Return the length of the shortest path up to a common ancestor and down again."""
    of_first, of_second = tree.ancestors(first), tree.ancestors(second)
    return min(of_first[c] + of_second[c] for c in of_first if c in of_second)


def wu_palmer(tree: Hierarchy, first: str, second: str) -> float:
    """Return the similarity 2D / (2D + e₁ + e₂) by the common ancestor that is deepest."""
    of_first, of_second = tree.ancestors(first), tree.ancestors(second)
    common = [c for c in of_first if c in of_second]
    deepest = max(map(tree.max_depth, common))
    twice = 2 * (deepest + 1)
    lowest = [c for c in common if tree.max_depth(c) == deepest]
    return max(twice / (twice + of_first[c] + of_second[c]) for c in lowest)
