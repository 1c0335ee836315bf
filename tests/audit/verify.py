#!/usr/bin/env python3
"""Verifies an audit log of agent-guard by nothing but docs/audit.md: SHA-256, and `openssl` for the signatures.

    verify.py KEY.pub FILE…          the files in order, the oldest first; exit status 1 at the first that is wrong
"""

import base64, hashlib, json, subprocess, sys, tempfile

MARK = b',"fingerprint":{"algorithm":"SHA-256","algorithm_id":3,"value":"'


def signed_by(key_file, message, signature):
    with tempfile.NamedTemporaryFile() as text, tempfile.NamedTemporaryFile() as sign:
        text.write(message), text.flush(), sign.write(signature), sign.flush()
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key_file, "-rawin"]
        return subprocess.run(command + ["-in", text.name, "-sigfile", sign.name], stdout=-3).returncode == 0


def verify(key_file, lines):
    chain, number, previous, torn = None, 0, None, None
    for place, line in lines:
        body, _, rest = line.rpartition(MARK)
        value = hashlib.sha256(body).hexdigest()
        end = b'%s"}' % value.encode()
        try:
            event = json.loads(line)
            own = event["unmapped"]["agent_guard"]
            link = own["record_integrity"]
            signatures = link.get("signatures")
            if signatures:
                end += b',"signatures":[{"algorithm":"Ed25519","algorithm_id":99,"value":"%s"}]' % (
                    signatures[0]["value"].encode())
        except (ValueError, KeyError, TypeError):
            link = None
        if link is None or rest != end + b"}}}}\n":
            # Half a line is one thing that may be: where the checkpoint behind it tells of it.
            if torn is not None or not line.endswith(b"\n"):
                return f"{place}: altered"
            torn = line[:-1]
            continue
        told = own.get("checkpoint", {}).get("torn")
        if torn is not None and told != {"bytes": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}:
            return f"{place}: the line before is altered"
        torn, number, chain = None, number + 1, chain or link["chain_uid"]
        if link["uid"] != f"{chain}-{number}":
            return f"{place}: {link['uid']} where number {number} of chain {chain} is due"
        if link.get("prev_event", {}).get("fingerprint", {}).get("value") != previous:
            return f"{place}: goes on from another record"
        if signatures and not signed_by(key_file, b"agent-guard audit checkpoint v1 " + value.encode(),
                                        base64.b64decode(signatures[0]["value"])):
            return f"{place}: signed by another key"
        if number == 1 and not signatures:
            return f"{place}: begins without a checkpoint"
        previous = value
    return None if torn is None and number else "the log ends within a line, or is empty"


def numbered(files):
    for name in files:
        with open(name, "rb") as file:
            yield from ((f"{name}:{number}", line) for number, line in enumerate(file, 1))


if __name__ == "__main__":
    sys.exit(verify(sys.argv[1], numbered(sys.argv[2:])))
