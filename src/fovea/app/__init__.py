"""The local web app over a run folder: explorer of features, and the pages of raters. Needs the extra `app`."""
