"""Passes over recorded derivatives: graphs in, cheaper graphs with the same products out.

`graphs` holds what all of them use, `simplify` their order; `chains` and `channels` leave out what
is shut at a point.
"""
