"""AlexNet in the three forms whose weights were published.

Source: Krizhevsky, Sutskever & Hinton (2012); the third form (Krizhevsky, 2014) has no response
normalisation and no groups. Caffe's two forms are the networks of DeCAF (Donahue et al., 2014) and
of its successors. Their layers have the names of Caffe's files, so that depths are named as in the
papers.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn


class InnerProduct(nn.Linear):
    """Caffe's fully connected layer: x ↦ W vec(x) + b, with all axes after the first flattened.

    >>> import torch
    >>> InnerProduct(12, 5)(torch.zeros(2, 3, 2, 2)).shape
    torch.Size([2, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out) for (N, …)."""
        return super().forward(x.flatten(1))


def caffenet() -> nn.Sequential:
    """Return the BVLC reference CaffeNet, with PyTorch's random weights until some are loaded.

    The input is (N, 3, 227, 227), BGR from 0 to 255 minus the mean. The output is the 1000 logits
    of fc8. Max pooling comes before local response normalisation across n = 5 channels,

        y_c = x_c (k + α/n Σ_{|j − c| ≤ 2} x_j²)^(−β),    α = 1e-4, β = 0.75, k = 1,

    with zeros past the first and the last channel. Dropout is off, and parameters are frozen.

    Source: models/bvlc_reference_caffenet of https://github.com/BVLC/caffe.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net, x = caffenet(), torch.zeros(1, 3, 227, 227)
    >>> net[:4](x).shape, sum(p.numel() for p in net.parameters())
    (torch.Size([1, 96, 27, 27]), 60965224)
    >>> [name for name, _ in net.named_children()][:5]
    ['conv1', 'relu1', 'pool1', 'norm1', 'conv2']
    """
    return _caffe(("pool", "norm"))


def bvlc_alexnet() -> nn.Sequential:
    """Return the BVLC AlexNet, with PyTorch's random weights until some are loaded.

    It differs from `caffenet` in normalising before pooling, as the original paper does: norm1 and
    norm2 are 55 and 27 units wide, not 27 and 13.

    Source: models/bvlc_alexnet of https://github.com/BVLC/caffe.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net, x = bvlc_alexnet(), torch.zeros(1, 3, 227, 227)
    >>> net.norm1(net[:2](x)).shape
    torch.Size([1, 96, 55, 55])
    """
    return _caffe(("norm", "pool"))


def torchvision_alexnet() -> nn.Sequential:
    """Return torchvision's AlexNet, with PyTorch's random weights until some are loaded.

    The input is (N, 3, 224, 224), RGB, normalised by ImageNet's mean and standard deviation. The
    output is 1000 logits. There are no groups and no response normalisation; an adaptive average
    pool reduces photos of other sizes to 6 × 6. The names of its state dict are torchvision's.
    Dropout is off, and parameters are frozen.

    Source: Krizhevsky (2014), https://arxiv.org/abs/1404.5997; torchvision.models.alexnet.

    >>> import torch
    >>> with torch.device("meta"):
    ...     net, x = torchvision_alexnet(), torch.zeros(1, 3, 224, 224)
    >>> net(x).shape, next(iter(net.state_dict()))
    (torch.Size([1, 1000]), 'features.0.weight')
    """
    features = nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
    )
    classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, 1000),
    )
    return _ready(
        {
            "features": features,
            "avgpool": nn.AdaptiveAvgPool2d(6),
            "flatten": nn.Flatten(),
            "classifier": classifier,
        }
    )


def _caffe(after: tuple[str, str]) -> nn.Sequential:
    """Return Caffe's network; `after` is the order of pool and norm after conv1 and conv2."""
    layers: dict[str, nn.Module] = {}

    def add(number: int, convolution: nn.Conv2d, *more: str) -> None:
        layers[f"conv{number}"] = convolution
        layers[f"relu{number}"] = nn.ReLU()
        for name in more:
            layers[f"{name}{number}"] = _pool() if name == "pool" else _norm()

    add(1, nn.Conv2d(3, 96, 11, stride=4), *after)
    add(2, nn.Conv2d(96, 256, 5, padding=2, groups=2), *after)
    add(3, nn.Conv2d(256, 384, 3, padding=1))
    add(4, nn.Conv2d(384, 384, 3, padding=1, groups=2))
    add(5, nn.Conv2d(384, 256, 3, padding=1, groups=2), "pool")
    for number, inputs in ((6, 256 * 6 * 6), (7, 4096)):
        layers[f"fc{number}"] = InnerProduct(inputs, 4096)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"drop{number}"] = nn.Dropout(0.5)
    layers["fc8"] = InnerProduct(4096, 1000)
    return _ready(layers)


def _pool() -> nn.MaxPool2d:
    # Caffe rounds the number of windows up. PyTorch does so with ceil_mode. In both, no window
    # begins outside of the image.
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


def _norm() -> nn.LocalResponseNorm:
    # In PyTorch as in Caffe, α multiplies the mean of the squares, not their sum.
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def _ready(layers: dict[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers)).eval().requires_grad_(False)
