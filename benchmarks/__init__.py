"""One module a figure that the documentation quotes, each against its baseline in the same run."""
