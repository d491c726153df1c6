"""Check and measure dia-ort on an NVIDIA GPU, against transformers on the same one.

    python tools/gpu_check.py --json build/gpu.json                  # all of it
    python tools/gpu_check.py --parts gate,steps --budget-minutes 9  # a part of it
    python tools/gpu_check.py --provider cpu --model tiny-random     # does the tool work?

Exports the 1.6B model with random weights, kept for the next run; every part then runs in a process
of its own. Needs numpy, torch, transformers, onnx, onnxscript, safetensors and onnxruntime-gpu.

Prints figures and targets; `--json` is written after every part. A part that fails is reported, the
rest goes on, and the exit code is 1. A slow figure is no failure.
"""

if __name__ == "__main__":
    # Here alone: the processes of the parts import this file too.
    from gpucheck.command import main

    main()
