"""Networks as sequences of depths."""

from typing import TYPE_CHECKING

from jvpsvd.imports import import_at_first_use

if TYPE_CHECKING:
    from jvpsvd.networks.alexnet import bvlc_alexnet, caffenet, torchvision_alexnet
    from jvpsvd.networks.choose_batch import choose_batch
    from jvpsvd.networks.chosen_arguments import Arguments
    from jvpsvd.networks.depth import Depth
    from jvpsvd.networks.depths import depths, layer_map, layer_maps
    from jvpsvd.networks.derivatives import Derivatives
    from jvpsvd.networks.foretell import foretell_loads, weight_bytes
    from jvpsvd.networks.forward_pass import call, to_device
    from jvpsvd.networks.inputs import Inputs
    from jvpsvd.networks.passed_seconds import passed_seconds
    from jvpsvd.networks.photo_input import PhotoInput
    from jvpsvd.networks.place_names import OUTPUT
    from jvpsvd.networks.recording_seconds import guess_recording_seconds
    from jvpsvd.networks.zoo import (
        CAFFE_PHOTO_INPUT,
        Model,
        load_model,
        load_weights,
        shapes_of_hf,
        weights_sha256,
    )
else:
    import_at_first_use(__name__)

__all__ = [
    "CAFFE_PHOTO_INPUT",
    "OUTPUT",
    "Arguments",
    "Depth",
    "Derivatives",
    "Inputs",
    "Model",
    "PhotoInput",
    "bvlc_alexnet",
    "caffenet",
    "call",
    "choose_batch",
    "depths",
    "foretell_loads",
    "guess_recording_seconds",
    "layer_map",
    "layer_maps",
    "load_model",
    "load_weights",
    "passed_seconds",
    "shapes_of_hf",
    "to_device",
    "torchvision_alexnet",
    "weight_bytes",
    "weights_sha256",
]
