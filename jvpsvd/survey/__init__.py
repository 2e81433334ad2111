"""Many photos at many depths: what to compute, doing it, and the folder that holds it.

>>> import tempfile
>>> from pathlib import Path
>>> from PIL import Image
>>> from torch import nn
>>> from jvpsvd.data import pack, photos_by_class
>>> from jvpsvd.networks import Model, PhotoInput, weights_sha256
>>> root = Path(tempfile.mkdtemp())
>>> (root / "photos" / "cat").mkdir(parents=True)
>>> Image.new("RGB", (32, 32), "teal").save(root / "photos" / "cat" / "one.png")
>>> shards = pack(photos_by_class(root / "photos"), root / "shards")
>>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()).eval()
>>> model = Model("mine", net, PhotoInput(size=8, resize=8), weights_sha256(net))
>>> spec, depths = specify(model, shards, layers=["0", "output"], k=6)
>>> outcome = run(spec, depths, model, shards, root / "run")
>>> [(row.layer, row.status, len(row.s)) for row in outcome.store.rows()]
[('0', 'ok', 6), ('output', 'ok', 6)]
>>> verify(open_run(root / "run")).problems
()
"""

from jvpsvd.survey.costs import DepthCost, depth_costs
from jvpsvd.survey.rows import SCHEMA, Row
from jvpsvd.survey.run import Outcome, run
from jvpsvd.survey.spec import Spec, choose_depths, specify
from jvpsvd.survey.store import Store, open_run
from jvpsvd.survey.verify import Verdict, verify
from jvpsvd.survey.watch import Look, on_stderr, unwatched

__all__ = [
    "SCHEMA",
    "DepthCost",
    "Look",
    "Outcome",
    "Row",
    "Spec",
    "Store",
    "Verdict",
    "choose_depths",
    "depth_costs",
    "on_stderr",
    "open_run",
    "run",
    "specify",
    "unwatched",
    "verify",
]
