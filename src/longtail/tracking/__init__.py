"""MLflow: one parent run per pipeline run, one nested run per executed stage. The only package that imports mlflow.

What the stages write is the source, MLflow a copy: a tracking server that is down or slow costs a sentence, never a
training, and `python -m longtail.tracking sync` sends what is missing.

Environment
    LONGTAIL_TRACKING=off    nothing is recorded and mlflow is not imported
    MLFLOW_TRACKING_URI      where; by default sqlite:///mlflow.db in the repository's root, artifacts in mlartifacts/
    MLFLOW_EXPERIMENT_NAME   "longtail" by default
    LONGTAIL_PARENT_RUN      id of the parent run that a flow has opened
    LONGTAIL_HOME            the root, where it is not $DVC_ROOT (clones of a repository that share its database)
"""

from longtail.tracking.stage import StageRun, close_parent, open_parent, stage_run

__all__ = ["StageRun", "close_parent", "open_parent", "stage_run"]
