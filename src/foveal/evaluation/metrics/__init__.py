"""One file a metric that scores answers: what each question adds (`parts`), and the `FIGURES` that the sums give.

A metric of captions says so (`CAPTIONS = True`). Two files score other things by functions of their own: `retrieval`
and `average_precision`.
"""
