"""What training makes small: each file is an objective, found by its name.

An objective is a function `(model, batch) -> (sum of loss, count)`; the loop divides a step's sums by its counts
once, so that any split of a step into batches and processes gives the same gradient. A third entry may name the
parts of the sum for the log: `{"cells": (sum, count)}`. One that compares the rows of a whole step is an `Across`.
`FOR` names the assemblies whose models learn by it, `SPENDS` says that an allocator spends for it, and
`heads(settings)` which heads it teaches, where that is not its setting `head`.
"""
