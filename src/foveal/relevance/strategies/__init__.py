"""Ways to choose which visual tokens a budget keeps, one file each; a file's name is what `strategy=` says."""
