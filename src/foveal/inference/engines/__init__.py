"""What computes graphs, one file each: `check` what it needs, `write` a piece, and `opened` as a `Graph`."""
