"""How a process joins a ledger in PostgreSQL as one of its nodes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

from mailwatch import __version__
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.store.closed_ledger import check_not_closed, complete_succession
from mailwatch.store.data_dir import DataDirLock
from mailwatch.store.first_start import check_not_missing, prepare_database
from mailwatch.store.keys import remove_partial_files
from mailwatch.store.lease import Lease, session_name
from mailwatch.store.node_identity import node_identity
from mailwatch.store.postgres import PostgresPlace, check_server


def join(place: PostgresPlace, progress: StartupProgress, config: Mapping[str, str] | None = None) -> Lease:
    """Lock the data_dir for this process, prepare the database and the keys, and register this node.

    `config`: digests of the parts of its config, by name, which the others compare with theirs.
    From then on the place writes only while the lease is this node's. Raises DataDirLockedError, StoreError
    (DatabaseAwayError if another try is worthwhile), OSError.
    """
    progress.update(StartupStep.OPENING)
    place.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as undo:
        lock = DataDirLock(place.data_dir)
        undo.callback(lock.release)
        check_not_closed(place.data_dir)
        complete_succession(place.data_dir)
        remove_partial_files(place.data_dir)
        check_not_missing(place)
        node = node_identity(place.data_dir)
        place.name = session_name(node)
        made = place.unfenced_engine()
        undo.callback(made.dispose)
        check_server(place, made)
        keys = prepare_database(place, made, progress)
        lease = Lease(
            place.unfenced_engine,
            node,
            name=socket.gethostname(),
            version=__version__,
            origin=keys.origin,
            config=config,
        )
        undo.callback(lease.close)
        lease.register()
        lease.renew()
        undo.pop_all()
    made.dispose()
    place.lock, place.lease = lock, lease
    return lease


def leave(place: PostgresPlace) -> None:
    """End this node's lease, close its connections, and release the data_dir. Raises StoreError."""
    try:
        if place.lease is not None:
            place.lease.leave()
    finally:
        if place.lease is not None:
            place.lease.close()
        if place.lock is not None:
            place.lock.release()
        place.lease = place.lock = None
