"""Code versions: what an asset holds beyond its inputs is decided by its settings and its code."""

from corgi_core.io.files import digest_of


def version(settings_digest: str, *, revision: int) -> str:
    """An asset's code version. Raise its `revision` with every change of source that changes what
    the asset holds: then Dagster knows it as stale, and unfinished trainings are not continued."""
    return f"{revision}-{digest_of(settings_digest)}"
