"""Stage one: ways to learn a representation. Adding one is a file here and a word in `Learner`."""

from longtail.learners.plain import Plain

Learner = Plain  # a discriminated union like `Loss` as soon as there are two
