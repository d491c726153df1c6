"""Makes the demonstration model: data, codec, model, artifacts, figures.

python tools/demo_voice            # all of it, into build/demo-voice
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # tools/, where the package is
    from demo_voice.command import main

    main()
