"""What the tests share: processes, servers that follow a script, ledgers, bundles. Nothing here is a test."""
