"""The library of the book on knowledge distillation.

One module answers to one chapter:

- `information` exact entropies and divergences, `estimators` and `bounds` those from samples;
- `data` image sets on the device (`mnist_files` the bundled one), `models` networks that return
  logits, `training` the one loop `fit`, `checkpoints` what it saves;
- `objectives` losses of logits, `features` of layers (which `layers` reads), `relations` between
  samples or layers;
- `distiller` the `Distiller` that puts a teacher and a student together, `many` the same for many
  students at once, `peers` students that teach each other, and ensembles;
- `analysis` and `calibration` measures of what came out, `efficiency` what it costs;
- `recipes` what the chapters share, `records` results of long runs, `plots` and `interactive`
  figures, `checks` the checkers of the exercises.
"""

__version__ = "0.1.0"
