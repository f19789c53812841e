"""`python -m fovea`, which is what torchrun starts: torchrun --nproc-per-node 2 -m fovea run EXPERIMENT --out RUN."""

from fovea.cli import main

if __name__ == "__main__":
    main()
