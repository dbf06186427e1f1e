"""The library of the book on knowledge distillation.

One module answers to one chapter: `information` holds exact entropies and divergences, `data` image
sets on the device, `models` networks that return logits, `training` the one loop `fit`,
`objectives` the losses of logits, `distiller` the `Distiller` that puts a teacher and a student
together, and `analysis` the measures of what came out. `recipes` is what the chapters share.
"""

__version__ = "0.1.0"
