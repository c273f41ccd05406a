"""Which node of a shared ledger this data_dir is: a random id in a file of its own."""

from __future__ import annotations

import json
import secrets
import socket
from pathlib import Path

from mailwatch.files import write_atomic

NODE_FILE = "node"


def node_identity(data_dir: Path) -> str:
    """Return this node's id, 16 hex digits, made at the first start. Raises OSError.

    A copy of the data_dir is another node: the file names the host, and the folder's inode there. Two nodes of one
    id would end each other's lease.
    """
    here = {"host": socket.gethostname(), "folder": data_dir.stat().st_ino}
    path = data_dir / NODE_FILE
    try:
        kept = json.loads(path.read_bytes())
        if {name: kept[name] for name in here} == here and len(str(kept["id"])) == 16:
            return str(kept["id"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    made = secrets.token_hex(8)
    write_atomic(path, json.dumps({"id": made, **here}).encode())
    return made
