"""Speed and memory of the parts and of the whole, as rows of `results.csv`; `docs/performance.md` tells the story."""
