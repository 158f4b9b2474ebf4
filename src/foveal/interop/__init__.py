"""Foveal beside other libraries: what a user of transformers keeps using, with Foveal inside."""
