"""Reads what a W&B run has written to disk: records of protobuf in blocks, as in LevelDB's log."""

import json
from pathlib import Path

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER, _FILE_HEADER = 32 * 1024, 7, 7


def records(folder):
    """Yield the records of an offline run's folder."""
    (path,) = Path(folder).glob("run-*.wandb")
    content = path.read_bytes()
    place, parts = _FILE_HEADER, []
    while place + _HEADER <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:  # nothing begins so near to a block's end
            place += left
            continue
        length = int.from_bytes(content[place + 4 : place + 6], "little")
        kind = content[place + 6]  # whole, first, middle, last
        parts.append(content[place + _HEADER : place + _HEADER + length])
        place += _HEADER + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def history(folder):
    """Return the rows that were logged, each a dictionary; what has parts is one too."""
    rows = []
    for record in records(folder):
        if record.HasField("history"):
            row = {}
            for item in record.history.item:
                first, *rest = [item.key] if item.key else item.nested_key
                value = json.loads(item.value_json)
                if rest:
                    row.setdefault(first, {})["/".join(rest)] = value
                else:
                    row[first] = value
            rows.append(row)
    return rows


def artifacts(folder):
    """Return what was kept of checkpoints: of each the aliases, the name of its file, and the file's size."""
    found = []
    for record in records(folder):
        if record.HasField("request") and record.request.HasField("log_artifact"):
            artifact = record.request.log_artifact.artifact
        elif record.HasField("artifact"):
            artifact = record.artifact
        else:
            continue
        if artifact.type != "model":  # a table is one, too
            continue
        (entry,) = artifact.manifest.contents
        found.append((list(artifact.aliases), json.loads(artifact.metadata)["original_filename"], entry.size))
    return found


def config(folder):
    """Return the run's configuration."""
    found = {}
    for record in records(folder):
        for update in [record.config, record.run.config]:
            for item in update.update:
                found[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return found
