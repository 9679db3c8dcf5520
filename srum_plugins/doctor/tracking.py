"""Whether the MLflow store of a run can be used. Nothing is created there."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from srum_plugins.doctor.finding import Finding
from srum_plugins.doctor.storage import existing
from srum_plugins.tracking.mlflow_run import sqlite_file

SECONDS = 3.0
"""How long a server may take to answer."""
MEND = "start it, set tracking.uri to a store that can be reached, or go without: tracking.enabled=false"


def store(uri: str) -> Iterator[Finding]:
    """An MLflow store by its URI: the file of SQLite is looked into, a server is asked whether it is well."""
    check, shown = "tracking", _safe(uri)
    database = sqlite_file(uri)
    if database is None and not uri.startswith(("http://", "https://")):
        yield Finding(check, "warning", f"{shown}: only SQLite files and servers are tried, this is neither")
        return
    try:
        says = _server(uri) if database is None else _sqlite(database)
    except Exception as error:  # sqlite3, the HTTP client and the file system raise what they like
        yield Finding(check, "problem", f"{shown} cannot be used: {str(error) or type(error).__name__}", MEND)
    else:
        yield Finding(check, "ok", f"{shown}: {says}")


def _sqlite(file: Path) -> str:
    for needed in (file, existing(file.parent)) if file.exists() else (existing(file.parent),):
        if not os.access(needed, os.W_OK):
            raise PermissionError(f"{needed} may not be written")
    if not file.exists():
        return "not there yet, the first run creates it"
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=SECONDS)) as connection:
        tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        if "runs" not in tables:
            raise ValueError("it is a database, and no store of MLflow")
        (runs,) = connection.execute("select count(*) from runs").fetchone()
    return f"runs kept there: {runs}"


def _server(uri: str) -> str:
    import httpx2

    answer = httpx2.get(f"{uri.rstrip('/')}/health", timeout=SECONDS, follow_redirects=True)
    if not answer.is_success:  # not raise_for_status, whose words have the password
        raise ConnectionError(f"it answers {answer.status_code} {answer.reason_phrase} to /health")
    return "the server answers"


def _safe(uri: str) -> str:
    """A URI without its password."""
    before, at, after = uri.rpartition("@")
    return f"{before.partition('://')[0]}://***@{after}" if at else uri
