"""One file a published layout: `examples(source, images)` yields what its files hold."""
