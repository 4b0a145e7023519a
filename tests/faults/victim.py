"""Commands of `wherry`, each in a process of its own that may be killed or whose disk may fail.

Started by support_victim.py under the shim: everything is imported once, and each command is
a fork of that. Speaks JSON lines.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tuf.api.serialization.json  # noqa: F401 - so that forks need not
from securesystemslib.signer import CryptoSigner
from support_shim import Page

import wherry.cli.bundle
import wherry.cli.release
import wherry.cli.serve
import wherry.release
import wherry.server.app
import wherry.server.drop
import wherry.signers  # noqa: F401 - likewise
from wherry.cli import run

COUNTED = ("count", "asked", "failed")
CLEAR = (*COUNTED, "armed", "begun", "killed", "kill_at", "fail_at", "per_million", "reads")


def carry_out(page: Page, asked: dict[str, Any]) -> None:
    """Be the command; never comes back."""
    code = 99
    try:
        for number in (1, 2):
            os.dup2(os.open(asked["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        page.watch(Path(asked["root"]))
        page.set(main=os.getpid(), armed=1, **asked["page"])
        code = run(asked["words"])
        page.set(armed=0)
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    """Answer until nobody asks: one line starts a command, the next waits for its end."""
    CryptoSigner.generate_ed25519()  # loads what signs
    page, child = Page.of_this_process(), 0
    for line in sys.stdin:
        if asked := json.loads(line):
            page.set(**dict.fromkeys(CLEAR, 0))
            child = os.fork()
            if not child:
                carry_out(page, asked)
            told = {"pid": child}
        else:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            page.set(armed=0)
            told = {"code": status} | {name: page.get(name) for name in COUNTED}
        print(json.dumps(told), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
