"""Runs as older versions began them."""

import json


def without_fields(folder, *names):
    """Let run.json of a run be that of a version which knew no such fields, nor checksums."""
    file = folder / "run.json"
    record = json.loads(file.read_text())
    for name in names:
        del record["identity"][name]
    del record["checksum"]
    file.write_text(json.dumps(record))
