"""One file a published layout: `examples(source, images, split)` yields what its files hold.

`FILES` names them as they lie in the published folder: the first of these sets of which there is a file is read.
"""
