#!/bin/sh
# Check an installation as the images' user: smoke.sh VENV VIDEO. It answers without network.
set -eu
bin=$1/bin
video=$2

"$bin/r2rt" --version
"$bin/r2rt" doctor --format json >/dev/null
"$bin/r2rt" ground "$video" "a panda" --format json --quiet |
    "$bin/python" -c 'import json, sys
best = json.load(sys.stdin)["results"][0]["moments"][0]
assert 52 < best["start_s"] < 56 and 60 < best["end_s"] < 65, best
print("a panda:", best)'
"$bin/python" -c 'import r2rt.service.app'
"$bin/python" -c 'import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ["torch", "pip"])))'
