"""Many photos at many depths: what to compute, doing it, and the folder that holds it.

>>> import tempfile
>>> from pathlib import Path
>>> from PIL import Image
>>> from torch import nn
>>> from jvpsvd import survey
>>> from jvpsvd.data import pack, photos_by_class
>>> from jvpsvd.networks import Model, PhotoInput, weights_sha256
>>> root = Path(tempfile.mkdtemp())
>>> (root / "photos" / "cat").mkdir(parents=True)
>>> Image.new("RGB", (32, 32), "teal").save(root / "photos" / "cat" / "one.png")
>>> shards = pack(photos_by_class(root / "photos"), root / "shards")
>>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh()).eval()
>>> model = Model("mine", net, PhotoInput(size=8, resize=8), weights_sha256(net))
>>> spec = survey.Spec(shards=shards, model=model, layers=["0", "output"], k=6, out=root / "run")
>>> survey.run(spec).computed, survey.run(spec).skipped
(1, 1)
>>> results = survey.open(root / "run")
>>> results.table()["status"].to_pylist()
['ok', 'ok']
>>> results.spectra("output").s.shape
(1, 6)
>>> survey.verify(results.store).problems
()
"""

from typing import TYPE_CHECKING, Any

from jvpsvd.imports import import_at_first_use, require
from jvpsvd.survey.renamed import find_renamed

require(
    "jvpsvd.survey",
    "survey",
    *("pyarrow", "filelock", "rich", "PIL", "webdataset", "fsspec", "braceexpand"),
)

if TYPE_CHECKING:
    from jvpsvd.survey.progress.display import (
        ReportProgress,
        RunProgress,
        ignore_progress,
        show_progress,
    )
    from jvpsvd.survey.progress.interruption import Interruption, interruptible
    from jvpsvd.survey.progress.status import Status, status
    from jvpsvd.survey.spec.costs import DepthCost, Forecast, depth_costs, forecast
    from jvpsvd.survey.spec.depth_choice import choose_depths
    from jvpsvd.survey.spec.devices import Device, device_named
    from jvpsvd.survey.spec.foretold import Foretold, foretell
    from jvpsvd.survey.spec.identity import Identity
    from jvpsvd.survey.spec.parse_options import parse_share, parse_vectors
    from jvpsvd.survey.spec.plan import identify
    from jvpsvd.survey.spec.selection import PhotoSelection
    from jvpsvd.survey.spec.spec import ENGINES, Spec
    from jvpsvd.survey.store.class_distances import ClassComparison, ClassDistances
    from jvpsvd.survey.store.compaction import compact
    from jvpsvd.survey.store.results import Counts, Results, Spectra, open_run
    from jvpsvd.survey.store.results import open_run as open  # survey.open(RUN) is how it reads
    from jvpsvd.survey.store.rows import SCHEMA, Row
    from jvpsvd.survey.store.store import Store, open_store
    from jvpsvd.survey.store.verify import Verification, verify
    from jvpsvd.survey.work.run import Outcome, run
else:
    import_at_first_use(__name__)

_RENAMED = {
    "Look": "RunProgress",
    "Verdict": "Verification",
    "Watch": "ReportProgress",
    "on_stderr": "show_progress",
    "unwatched": "ignore_progress",
}


def __getattr__(name: str) -> Any:
    return find_renamed(__name__, name, _RENAMED)


__all__ = [
    "ENGINES",
    "SCHEMA",
    "ClassComparison",
    "ClassDistances",
    "Counts",
    "DepthCost",
    "Device",
    "Forecast",
    "Foretold",
    "Identity",
    "Interruption",
    "Outcome",
    "PhotoSelection",
    "ReportProgress",
    "Results",
    "Row",
    "RunProgress",
    "Spec",
    "Spectra",
    "Status",
    "Store",
    "Verification",
    "choose_depths",
    "compact",
    "depth_costs",
    "device_named",
    "forecast",
    "foretell",
    "identify",
    "ignore_progress",
    "interruptible",
    "open",
    "open_run",
    "open_store",
    "parse_share",
    "parse_vectors",
    "run",
    "show_progress",
    "status",
    "verify",
]
