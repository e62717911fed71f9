"""Where labelled images come from: each module turns one source into named splits of samples."""
