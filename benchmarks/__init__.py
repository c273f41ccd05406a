"""How MailWatch compares with its peers, measured in one run on one machine: `python -m benchmarks`.

Everything stays on the loopback address; every load is bounded in number and time.
"""

from __future__ import annotations

import os

# An installed MailWatch has compiled modules. Without them each command would compile all of its own again, which
# takes a second that no owner sees.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
