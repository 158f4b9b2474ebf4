"""What training makes small: each file is an objective, found by its name.

An objective is a function `(model, batch) -> (sum of loss, count)`; the loop divides a step's sums by its counts
once, so that any split of a step into batches and processes gives the same gradient. A third entry may name the
parts of the sum for the log: `{"cells": (sum, count)}`. One that compares the rows of a whole step is an `Across`.
What it wants of the model and of the data its file says as `WANTS`, or by `wants(settings)` where its settings change
that: see `foveal.training.wants`.
"""
