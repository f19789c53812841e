"""Benchmarks: fovea beside the tools people use today, on one machine, in alternation; medians, ratios, peak memory.

suite (what runs beside what) --> driver --JSON lines--> one persistent worker a variant, one active at a time
                                    |
                          summary --> table, results.json
"""
