"""Options that several commands have."""

from __future__ import annotations

import click

from jvpsvd.commands.numbers import integer, number
from jvpsvd.commands.option_values import positive_number
from jvpsvd.survey import Spec

model_option = click.option(
    "--model",
    default=Spec.model,
    show_default=True,
    metavar="SPEC",
    help="Built-in name, torchvision:NAME, timm:NAME, hf:NAME or hf:FOLDER, or "
    "package.module:factory (your own).",
)
weights_option = click.option(
    "--weights",
    metavar="FILE",
    help="State dict (.safetensors or torch), or .caffemodel; no pickles are run.",
)
since_option = click.option(
    "--since", metavar="NAME", help="Depth to differentiate from. [default: the input]"
)
random_weights_option = click.option(
    "--random-weights",
    type=integer,
    metavar="SEED",
    help="Random weights, for comparison: as the network's own initialisation draws them, batch "
    "norms with the means and variances of inputs of noise.",
)
memory_option = click.option(
    "--memory",
    metavar="SIZE",
    help="Budget of one solve with its activations, as 8GiB. [default: half of what these leave of "
    "the GPU's, the job's or the machine's]",
)
threshold_option = click.option(
    "--threshold",
    callback=positive_number,
    type=number,
    default=1.0,
    show_default=True,
    metavar="T",
    help="Count singular values ≥ T in the table, of each whole spectrum.",
)
