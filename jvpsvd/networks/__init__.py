"""Networks as sequences of depths."""

from jvpsvd.networks.depths import OUTPUT, Depth, depths, layer_map, layer_maps
from jvpsvd.networks.zoo import Model, PhotoInput, load_model, load_weights, weights_sha256

__all__ = [
    "OUTPUT",
    "Depth",
    "Model",
    "PhotoInput",
    "depths",
    "layer_map",
    "layer_maps",
    "load_model",
    "load_weights",
    "weights_sha256",
]
