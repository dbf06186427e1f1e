"""The library of the book on knowledge distillation.

One module answers to one chapter: `information` holds exact entropies and divergences, `data` the
bundled MNIST, `models` networks that return logits, `training` the one loop `fit`, `objectives` the
losses on logits, and `distiller` the `Distiller` that puts a teacher and a student together.
"""

__version__ = "0.1.0"
