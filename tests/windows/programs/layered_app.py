"""An application that starts the real compatibility layer for Python: layered_app.py FOLDER.

FOLDER is where the layer's package lies. The layer starts what DD_SERVERLESS_COMPAT_PATH names,
which inherits our standard streams. The application ends when its standard input does.
"""

from __future__ import annotations

import sys

sys.path.append(sys.argv[1])

from datadog_serverless_compat import start

start()
sys.stdin.read()
