"""Measure dia-ort against transformers and torch on this machine, everything in one run.

    python tools/bench.py                        # tiny random weights, under a minute
    python tools/bench.py --model full-random    # the 1.6B model with random weights, 1.5 h
    python tools/bench.py --from-json FILE --docs docs/performance.md   # render it again

Needs the `export` extra and the `dev` group. Every measurement runs in a process of its own, one
after another, and the rounds take turns over all contestants: a noisy neighbour hits all alike.
Absolute times move from machine to machine; the ratios are what counts. On the tiny model they
count for nothing: that form shows that the tool works, and what a step costs outside its weights.

Prints tables; `--json` keeps them with every raw sample, `--docs` writes them, and charts, into a
document. A slow figure is no failure; a measurement that fails is reported, and the exit code is 1.
"""

if __name__ == "__main__":
    # Here alone: the processes of the measurements import this file too, and are to load no more
    # than what they measure.
    from benchmark.command import main

    main()
