"""Where models run that are not asked here: files for clusters, as plain data with a reason beside each choice."""
