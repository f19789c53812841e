"""From parts to files: examples chosen, histograms on one scale, neighbours; then the contexts they all share.

parts of one SAE --> evidence.parquet, links.parquet          contexts of all SAEs --> contexts-CORPUS
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fovea.features.cofiring import count_pairs
from fovea.features.collect import Reading
from fovea.features.config import FeaturesConfig
from fovea.features.examples import as_examples, choose, contexts_of, count_windows
from fovea.features.files import (
    CorpusEvidence,
    GroupRule,
    Ints,
    Paths,
    group_rules,
    write_contexts,
    write_evidence,
    write_links,
)
from fovea.features.histogram import rebinned
from fovea.features.links import Unembedding, nearest
from fovea.features.parts import Part
from fovea.sae.base import SAE


class Assembler:
    """Writes the evidence of one SAE after the other and remembers which contexts they show.

    Args:
        readings: Corpus name -> its text, as it was read.
    """

    def __init__(
        self, paths: Paths, config: FeaturesConfig, *, readings: Mapping[str, Reading], unembedding: Unembedding
    ) -> None:
        self._paths, self._config, self._readings, self._unembedding = paths, config, readings, unembedding
        self._contexts: dict[str, list[Ints]] = {corpus: [] for corpus in readings}

    @property
    def rules(self) -> tuple[GroupRule, ...]:
        """The groups of examples."""
        return group_rules(self._config.rank_edges)

    def write_job(self, job: str, sae: SAE, parts: Mapping[str, Part]) -> None:
        """Write evidence and links of one SAE; `parts` by corpus, the domain first."""
        highest = np.maximum.reduce([part.gathered.maxima for part in parts.values()])
        evidence = [self._corpus_evidence(corpus, part, highest) for corpus, part in parts.items()]
        write_evidence(self._paths.evidence(job), evidence)
        domain = next(iter(parts.values())).gathered
        n = self._config.neighbours
        together = count_pairs(domain.sampled_locations, domain.sampled_latents, d_sae=sae.d_sae, n_best=n)
        promoted, suppressed = self._unembedding.extremes(sae.W_dec, n=self._config.tokens_shown)
        lists = {
            "promoted": promoted,
            "suppressed": suppressed,
            "nearest": nearest(sae.W_dec, n=n),
            "cofiring": together.links,
        }
        write_links(self._paths.links(job), lists, {"cofiring_counts": together.counts})

    def write_contexts(self) -> None:
        """Write the contexts that the examples of all SAEs lie in."""
        for corpus, numbers in self._contexts.items():
            used = np.unique(np.concatenate([np.zeros(0, np.int64), *numbers]))
            write_contexts(self._paths, corpus, contexts_of(used, self._readings[corpus]))

    def _corpus_evidence(self, corpus: str, part: Part, highest: NDArray[np.float32]) -> CorpusEvidence:
        reading, gathered = self._readings[corpus], part.gathered
        entries, groups = choose(gathered, self.rules, per_group=self._config.per_group, reading=reading)
        windows = count_windows(entries.around, reading)
        examples = as_examples(entries, groups, windows=windows, context_size=reading.context_size)
        self._contexts[corpus].append(np.unique(examples.context))
        bins = rebinned(
            gathered.fine_counts, gathered.fine_exponents, highest=highest, n_bins=self._config.histogram_bins
        )
        return CorpusEvidence(
            part.totals.n_tokens, part.totals.n_documents, gathered.n_fired, gathered.maxima, bins, examples
        )
