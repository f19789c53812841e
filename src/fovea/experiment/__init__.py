"""The one place that builds everything: settings -> corpora, stream, jobs, evaluation, report; one run folder each."""
