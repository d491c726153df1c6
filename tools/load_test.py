"""Put a server under load, and report what its clients saw.

    python tools/load_test.py --quick                       # some seconds, with the demo
    python tools/load_test.py --json build/load.json        # 1,000 requests, 64 at once
    python tools/load_test.py --url http://127.0.0.1:8000   # a server that runs already
    python tools/load_test.py -- --max-batch 4              # options for the server it starts

Requests arrive by chance at a given rate, whether the earlier ones are done or not (open loop), up
to so many at once. They have several lengths, formats and seeds; some clients leave in mid-stream,
some send nonsense. What was finished as pcm is spoken once more, alone, and must have the same
bits.

Needs the extra `serve` and the group `test`. Prints figures; `--json` keeps them with those of each
request, `--chart` draws them. The exit code is 1 if anything failed, leaked or differed; slowness
is no failure.
"""

if __name__ == "__main__":
    from loadtest.command import main

    main()
