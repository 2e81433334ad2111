"""Small models by name, as the text of a module that a test puts on the import path."""

TINY = """
import torch
from torch import nn
from jvpsvd.networks import PhotoInput

SIZE = PhotoInput(size=16, resize=18)


def net():
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 30),
    )
    torch.random.set_rng_state(generator)
    return model.eval(), SIZE


def other():
    model, size = net()
    with torch.no_grad():
        model[0].weight.mul_(2)
    return model, size


def wide():
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.Tanh())
    torch.random.set_rng_state(generator)
    return model.eval(), SIZE


def repeating():
    model, size = net()
    with torch.no_grad():
        model[6].weight[20:] = model[6].weight[0]  # rank 20 at most
    return model, size


def training():
    model, size = net()
    return model.train(), size


def poisoned():
    model, size = net()
    with torch.no_grad():
        model[6].weight.fill_(float("nan"))
    return model, size


def quits():
    raise SystemExit("no network today")


class Looking(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()[0]

    def forward(self, x):
        y = self.inner(x)
        return y if y.sum() > -1e9 else -y


def looking():
    return Looking().eval(), SIZE
"""
