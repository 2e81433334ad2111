"""Passes over recorded graphs: each returns a cheaper graph with the same products.

`pipeline` says in which order they run, `fx_tools` holds what all of them use. `inactive_channels`
leaves out, at each point, the channels that are inactive there.
"""
