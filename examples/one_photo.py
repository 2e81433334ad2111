"""The tangent space of one photo, in ten lines: the 20 leading directions of a network's logits.

You learn: how few lines a solve of a real network takes, and that σ1 predicts what a small step
does.

    python examples/one_photo.py        (needs the extra demo)

Prints how many singular values are ≥ 1, and how far the logits move along the first right singular
vector, against what the first singular value promises.
"""

import jvpsvd
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.networks import load_model

model = load_model("efficientnet-lite0")
photo = demo_photos()[0]
x = decode_photo(photo.file.read_bytes(), model.photo_input)

f, z = jvpsvd.layer_map(model.module, x, to="output")
J = jvpsvd.JacobianOperator(f, z)
result = jvpsvd.svds(J, k=20, tol=1e-4)
print(result)
print(f"class {int(f(z).argmax())} (label {photo.label}); σ ≥ 1: at least {result.dimension()}")

step = 1e-4  # larger ones cross kinks of the ReLUs, where the derivative jumps
moved = f(z + step * result.Vh[0].reshape(z.shape)) - f(z)
print(
    f"|Δ logits| = {float(moved.norm()):.3g} along v1, σ1 · step = {float(result.s[0]) * step:.3g}"
)
