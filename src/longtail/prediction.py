"""The loader of models that were logged before serving had a room, under the name that stands in them.

Such a model brings its own code; in a process that has imported this package already, that code is not looked at.
"""

from longtail.serving.predictor import _load_pyfunc

__all__ = ["_load_pyfunc"]
