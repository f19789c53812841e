"""The report: what a finished run says, in words, figures and tables, read from the run folder alone."""
