"""Code versions: what an asset holds beyond its inputs is decided by its settings and its code."""

import dagster as dg

from corgi_core.files import digest_of


def version(settings_digest: str, *, revision: int) -> str:
    """An asset's code version. Raise its `revision` with every change of source that changes what
    the asset holds: then Dagster knows it as stale, and unfinished trainings are not continued."""
    return f"{revision}-{digest_of(settings_digest)}"


def code_version(context: dg.AssetExecutionContext) -> str:
    """The code version of the asset that is being materialised."""
    return context.assets_def.specs_by_key[context.asset_key].code_version or ""
