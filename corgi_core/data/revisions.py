"""Revisions of the code behind data and arrays: raised when it gives other results.

The assets take their code versions from here, and so do DVC's stages, the gate's own records and
the stores of arrays: what is raised is computed again, shard by shard, and what depends on it.
"""

INGEST_REVISION = 4
GATE_REVISION = 4

PIXELS_REVISION = 3
IMAGE_EMBEDDING_REVISION = 3
PRECOMPUTED_EMBEDDING_REVISION = 3
TEXT_EMBEDDING_REVISION = 3
PERCEPTUAL_HASHES_REVISION = 2

SAMPLED_EMBEDDINGS_REVISION = 1
PREDICTION_SCORES_REVISION = 1
PICTURE_FEATURES_REVISION = 1
TRAINING_NEIGHBOURS_REVISION = 1
EVALUATION_JOBS = (
    SAMPLED_EMBEDDINGS_REVISION,
    PREDICTION_SCORES_REVISION,
    PICTURE_FEATURES_REVISION,
    PERCEPTUAL_HASHES_REVISION,
    TRAINING_NEIGHBOURS_REVISION,
)
